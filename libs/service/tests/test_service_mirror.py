"""The mirror on a real NATS: complete before it is told, and never half filled when the stream was made anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from shoal_bus import Bus, BusConfig, Item
from shoal_contracts import streams, subjects
from shoal_contracts.base import encode
from shoal_contracts.decision import Header
from shoal_contracts.state import NodeRecord, SyncMark
from shoal_service import aside
from shoal_service.mirror import mirror
from shoal_testkit.nats import NatsServer


class Log:
    """Collects warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, event: str, **details: Any) -> None:
        self.said.append(f"{event}: {details}")


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with Bus.connect(BusConfig(server.url, "test")) as connected:
        await connected.ensure([streams.STATE])
        yield connected


class Reader:
    """A mirror of nodes, read in the background."""

    def __init__(self, bus: Bus) -> None:
        self.held: set[str] = set()
        self.current, self.log = 0, Log()
        self._news = asyncio.Event()
        context: Any = SimpleNamespace(bus=bus, config=SimpleNamespace(shard="default"), log=self.log)
        self.task = asyncio.create_task(self._run(context))

    async def _run(self, context: Any) -> None:
        async for news in mirror(context, ["node"]):
            if news.record is not None:
                self.held.add(news.names[0])
            elif news.kind:
                self.held.discard(news.names[0])
            self.current += news.current
            self._news.set()

    async def until(self, held: str, current: int = 0) -> None:
        async with asyncio.timeout(20):
            while self.held != set(held) or self.current < current:
                self._news.clear()
                await self._news.wait()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def put(name: str) -> Item:
    return Item(subjects.state("node", name), encode(NodeRecord(name=name)))


async def fill(bus: Bus, names: str) -> None:
    await bus.publish_many([put(n) for n in names])
    await bus.publish(subjects.state("meta", "synced"), SyncMark())


async def test_a_late_reader_gets_all_and_then_what_changes(bus: Bus) -> None:
    await fill(bus, "abc")
    reader = Reader(bus)
    await reader.until("abc", current=1)
    await bus.publish_many([put("d"), Item(subjects.state("node", "a"), b"", {Header.DELETED: "1"})])
    await reader.until("bcd")
    await reader.end()


async def test_before_the_mark_nothing_is_told(bus: Bus) -> None:
    await bus.publish_many([put("a")])
    reader = Reader(bus)
    await asyncio.sleep(0.3)
    assert (reader.held, reader.current) == (set(), 0)
    await fill(bus, "b")
    await reader.until("ab", current=1)
    await reader.end()


async def test_an_emptied_stream_deletes_nothing_until_it_is_whole_again(server: NatsServer, bus: Bus) -> None:
    await fill(bus, "abc")
    reader = Reader(bus)
    await reader.until("abc", current=1)
    before = reader.current
    server.kill()
    server.wipe()
    server.start()
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.ensure([streams.STATE])
                await bus.publish_many([put("b")])
                break
            except Exception:
                await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    assert reader.held == set("abc")
    await fill(bus, "bd")
    await reader.until("bd", current=before + 1)
    await reader.end()


async def test_what_does_not_decode_is_put_aside_and_the_rest_goes_on(bus: Bus) -> None:
    await bus.publish_many([Item(subjects.state("node", "odd"), b'{"kind":"node.v1","name":5}')])
    await fill(bus, "a")
    reader = Reader(bus)
    await reader.until("a", current=1)
    assert any("message put aside" in text and "odd" in text for text in reader.log.said)
    assert aside.ASIDE[-1]["subject"].endswith(".odd")
    await reader.end()
