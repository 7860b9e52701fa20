"""The log of inputs: in order, in messages that the bus takes, and honest about what it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_client.replay import replay
from shoal_contracts.base import encode, kind_of
from shoal_contracts.journal import Decided, Input
from shoal_core import Cluster, Settings, cycle
from shoal_scheduler import journal
from shoal_scheduler.journal import Journal
from shoal_testkit.small import CLASSES, node, queue, work


class Shelf:
    """Takes what is published, the first ``failures`` times not."""

    def __init__(self, failures: int = 0) -> None:
        self.taken: list[Input | Decided] = []
        self.bus = self
        self.config = SimpleNamespace(shard="default")
        self._failures = failures

    async def publish(self, subject: str, message: Any) -> None:
        if self._failures:
            self._failures -= 1
            raise ConnectionError
        assert subject == f"shoal.v1.log.default.{'input' if isinstance(message, Input) else 'decision'}"
        self.taken.append(message)

    async def retry(self, name: str, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await what()
            except ConnectionError:
                await asyncio.sleep(0)


async def published(kept: Journal) -> None:
    """Let the journal publish all that it has."""
    task = asyncio.create_task(kept.run())
    for _ in range(500):
        await asyncio.sleep(0)
    task.cancel()


def decide(kept: Journal, cluster: Cluster, number: int) -> None:
    kept.begins(number, 5.0)
    kept.ended(number, cycle(cluster, now=5.0))


async def test_what_was_done_is_told_in_order_and_survives_a_bus_that_is_away() -> None:
    shelf, cluster = Shelf(failures=3), Cluster(Settings())
    kept = Journal(shelf, cluster)  # type: ignore[arg-type]
    kept.begin()
    for record in (*CLASSES, queue("q"), node("a", 4), *work("w")):
        kept.apply(record)
    kept.bar("w-0", True)
    decide(kept, cluster, 0)
    kept.bar("w-0", False)
    decide(kept, cluster, 1)
    await published(kept)
    first, held, second, started = shelf.taken
    assert isinstance(first, Input)
    assert isinstance(second, Input)
    assert isinstance(held, Decided)
    assert isinstance(started, Decided)
    assert len(first.steps) == len(CLASSES) + 5
    assert first.settings
    assert first.last
    assert not second.settings
    assert (held.starts, started.starts) == (0, 1)


async def test_large_inputs_are_parted_and_only_the_last_part_runs_the_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LARGEST", 4096)
    shelf, cluster = Shelf(), Cluster(Settings())
    kept = Journal(shelf, cluster)  # type: ignore[arg-type]
    kept.begin()
    for i in range(300):
        kept.apply(node(f"node-{i}", 4))
    decide(kept, cluster, 0)
    await published(kept)
    inputs = [m for m in shelf.taken if isinstance(m, Input)]
    assert all(len(encode(m)) <= 2 * 4096 for m in inputs)
    assert [s.record.name for m in inputs for s in m.steps] == [f"node-{i}" for i in range(300)]  # type: ignore[union-attr]
    assert [m.last for m in inputs] == [False] * (len(inputs) - 1) + [True]
    assert [bool(m.settings) for m in inputs] == [True] + [False] * (len(inputs) - 1)


async def test_what_the_bus_does_not_take_is_dropped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST", 5)
    shelf, cluster = Shelf(), Cluster(Settings())
    kept = Journal(shelf, cluster)  # type: ignore[arg-type]
    kept.begin()
    for number in range(3):
        for i in range(3):
            kept.apply(node(f"node-{number}-{i}", 4))
        decide(kept, cluster, number)
    await published(kept)
    kept.apply(node("later", 4))
    decide(kept, cluster, 3)
    await published(kept)
    assert [(m.cycle, len(m.steps), m.gap) for m in shelf.taken if isinstance(m, Input)] == [(0, 3, 0), (3, 1, 6)]


PODS = [*work("a", gpus=2, pods=2), *work("b", gpus=3), *work("c", gpus=1, nodes=["n"])]
THINGS = [*CLASSES, queue("q", gpu=6), node("n", 4), node("m", 8), *PODS]
NEWS = st.lists(st.tuples(st.sampled_from(THINGS), st.booleans()), max_size=40)


@given(NEWS)
def test_the_log_of_a_standby_begins_with_what_stands_and_comes_to_the_same(news: list[tuple[Any, bool]]) -> None:
    shelf, cluster = Shelf(), Cluster(Settings())
    kept = Journal(shelf, cluster)  # type: ignore[arg-type]
    for record, there in [*news, *((r, True) for r in THINGS[:4])]:
        if there:
            kept.apply(record)
        else:
            kept.remove(kind_of(record).partition(".")[0], getattr(record, "namespace", ""), record.name)
    kept.begin()
    decide(kept, cluster, 0)
    asyncio.run(published(kept))
    found = replay(shelf.taken)
    assert (found.cycles, found.different) == (1, [])


async def test_pauses_of_refused_victims_and_of_pods_are_replayed() -> None:
    shelf, cluster = Shelf(), Cluster(Settings(most_moved=-1))
    kept = Journal(shelf, cluster)  # type: ignore[arg-type]
    kept.begin()
    for name in ("x", "y"):
        for record in work(name, "r", gpus=2, nodes=["n"]):
            kept.apply(record)
    for record in (*CLASSES, queue("q", gpu=4), queue("r", gpu=0), node("n", 4), *work("w", gpus=2)):
        kept.apply(record)
    for number, (uid, on) in enumerate([("x-0", True), ("y-0", True), ("x-0", False), ("y-0", False)]):
        kept.set_eviction_backoff(uid, on, "no")
        kept.bar("w-0", number == 1)
        decide(kept, cluster, number)
    await published(kept)
    decided = [m for m in shelf.taken if isinstance(m, Decided)]
    assert [m.evictions for m in decided] == [1, 0, 0, 0]
    found = replay(shelf.taken)
    assert (found.cycles, found.different) == (4, [])
