"""Annotations of pod groups: the newest wins, also where an older write fails late."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shoal_core import CycleResult, cycle
from shoal_core.results import Eviction, Gang, Staleness
from shoal_kube import Conflict, KubeError
from shoal_model import labels, shards
from shoal_scheduler import marks
from shoal_scheduler.app import Config
from shoal_scheduler.journal import Journal
from shoal_scheduler.loop import Loop
from shoal_scheduler.marks import Marks
from shoal_service.mirror import News
from shoal_testkit import small


async def test_a_write_that_fails_late_does_not_bring_an_older_mark_back(monkeypatch: Any) -> None:
    monkeypatch.setattr(marks, "PAUSE", 0.02)
    written: list[str | None] = []
    go_on = asyncio.Event()

    async def patch(path: str, body: Any) -> bytes:
        written.append(body["metadata"]["annotations"][labels.STALE_SINCE])
        if len(written) == 1:
            await go_on.wait()
            raise KubeError(0, "Unreachable", "no answer")
        return b""

    log = SimpleNamespace(info=lambda *_, **__: None)
    context: Any = SimpleNamespace(clock=SimpleNamespace(now=lambda: 0.0), log=log)
    found = Marks(context, SimpleNamespace(merge_patch=patch), SimpleNamespace(event=lambda *_: None))  # type: ignore[arg-type]
    task = asyncio.create_task(found.run())
    for since in (1.0, 0.0):
        result = CycleResult()
        result.stale.append(Staleness("ns", "g", since))
        found.cycle(result)
        await asyncio.sleep(0.06)
    go_on.set()
    await asyncio.sleep(0.1)
    assert not task.done()
    assert written == ["1970-01-01T00:00:01Z", None]
    task.cancel()


def _marks(patch: Any = None) -> Marks:
    context: Any = SimpleNamespace(clock=SimpleNamespace(now=lambda: 100.0), log=SimpleNamespace(info=lambda *_, **__: None))
    return Marks(context, SimpleNamespace(merge_patch=patch), SimpleNamespace(event=lambda *_: None))  # type: ignore[arg-type]


def _start(name: str) -> CycleResult:
    return CycleResult(gangs=[Gang("ns", name, "q", (), True)])


def test_starts_are_written_once_a_minimum_runtime_needs_them() -> None:
    found = _marks()
    found.cycle(_start("early"))
    assert not found._open
    found.need_starts([(("ns", "early"), 40.0)])
    found.need_starts([(("ns", "other"), 41.0)])
    found.cycle(_start("late"))
    assert found._open == {
        ("ns", "early"): {labels.LAST_START: "1970-01-01T00:00:40Z"},
        ("ns", "late"): {labels.LAST_START: "1970-01-01T00:01:40Z"},
    }


@pytest.mark.parametrize("name", ["preemptMinRuntime", "reclaimMinRuntime"])
async def test_a_default_minimum_runtime_needs_them_without_any_queue(name: str) -> None:
    options = shards.read({"minRuntime": {name: "5m"}})
    for policy, written in ((options.policy, True), ({}, False)):
        context: Any = SimpleNamespace(
            config=Config(policy=policy, flags=options.flags), clock=SimpleNamespace(now=lambda: 0.0), log=None,
            name="scheduler", bus=None,
        )  # fmt: skip
        found = _marks()
        Loop(context, None, None, found, None)  # type: ignore[arg-type]
        found.cycle(_start("g"))
        assert bool(found._open) is written


async def test_a_queue_that_gets_one_marks_what_runs(monkeypatch: Any) -> None:
    monkeypatch.setattr(Journal, "apply", lambda self, record: self._cluster.apply(record))
    found = _marks()
    context: Any = SimpleNamespace(
        config=Config(), clock=SimpleNamespace(now=lambda: 0.0), log=None, name="scheduler", bus=None
    )
    loop = Loop(context, None, None, found, None)  # type: ignore[arg-type]
    for record in (small.queue("q"), small.node("n"), *small.work("g")):
        loop._cluster.apply(record)
    found.cycle(cycle(loop._cluster, now=50.0))
    assert not found._open
    loop._news(News("queue", ("q",), small.queue("q", reclaim_min_runtime=60.0), {}))
    assert found._open == {("ns", "g"): {labels.LAST_START: "1970-01-01T00:00:50Z"}}


async def test_a_group_made_again_gets_no_annotation_of_the_one_before(monkeypatch: Any) -> None:
    monkeypatch.setattr(marks, "PAUSE", 0.01)
    written: list[Any] = []
    done = asyncio.Event()

    async def patch(path: str, body: Any) -> bytes:
        written.append(body["metadata"])
        done.set()
        raise Conflict(409, "Conflict", "the UID in the precondition (one) does not match the UID in record (two)")

    found = _marks(patch)
    found.uids = lambda key: "one"
    found.need_starts()
    found.cycle(_start("g"))
    task = asyncio.create_task(found.run())
    await asyncio.wait_for(done.wait(), 30)
    await asyncio.sleep(0.05)
    assert not task.done()
    assert [m["uid"] for m in written] == ["one"], "and it is not tried again"
    task.cancel()


def test_an_eviction_is_told_on_the_pod_and_on_its_group() -> None:
    found, told = _marks(), []
    found._recorder = SimpleNamespace(event=lambda about, *more: told.append((about.kind, about.name, *more)))  # type: ignore[assignment]
    eviction = Eviction("u", "ns", "p", "g", "q", "n", "reclaim", "pod p is reclaimed for ns/w: …")
    found.cycle(CycleResult(evictions=[eviction]))
    assert told == [("PodGroup", "g", "Normal", "Evict", eviction.message), ("Pod", "p", "Normal", "Evict", eviction.message)]
