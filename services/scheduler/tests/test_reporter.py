"""Reasons are told once they have lasted, again only when they are others, to every pod, and taken back in the end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_contracts.state import GroupRecord, PodRecord, SchedulingCondition
from shoal_core import Waiting
from shoal_kube import Conflict
from shoal_scheduler.reporter import BACKLOG, GRACE, MANY, NUMBERS_AFTER, WRITERS, Reporter
from shoal_testkit.waiting import until

KEY = ("ns", "g")
SETTLE = 2.0


def waiting(code: str = "Unschedulable", message: str = "no room", *, group: str = "g", pods: int = 1) -> Waiting:
    return Waiting(namespace="ns", group=group, queue="q", code=code, message=message, pods=uids(pods))


def uids(count: int) -> tuple[str, ...]:
    return tuple(f"u{i}" for i in range(count))


def pod(uid: str, group: str = "g", **more: Any) -> PodRecord:
    return PodRecord(namespace="ns", name=f"p-{uid}", uid=uid, group=group, **more)


def group(name: str = "g", *, uid: str = "g", told: bool = False, **more: Any) -> GroupRecord:
    conditions = [SchedulingCondition(node_pool="default", reason="Unschedulable", transition="7")] if told else []
    return GroupRecord(namespace="ns", name=name, uid=uid, conditions=conditions, **more)


class Clock:
    at = 0.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at


class Api:
    """Notes what is written. ``gate``: writes wait for it; ``refuse``: paths that conflict."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[Any]]] = []
        self.pods: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[str, str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuse: set[str] = set()
        self.backlog = 0

    async def merge_patch(self, path: str, body: Any) -> bytes:
        self.groups.append((path.split("/")[-2], body["status"]["schedulingConditions"]))
        await self.gate.wait()
        return b""

    async def call(self, method: str, path: str, body: Any, *, content: str) -> bytes:
        name = path.split("/")[-2]
        await self.gate.wait()
        if name in self.refuse:
            self.refuse.discard(name)
            raise Conflict(409, "Conflict", "the object has been modified")
        self.pods.append((name, body["status"]["conditions"][0]))
        return b""

    def event(self, about: Any, kind: str, reason: str, message: str) -> None:
        self.events.append((about.name, reason, message))


class Rig:
    """A reporter with a scripted API; ``pass_`` lets it write until it has nothing more to write."""

    def __init__(self) -> None:
        self.clock, self.api = Clock(), Api()
        log = SimpleNamespace(info=lambda *_, **__: None)
        context: Any = SimpleNamespace(clock=self.clock, log=log)
        self.it = Reporter(context, self.api, self.api, settle=SETTLE, node_pool="")  # type: ignore[arg-type]

    def cycle(self, *found: Waiting, at: float | None = None) -> None:
        if at is not None:
            self.clock.at = at
        self.it.cycle(list(found))

    def due(self, at: float) -> list[tuple[str, str]]:
        self.clock.at = at
        return self.it.due(at)

    async def pass_(self) -> None:
        task = asyncio.create_task(self.it.run())
        try:
            await until(self._nothing_left, "the reporter has written everything", limit=30.0)
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _nothing_left(self) -> bool:
        it = self.it
        return not (it.due(self.clock.at) or it.over() or it._busy or it._due_pods or it.writing)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr("shoal_scheduler.reporter.PAUSE", 0.001)
    monkeypatch.setattr("shoal_scheduler.reporter.YIELD", 0.001)
    monkeypatch.setattr("shoal_scheduler.reporter.YIELDS", 1_000_000)
    return Rig()


def test_a_reason_that_does_not_last_is_not_written(rig: Rig) -> None:
    rig.cycle(waiting())
    assert rig.due(SETTLE - 0.1) == []
    assert rig.due(SETTLE) == [KEY]
    rig.cycle()
    assert rig.due(9.0) == []


async def test_a_written_reason_is_not_written_again(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    rig.cycle(waiting())
    assert rig.due(100_000.0) == []
    assert (len(rig.api.groups), len(rig.api.pods), len(rig.api.events)) == (1, 1, 2)


async def test_other_numbers_are_written_after_a_while_without_an_event_and_another_reason_with_one(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    rig.cycle(waiting(message="room for 3"))
    assert rig.due(SETTLE + NUMBERS_AFTER) == []
    assert rig.due(SETTLE + NUMBERS_AFTER + 0.1) == [KEY]
    await rig.pass_()
    assert [c["message"] for _, c in rig.api.pods] == ["no room", "room for 3"]
    assert len(rig.api.events) == 2
    rig.cycle(waiting(code="OverLimit"), at=50.0)
    assert rig.due(50.0 + SETTLE - 0.1) == []
    assert rig.due(50.0 + SETTLE) == [KEY]
    await rig.pass_()
    assert [(name, reason) for name, reason, _ in rig.api.events[2:]] == [("g", "OverLimit"), ("p-u0", "Unschedulable")]


async def test_every_waiting_pod_of_a_group_has_its_condition_and_one_event(rig: Rig) -> None:
    count = 3 * MANY
    rig.it.group(group())
    for uid in uids(count):
        rig.it.pod(pod(uid))
    rig.cycle(waiting(pods=count))
    rig.clock.at = SETTLE
    await rig.pass_()
    assert len({name for name, _ in rig.api.pods}) == len(rig.api.pods) == count
    assert len(rig.api.events) == 1 + count
    assert rig.it._numbers_after() == 3 * NUMBERS_AFTER, "numbers of so many are not written every half minute"


async def test_pods_that_come_later_are_told_too_and_the_others_not_again(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    rig.it.pod(pod("u1"))
    rig.cycle(waiting(message="room for 1", pods=2))
    await rig.pass_()
    assert [name for name, _ in rig.api.pods] == ["p-u0", "p-u1"]


async def test_a_pod_that_changed_meanwhile_is_told_at_the_next_look(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.api.refuse.add("p-u0")
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    assert [name for name, _ in rig.api.pods] == ["p-u0"]


async def test_a_big_group_does_not_hold_up_a_small_one(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.group(group("small", uid="small"))
    for uid in uids(500):
        rig.it.pod(pod(uid))
    rig.it.pod(pod("s", "small"))
    small = Waiting(namespace="ns", group="small", queue="q", code="C", message="m", pods=("s",))
    rig.cycle(waiting(pods=500), small)
    rig.clock.at = SETTLE
    await rig.pass_()
    assert [name for name, _ in rig.api.pods].index("p-s") < 50


async def test_a_pod_of_its_own_reason_leaves_the_group_its_own(rig: Rig) -> None:
    rig.it.group(group())
    for uid in ("u0", "lost"):
        rig.it.pod(pod(uid))
    lost = Waiting(namespace="ns", group="g", queue="q", code="InvalidPod", message="names subgroup x", pods=("lost",))
    for at in (0.0, 1.0, SETTLE):
        rig.cycle(waiting(), lost, at=at)
    await rig.pass_()
    assert [c[0]["reasons"][0]["reason"] for _, c in rig.api.groups] == ["Unschedulable"]
    assert {name: c["message"] for name, c in rig.api.pods} == {"p-u0": "no room", "p-lost": "names subgroup x"}


async def test_the_time_of_the_transition_is_set_once(rig: Rig) -> None:
    rig.it.pod(pod("u0"))
    rig.it.pod(pod("u1", condition_message="an older reason"))
    rig.cycle(waiting(pods=2))
    rig.clock.at = SETTLE
    await rig.pass_()
    found = dict(rig.api.pods)
    assert found["p-u0"]["lastTransitionTime"] == "1970-01-01T00:00:02Z"
    assert "lastTransitionTime" not in found["p-u1"], "merged into what stands there"


@pytest.mark.parametrize("code", ["QueueDoesNotExist", "PodGroupNotFound"])
def test_what_may_come_in_the_same_apply_is_waited_for(rig: Rig, code: str) -> None:
    rig.cycle(waiting(code))
    assert rig.due(GRACE - 0.1) == []
    assert rig.due(GRACE) == [KEY]


def test_a_reason_that_changes_all_the_time_is_written_in_the_end(rig: Rig) -> None:
    for second in range(12):
        rig.cycle(waiting(("A", "B")[second % 2]), at=float(second))
    assert rig.due(12.0) == [KEY]


def test_pods_that_are_being_bound_are_no_news(rig: Rig) -> None:
    rig.cycle(waiting("Starting"))
    assert rig.due(99.0) == []


async def test_a_reason_is_taken_back_when_a_pod_runs(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    rig.it.group(group(told=True))
    rig.cycle()
    await rig.pass_()
    assert len(rig.api.groups) == 1, "the binding is under way: it may be refused"
    rig.it.pod(pod("u0", node="n"))
    await rig.pass_()
    assert rig.api.groups[-1] == ("g", [])
    await rig.pass_()
    assert len(rig.api.groups) == 2, "once"


async def test_a_group_that_runs_in_part_has_no_condition_but_its_waiting_pods_have(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.it.pod(pod("u9", node="n"))
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    assert rig.api.groups == []
    assert [name for name, _ in rig.api.pods] == ["p-u0"]
    assert [name for name, *_ in rig.api.events] == ["g", "p-u0"]


@pytest.mark.parametrize("left", ["runs", "done", "deleted", "no pods"])
async def test_a_new_leader_takes_back_what_the_one_before_wrote(rig: Rig, left: str) -> None:
    rig.it.group(group(told=True))
    rig.it.pod(pod("u0"))
    match left:
        case "runs":
            rig.it.pod(pod("u0", node="n", phase="Running"))
        case "done":
            rig.it.pod(pod("u0", node="n", phase="Succeeded"))
        case "deleted":
            rig.it.pod(pod("u0", deleted=1.0))
        case _:
            rig.it.pod_gone("u0")
    assert rig.it.over() == [], "only a leader writes"
    rig.cycle()
    await rig.pass_()
    assert rig.api.groups == [("g", [])]


async def test_a_group_that_waits_still_keeps_its_reason(rig: Rig) -> None:
    rig.it.group(group(told=True))
    rig.it.pod(pod("u0"))
    rig.cycle()
    assert rig.it.over() == []


async def test_a_group_that_starts_while_its_reason_is_being_written_loses_it_afterwards(rig: Rig) -> None:
    rig.it.group(group())
    rig.it.pod(pod("u0"))
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    rig.api.gate.clear()
    task = asyncio.create_task(rig.it.run())
    await until(lambda: _is(bool(rig.api.groups)), "the write is under way")
    rig.cycle()
    rig.it.pod(pod("u0", node="n"))
    rig.api.gate.set()
    await until(lambda: _is(len(rig.api.groups) == 2), "taken back")
    task.cancel()
    await asyncio.wait([task])
    assert rig.api.groups[-1] == ("g", [])


async def _is(found: bool) -> bool:
    return found


def test_a_group_made_again_under_its_name_is_another(rig: Rig) -> None:
    rig.it.group(group(told=True))
    rig.it.group(group(uid="another"))
    rig.cycle()
    assert rig.it.over() == []


def test_a_group_that_is_gone_is_forgotten(rig: Rig) -> None:
    rig.it.group(group(told=True))
    rig.cycle(waiting())
    rig.it.forget(KEY)
    assert rig.due(9.0) == []
    assert rig.it.over() == []


async def test_bindings_go_first(rig: Rig) -> None:
    rig.it.pod(pod("u0"))
    rig.it.open = 3
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    task = asyncio.create_task(rig.it.run())
    await until(lambda: _is(rig.it.writing == 1), "a pod is to be written")
    assert rig.api.pods == []
    rig.it.open = 0
    await until(lambda: _is(bool(rig.api.pods)), "it is written when nothing is being bound")
    task.cancel()
    await asyncio.wait([task])


async def test_events_are_not_queued_faster_than_they_are_written(rig: Rig) -> None:
    rig.it.pod(pod("u0"))
    rig.api.backlog = BACKLOG
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    task = asyncio.create_task(rig.it.run())
    await until(lambda: _is(rig.it.writing == 1), "a pod is to be written")
    assert rig.api.events == []
    rig.api.backlog = 0
    await until(lambda: _is(bool(rig.api.events)), "the events")
    task.cancel()
    await asyncio.wait([task])


async def test_bindings_that_never_end_do_not_hold_reasons_up_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_scheduler.reporter.YIELDS", 3)
    rig.it.pod(pod("u0"))
    rig.it.open = 3
    rig.cycle(waiting())
    rig.clock.at = SETTLE
    await rig.pass_()
    assert [name for name, _ in rig.api.pods] == ["p-u0"]


async def test_a_group_that_starts_while_others_are_written_is_not_told(rig: Rig) -> None:
    rig.api.gate.clear()
    reasons = [msgspec.structs.replace(group(), name=f"g{i}", uid=f"g{i}") for i in range(3 * WRITERS)]
    for record in reasons:
        rig.it.group(record)
    rig.cycle(*(waiting(group=record.name, pods=0) for record in reasons))
    rig.clock.at = SETTLE
    task = asyncio.create_task(rig.it.run())
    await until(lambda: _is(len(rig.api.groups) == WRITERS), "all writers are busy")
    rig.cycle()
    rig.api.gate.set()
    await until(lambda: _is(not rig.it._busy), "they are done")
    await asyncio.sleep(0.05)
    assert not task.done()
    assert len({name for name, conditions in rig.api.groups if conditions}) == WRITERS
    task.cancel()
    await asyncio.wait([task])
