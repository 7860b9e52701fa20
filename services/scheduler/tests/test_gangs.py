"""A staged gang that is given up: nothing of it starts before all of it can, in whatever order news come."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_contracts.decision import Decision, Outcome, Result, Verb
from shoal_contracts.state import PriorityClassRecord
from shoal_core import cycle
from shoal_model.normalise import from_dict
from shoal_scheduler.app import Config
from shoal_scheduler.decisions import Naming, decisions
from shoal_scheduler.loop import Loop
from shoal_scheduler.marks import Marks
from shoal_testkit.small import node, queue, starts, work

NOW = 10_000.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.at

    monotonic = now


def scheduler(*records: Any) -> tuple[Loop, Clock]:
    """A loop that leads, without a bus."""
    clock = Clock()
    marks: Any = SimpleNamespace(need_starts=lambda *_: None)
    context: Any = SimpleNamespace(config=Config(), clock=clock, log=None, name="scheduler", bus=None)
    loop = Loop(context, None, None, marks, None)  # type: ignore[arg-type]
    loop._tasks = SimpleNamespace(create_task=lambda coroutine: coroutine.close())  # type: ignore[assignment]
    for record in (queue("q"), node("n"), *records):
        loop._cluster.apply(record)
    return loop, clock


def decided(loop: Loop, clock: Clock) -> list[Decision]:
    """One cycle, its decisions stored in the stream."""
    clock.at += 1
    result = cycle(loop._cluster, now=clock.at)
    made = [d for gang in decisions(result, loop._cluster, Naming(1, int(clock.at), clock.at), {}, set()) for d in gang]
    loop._do(loop._ledger.decided(made, clock.at))
    for number, decision in enumerate(made, int(clock.at) * 100):
        loop._do(loop._ledger.committed(decision.uid, number, clock.at))
    return made


def said(decision: Decision, result: Result) -> Outcome:
    return Outcome(decision=decision.id, sequence=1, result=result, uid=decision.uid, namespace="ns", pod=decision.pod)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_member_is_refused_and_the_others_are_free_first(order: tuple[int, ...], refused: int) -> None:
    loop, clock = scheduler(*work("g", pods=3, gpus=0.5))
    gang = decided(loop, clock)
    assert [d.staged for d in gang] == [True] * 3
    for decision in gang:
        if decision is not gang[refused]:
            loop._do(loop._ledger.outcome(said(decision, Result.PREPARED), clock.at))
    loop._do(loop._ledger.outcome(said(gang[refused], Result.REFUSED), clock.at))
    assert not decided(loop, clock)
    for i in order:
        loop._do(loop._ledger.touched(gang[i], "", clock.at))
        assert not starts(cycle(loop._cluster, now=clock.at)), "one of them is still held back"
    assert set(loop._holds) == {gang[refused].uid}
    clock.at += 60
    loop._holds.clear()
    loop._journal.bar(gang[refused].uid, False)
    assert len(decided(loop, clock)) == 3


def test_a_member_that_was_bound_after_all_lets_the_rest_follow() -> None:
    records = work("g", pods=2, gpus=0.5)
    loop, clock = scheduler(*records)
    gang = decided(loop, clock)
    loop._do(loop._ledger.outcome(said(gang[0], Result.REFUSED), clock.at))
    loop._do(loop._ledger.touched(gang[1], "", clock.at))
    assert not decided(loop, clock)
    loop._do(loop._ledger.touched(gang[0], "n", clock.at))
    loop._do(loop._ledger.seen(gang[0].uid, "n"))
    loop._cluster.apply(work("g", pods=2, gpus=0.5, nodes=["n", "n"])[1])
    loop._journal.bar(gang[0].uid, False)
    assert [d.uid for d in decided(loop, clock)] == [gang[1].uid]


def test_a_preemption_delay_is_kept_through_the_service_and_by_the_next_leader() -> None:
    """Counted from the creation, then from the last eviction: by the leader that decided it, and by the annotation."""
    high = PriorityClassRecord(name="high", value=75)
    running = work("old", gpus=4, nodes=["n"], preemption_delay=100.0, created=NOW - 500)
    waiting = work("new", gpus=4, priority="high", preemption_delay=30.0, created=NOW)
    loop, clock = scheduler(high, *running, *waiting)
    written = Marks(loop._context, None, SimpleNamespace(event=lambda *_: None))  # type: ignore[arg-type]

    def evicts(loop: Loop, clock: Clock, at: float) -> list[str]:
        clock.at = at
        result = cycle(loop._cluster, now=clock.at)
        written.cycle(result)
        return [e.pod for e in result.evictions]

    assert not evicts(loop, clock, NOW + 29)
    assert evicts(loop, clock, NOW + 30) == ["old-0"]
    (marks,) = written._open.values()
    # The new one runs, the old one waits and would have the higher priority by now.
    again = work("old", gpus=4, priority="build", preemption_delay=100.0, created=NOW - 500)
    for restarted in (False, True):
        if restarted:
            loop, clock = scheduler(high, PriorityClassRecord(name="build", value=90), *running)
            again[0] = from_dict({
                "kind": "PodGroup", "metadata": {"name": "old", "namespace": "ns", "uid": "old", "annotations": marks},
                "spec": {"queue": "q", "minMember": 1, "priorityClassName": "build", "preemptionDelay": "100s"},
            })  # fmt: skip
        loop._cluster.apply(PriorityClassRecord(name="build", value=90))
        loop._cluster.remove("pod", "ns", "old-0")
        loop._cluster.forget("old-0")
        for record in (*again, *work("new", gpus=4, nodes=["n"], priority="high", created=NOW)):
            loop._cluster.apply(record)
        assert not evicts(loop, clock, NOW + 129)
        assert evicts(loop, clock, NOW + 130) == ["new-0"]


def runs(loop: Loop, clock: Clock, records: list[Any], decision: Decision) -> None:
    """The API shows the pod bound."""
    loop._do(loop._ledger.outcome(said(decision, Result.BOUND), clock.at))
    loop._do(loop._ledger.seen(decision.uid, decision.node))
    loop._cluster.apply(next(r for r in records if getattr(r, "uid", "") == decision.uid))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("refused", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_what_started_of_a_gang_goes_at_once_when_a_member_is_refused(order: tuple[int, ...], refused: tuple[int, ...]) -> None:
    loop, clock = scheduler(*work("g", pods=3))
    shown = list(work("g", pods=3, nodes=["n"] * 3))
    gang = decided(loop, clock)
    assert [(d.staged, d.begins) for d in gang] == [(False, True)] * 3
    started = [d for i, d in enumerate(gang) if i not in refused]
    for i in order:
        if i in refused:
            loop._do(loop._ledger.outcome(said(gang[i], Result.REFUSED), clock.at))
        else:
            runs(loop, clock, shown, gang[i])
        assert not decided(loop, clock), "the rest is under way"
    for i in refused:
        loop._do(loop._ledger.touched(gang[i], "", clock.at))
    going = decided(loop, clock)
    assert {(d.verb, d.uid) for d in going} == {(Verb.EVICT, d.uid) for d in started}
    assert all("could not start" in d.reason for d in going)


def test_a_refused_member_that_is_bound_elsewhere_leaves_the_gang_alone() -> None:
    """Its hold is over before the others are seen: it is placed again, and the gang is whole."""
    loop, clock = scheduler(*work("g", pods=2))
    shown = list(work("g", pods=2, nodes=["n"] * 2))
    one, two = decided(loop, clock)
    loop._do(loop._ledger.outcome(said(one, Result.REFUSED), clock.at))
    loop._do(loop._ledger.touched(one, "", clock.at))
    loop._holds.clear()
    loop._journal.bar(one.uid, False)
    (again,) = decided(loop, clock)
    assert (again.uid, again.begins) == (one.uid, False)
    runs(loop, clock, shown, two)
    assert not decided(loop, clock)
    runs(loop, clock, shown, again)
    assert not decided(loop, clock)
    # From now on it has its grace again.
    loop._cluster.remove("pod", "ns", one.pod)
    assert not decided(loop, clock)


@pytest.mark.parametrize("again", [Result.REFUSED, Result.GONE])
def test_a_gang_that_ran_whole_keeps_its_grace_when_a_replacement_is_refused(again: Result) -> None:
    group, *pods = work("g", pods=3, nodes=["n", "n", ""])
    pods[2] = msgspec.structs.replace(pods[2], phase="Pending")
    loop, clock = scheduler(group, *pods)
    (third,) = decided(loop, clock)
    assert not third.begins
    loop._do(loop._ledger.outcome(said(third, again), clock.at))
    if again is Result.REFUSED:
        loop._do(loop._ledger.touched(third, "", clock.at))
    assert not decided(loop, clock)


def test_members_beyond_the_minimum_may_be_refused() -> None:
    loop, clock = scheduler(*work("g", pods=3, min_member=2))
    shown = list(work("g", pods=3, min_member=2, nodes=["n"] * 3))
    gang = decided(loop, clock)
    for decision in gang[:2]:
        runs(loop, clock, shown, decision)
    loop._do(loop._ledger.outcome(said(gang[2], Result.REFUSED), clock.at))
    loop._do(loop._ledger.touched(gang[2], "", clock.at))
    assert not decided(loop, clock)


def test_every_refusal_of_a_staged_gang_counts_not_only_the_first() -> None:
    loop, clock = scheduler(*work("g", pods=3, gpus=0.5))
    gang = decided(loop, clock)
    for decision in gang[:2]:
        loop._do(loop._ledger.outcome(said(decision, Result.REFUSED), clock.at))
    for decision in gang:
        loop._do(loop._ledger.touched(decision, "", clock.at))
    assert set(loop._holds) == {d.uid for d in gang[:2]}
