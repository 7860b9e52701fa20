"""A staged gang that is given up: nothing of it starts before all of it can, in whatever order news come."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from shoal_contracts.decision import Decision, Outcome, Result
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
