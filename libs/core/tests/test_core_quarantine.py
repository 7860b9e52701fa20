"""A group whose evaluation raises is put aside and told; the others are scheduled, and every count stays exact."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_contracts import state
from shoal_core import cycle
from shoal_core.actions.reclaim import Reclaim
from shoal_core.cluster import Cluster
from shoal_core.placement.walk import Walk
from shoal_core.quarantine import FIRST
from shoal_core.rows import Job
from shoal_core.session import Session
from shoal_testkit.small import node, queue, starts, work, world


class Odd(Exception):
    pass


def codes(result: Any) -> dict[str, str]:
    return {w.group: w.code for w in result.waiting}


def poison(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, name: str, at: int = 0) -> None:
    """``method`` raises for whatever belongs to the group ``name``, after ``at`` calls that went well."""
    real, calls = getattr(owner, method), [0]

    def broken(self: Any, *given: Any, **more: Any) -> Any:
        for one in (self, *given):
            job = one if isinstance(one, Job) else getattr(one, "job", None)
            if isinstance(job, Job) and job.name == name:
                calls[0] += 1
                if calls[0] > at:
                    raise Odd("odd")
        return real(self, *given, **more)

    monkeypatch.setattr(owner, method, broken)


WHERE = [(Walk, "place", 0), (Session, "place", 0), (Session, "place", 1), (Cluster, "charge", 0), (Cluster, "charge", 1),
         (Job, "chunk", 0)]  # fmt: skip


@pytest.mark.parametrize(("owner", "method", "at"), WHERE)
@pytest.mark.parametrize("gpus", [1, 0.5])
def test_the_others_start(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, at: int, gpus: float) -> None:
    poison(monkeypatch, owner, method, "b", at)
    # Shares are placed one by one, whole GPUs by a kernel that charges them itself.
    odd = work("b", pods=3, gpus=gpus, pod={"host_ports": [state.HostPort(port=80)]})
    c = world(queue("q"), *(node(f"n{i}", 8) for i in range(3)), *work("a", gpus=gpus, pods=2), *odd, *work("c", gpus=gpus))
    result = cycle(c, now=1.0)
    assert starts(result).keys() == {"a-0", "a-1", "c-0"}
    (told,) = result.waiting
    assert (told.group, told.code, set(told.pods)) == ("b", "Quarantined", {"b-0", "b-1", "b-2"})
    assert "Odd: odd" in told.message
    assert {what for what, _ in c.quarantine.errors} == {"group ns/b"}
    monkeypatch.undo()
    c.check()


def test_it_is_tried_again_after_a_growing_time_or_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    c = world(queue("q"), node("n", 8), *work("b"))
    with monkeypatch.context() as patch:
        poison(patch, Walk, "place", "b")
        assert codes(cycle(c, now=0.0)) == {"b": "Quarantined"}
        tries = len(c.quarantine.errors)
        assert codes(cycle(c, now=FIRST / 2)) == {"b": "Quarantined"}
        assert len(c.quarantine.errors) == tries
        cycle(c, now=FIRST)
        assert len(c.quarantine.errors) == tries + 1
        cycle(c, now=FIRST * 2.5)
        assert len(c.quarantine.errors) == tries + 1, "longer the second time"
    assert codes(cycle(c, now=FIRST * 2.6)) == {"b": "Quarantined"}
    c.apply(work("b", pod={"labels": {"changed": "1"}})[1])
    assert starts(cycle(c, now=FIRST * 2.7)) == {"b-0": "n"}
    c.check()


def test_what_was_placed_before_the_error_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    c = world(queue("q"), node("n", 4), *work("b", pods=4, pod={"host_ports": []}), *work("c", pods=4, created=9))
    poison(monkeypatch, Session, "commit_places", "-")
    real, done = Walk.place, []

    def late(self: Walk, job: Job, *given: Any, **more: Any) -> bool:
        found = real(self, job, *given, **more)
        if job.name == "b" and not done:
            done.append(job)
            raise Odd("after its pods had places")
        return found

    monkeypatch.setattr(Walk, "place", late)
    assert starts(cycle(c, now=0.0)).keys() == {"c-0", "c-1", "c-2", "c-3"}
    c.check()


def test_a_search_that_raises_evicts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = [queue("q", gpu=2), queue("r", gpu=2)]
    running = [r for i in range(4) for r in work(f"v{i}", "r", nodes=["n"])]
    c = world(*queues, node("n", 4), *running, *work("b", "q"), *work("d", "q", created=5))
    poison(monkeypatch, Reclaim, "validate", "none")
    real = Reclaim.validate

    def broken(self: Reclaim, scenario: Any, probe: Any) -> bool:
        if probe.job.name == "b":
            raise Odd("validate")
        return real(self, scenario, probe)

    monkeypatch.setattr(Reclaim, "validate", broken)
    result = cycle(c, now=100.0)
    assert codes(result).get("b") == "Quarantined"
    assert {e.for_group for e in result.evictions} == {"d"}
    c.check()


def test_a_record_that_cannot_be_taken_in_is_told_and_the_rest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    c = world(queue("q"), node("n", 4), *work("a", nodes=["n"]))
    real = Cluster._join

    def broken(self: Cluster, pod: Any) -> None:
        if pod.record.group == "b":
            raise Odd("join")
        real(self, pod)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "_join", broken)
        for record in (*work("b"), *work("c"), *work("b", nodes=["n"])[1:]):
            c.apply(record)
        result = cycle(c, now=1.0)
        assert starts(result) == {"c-0": "n"}
        assert codes(result) == {"b": "InvalidPod"}
        c.check()
    for record in work("b"):
        c.apply(record)
    assert starts(cycle(c, now=2.0)) == {"b-0": "n"}
    assert not c.quarantine.refused
    c.check()


def test_the_same_inputs_put_the_same_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal_core.results import digest

    poison(monkeypatch, Session, "place", "b", 1)
    found = []
    for _ in range(2):
        monkeypatch.undo()
        poison(monkeypatch, Session, "place", "b", 1)
        pod = {"host_ports": [state.HostPort(port=80)]}
        c = world(queue("q"), node("n", 8), node("m", 8), *work("b", pods=2, pod=pod), *work("c"))
        found.append([digest(cycle(c, now=float(now))) for now in range(0, 40, 5)])
    assert found[0] == found[1]
