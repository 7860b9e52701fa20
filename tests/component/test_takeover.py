"""Takeover and recovery on a real stream that was lost: pods are fenced before the new epoch is stored, whoever dies when."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_bus import Bus, BusConfig
from shoal_contracts import streams
from shoal_contracts.decision import Decision, Verb
from shoal_kube import Unreachable
from shoal_kube.errors import from_response
from shoal_scheduler.app import Config
from shoal_scheduler.commit import Deposed, stored_epoch, take_epoch
from shoal_scheduler.ledger import Phase
from shoal_scheduler.loop import Loop
from shoal_service.main import Context
from shoal_testkit.nats import NatsServer
from shoal_testkit.small import CLASSES, node, queue, work

PODS = 5


class Died(BaseException):
    """The process ends here."""


class Kube:
    """Takes marks; ``dies_after`` so many the leader is gone, ``away`` times the API does not answer."""

    def __init__(self, bus: Bus, dies_after: int = 1 << 30, away: int = 0, forbids: str = "") -> None:
        self._bus, self._dies, self._away, self._forbids = bus, dies_after, away, forbids
        self._asked = 0
        self.marks: dict[str, str] = {}
        self.epochs: list[tuple[int, int]] = []
        """The stream's record at each mark."""

    async def merge_patch(self, path: str, patch: Any) -> bytes:
        if self._away:
            self._away -= 1
            raise Unreachable(0, "away", "no answer")
        if self._asked >= self._dies:
            raise Died
        self._asked += 1
        if self._forbids and path.endswith(self._forbids):
            raise from_response(403, b"{}", None)
        self.epochs.append(await stored_epoch(self._bus, "default"))
        (self.marks[patch["metadata"]["uid"]],) = patch["metadata"]["annotations"].values()
        return msgspec.json.encode({"metadata": patch["metadata"], "spec": {"containers": []}})


class Election:
    """A Lease that remembers the last epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    async def raise_epoch(self, above: int) -> int:
        self.epoch = max(self.epoch, above) + 1
        return self.epoch

    def valid(self) -> bool:
        return True


class Log:
    """Keeps the errors."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, text: str, **_: Any) -> None:
        self.errors.append(text)

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    info = debug = warning = _nothing


def leader(bus: Bus, kube: Kube, election: Election, tasks: asyncio.TaskGroup, name: str) -> Loop:
    """A leader that knows some pods, of which none is placed."""
    clock = SimpleNamespace(now=lambda: 1.0, monotonic=lambda: 1.0)
    context = Context("scheduler", Config(), bus, clock, Log(), tasks, None, name)  # type: ignore[arg-type]
    mute: Any = SimpleNamespace(need_starts=lambda *_: None, uids=None)
    loop = Loop(context, kube, mute, mute, mute)  # type: ignore[arg-type]
    loop._mark = 1 << 62
    loop._election, loop._tasks = election, tasks  # type: ignore[assignment]
    for record in (*CLASSES, queue("q"), node("n", 8), *work("w", pods=PODS)):
        loop._journal.apply(record)
    return loop


@contextlib.asynccontextmanager
async def stream():
    with NatsServer() as server:
        async with Bus.connect(BusConfig(server.url, "scheduler")) as bus, asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            await bus.ensure(streams.STREAMS, streams.CONSUMERS)
            yield bus, tasks


@pytest.mark.parametrize("step", range(PODS + 1))
async def test_what_a_leader_that_died_did_not_fence_its_successor_does(step: int) -> None:
    async with stream() as (bus, tasks):
        election = Election(7)
        first = Kube(bus, dies_after=step)
        with contextlib.suppress(Died, BaseExceptionGroup):
            await leader(bus, first, election, tasks, "first")._take_over()
        assert len(first.marks) <= step
        assert set(first.epochs) <= {(0, 0)}, "no epoch is stored before all is fenced"
        second = Kube(bus)
        await leader(bus, second, election, tasks, "second")._take_over()
        reached = step == PODS
        assert second.marks == {} if reached else second.marks == {f"w-{i}": "before-9" for i in range(PODS)}
        assert (await stored_epoch(bus, "default"))[0] == 9


async def test_an_api_that_is_away_is_waited_for_and_a_pod_that_nobody_may_mark_waits() -> None:
    async with stream() as (bus, tasks):
        kube = Kube(bus, away=3, forbids="w-2")
        loop = leader(bus, kube, Election(7), tasks, "one")
        await loop._take_over()
        assert sorted(kube.marks) == ["w-0", "w-1", "w-3", "w-4"]
        assert [uid for uid, p in loop._cluster.pods.items() if p.barred] == ["w-2"]
        assert any("w-2" in repr(s) for s in loop._journal._steps), "the log has it too"


async def test_a_first_leader_fences_nothing() -> None:
    async with stream() as (bus, tasks):
        kube = Kube(bus)
        await leader(bus, kube, Election(0), tasks, "one")._take_over()
        assert kube.marks == {}


async def opened(bus: Bus, kube: Kube, tasks: asyncio.TaskGroup) -> Loop:
    """A leader with open decisions."""
    await take_epoch(bus, "default", 3, "before", 0.0)
    loop = leader(bus, kube, Election(3), tasks, "one")
    await loop._take_over()
    made = [
        Decision(id=f"4-1-{i}", verb=(Verb.BIND, Verb.EVICT)[i], namespace="ns", pod=f"w-{i}", uid=f"w-{i}", node="n", epoch=4)
        for i in range(2)
    ]
    loop._do(loop._ledger.decided(made, 1.0))
    for decision in made:
        loop._do(loop._ledger.committed(decision.uid, 5, 1.0))
    return loop


async def empty(bus: Bus) -> None:
    """The stream is lost."""
    await bus._connection.js.delete_stream(streams.DECISION.name)


@pytest.mark.parametrize("step", [0, 1, 9])
async def test_a_recovering_leader_fences_what_is_open_before_it_stores_its_epoch(step: int) -> None:
    async with stream() as (bus, tasks):
        kube = Kube(bus, dies_after=step)
        loop = await opened(bus, kube, tasks)
        await empty(bus)
        with contextlib.suppress(Died, BaseExceptionGroup):
            await loop._recover()
        assert set(kube.epochs[:2]) <= {(0, 0)}
        assert ((await stored_epoch(bus, "default"))[0] > 0) == (step == 9)


async def test_the_same_epoch_under_another_sequence_is_a_lost_stream_once() -> None:
    async with stream() as (bus, tasks):
        loop = await opened(bus, Kube(bus), tasks)
        await empty(bus)
        await bus.ensure(streams.STREAMS, streams.CONSUMERS)
        assert loop._committer is not None
        await take_epoch(bus, "default", loop._committer.epoch, "one", 0.0)
        await loop._recover()
        assert (loop._committer.epoch, loop._committer.epoch_seq) == await stored_epoch(bus, "default")
        assert loop._committer.epoch == 5
        await loop._committer._check_epoch()
        assert {e.phase for e in loop._ledger.entries.values()} <= {Phase.GIVING_UP}


async def test_a_deposed_leader_does_not_wait_for_ever() -> None:
    async with stream() as (bus, tasks):
        loop = await opened(bus, Kube(bus), tasks)
        await empty(bus)
        await bus.ensure(streams.STREAMS, streams.CONSUMERS)
        assert loop._election is not None

        async def late(above: int) -> int:
            await take_epoch(bus, "default", 99, "another", 0.0)
            return 5

        loop._election.raise_epoch = late  # type: ignore[method-assign]
        with pytest.raises(Deposed):
            await loop._recover()
