"""Evictions in the ledger: their own table, growing pauses, sets of victims that go together or not at all."""

from __future__ import annotations

import itertools

import pytest

from shoal_contracts.decision import Decision, Outcome, Result, Verb
from shoal_scheduler.ledger import (
    FIRST_HOLD,
    FORGIVEN,
    LONGEST_HOLD,
    TRANSITIONS,
    AssumeGone,
    Backoff,
    Close,
    Entry,
    Forget,
    Go,
    IllegalTransition,
    Instruction,
    Ledger,
    Phase,
    Touch,
)  # fmt: skip


def eviction(uid: str = "v", number: int = 1, gang: str = "", size: int = 2, verb: Verb = Verb.EVICT) -> Decision:
    return Decision(
        id=f"d-{uid}-{number}", epoch=1, verb=verb, uid=uid, namespace="ns", pod=uid, node="n1", gang=gang,
        staged=bool(gang), gang_size=size if gang else 0,
    )  # fmt: skip


def outcome(of: Decision, result: Result, message: str = "") -> Outcome:
    return Outcome(decision=of.id, sequence=5, uid=of.uid, result=result, message=message)


def opened(*decisions: Decision, ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger(expiry=10.0)
    ledger.decided(decisions, 0.0)
    for seq, decision in enumerate(decisions, 5):
        ledger.committed(decision.uid, seq, 0.0)
    return ledger


def refuse(ledger: Ledger, number: int, now: float, uid: str = "v") -> float:
    """A refused eviction from its commit to its end: the pause after it."""
    found = eviction(uid, number)
    ledger.decided([found], now)
    ledger.committed(uid, 5, now)
    assert ledger.outcome(outcome(found, Result.REFUSED, "budget b"), now) == [Touch(found)]
    forget, close, pause = ledger.touched(found, "n1", now)
    assert (forget, close) == (Forget(uid), Close(uid, 5))
    assert isinstance(pause, Backoff)
    assert pause.why == "budget b"
    return pause.seconds


def test_a_refused_victim_is_paused_longer_each_time_whatever_is_seen_of_it_meanwhile() -> None:
    ledger, pauses = Ledger(10.0), []
    for number in range(12):
        pauses.append(refuse(ledger, number, number * 60.0))
        assert ledger.seen("v", "n1") == []
    assert pauses[:3] == [FIRST_HOLD, FIRST_HOLD * 2, FIRST_HOLD * 4]
    assert pauses[-1] == LONGEST_HOLD
    assert refuse(ledger, 99, 11 * 60.0 + FORGIVEN) == FIRST_HOLD, "after a long while it is forgotten"
    ledger.gone("v")
    assert refuse(ledger, 100, 1.0) == FIRST_HOLD
    assert refuse(ledger, 1, 2.0, "another") == FIRST_HOLD


def test_a_victim_that_was_refused_for_long_can_still_be_bound_elsewhere_at_once() -> None:
    ledger = Ledger(10.0)
    refuse(ledger, 1, 0.0)
    binding = eviction("v", 2, verb=Verb.BIND)
    opened(binding, ledger=ledger)
    assert ledger.seen("v", "n1") == [Forget("v"), Close("v", 5)]


def test_an_eviction_ends_when_the_api_shows_the_pod_going_and_not_while_it_runs() -> None:
    ledger = opened(eviction())
    assert ledger.seen("v", "n1") == []
    assert ledger.outcome(outcome(eviction(), Result.EVICTED), 1.0) == []
    assert ledger.seen("v", "n1") == []
    assert ledger.seen("v", "n1", deleted=True) == [Forget("v"), Close("v", 5)]


def test_a_pod_that_still_runs_when_it_is_touched_was_not_evicted() -> None:
    ledger = opened(eviction())
    assert ledger.tick(11.0) == [Touch(eviction())]
    assert ledger.touched(eviction(), "n1", 12.0) == [Forget("v"), Close("v", 5)]


@pytest.mark.parametrize("verb", Verb)
def test_a_touch_that_fails_waits_in_a_phase_of_its_own(verb: Verb) -> None:
    decision = eviction(verb=verb, gang="g", size=1)
    ledger = opened(decision)
    ledger.tick(100.0)
    assert ledger.not_touched(decision, 100.0) == []
    assert ledger.entries["v"].phase is Phase.RETRY_TOUCH
    assert not ledger.goes("v", "g"), "what is given up goes no more, whether or not the API could be told"
    assert ledger.outcome(outcome(decision, Result.PREPARED), 100.1) == []
    assert ledger.outcome(outcome(decision, Result.REFUSED), 100.1) == []
    assert ledger.touched(decision, "", 100.2) == [], "no touch is under way"
    assert ledger.tick(100.9) == []
    assert ledger.tick(101.1) == [Touch(decision)]
    assert ledger.stream_lost() == []


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize(("before", "after"), list(itertools.product(Phase, Phase)))
def test_only_what_the_tables_have_may_follow(verb: Verb, before: Phase, after: Phase) -> None:
    entry = Entry(eviction(verb=verb), before, 0.0, 7)
    if after in TRANSITIONS[verb][before]:
        entry.move(after, 1.0)
        assert entry.phase is after
        return
    with pytest.raises(
        IllegalTransition, match=rf"{verb} d-v-1 of pod ns/v \(v\), sequence 7: {after.name} after {before.name}"
    ):
        entry.move(after)


def test_the_error_tells_the_entrys_story() -> None:
    ledger = opened(eviction())
    ledger.tick(11.0)
    ledger.not_touched(eviction(), 12.0)
    with pytest.raises(IllegalTransition, match="outcome bound after COMMITTING > OPEN > GIVING_UP > RETRY_TOUCH"):
        ledger.outcome(outcome(eviction(), Result.BOUND), 13.0)
    assert ledger.entries["v"].phase is Phase.RETRY_TOUCH, "and nothing has changed"


def test_a_binding_can_not_come_out_as_an_eviction() -> None:
    binding = eviction(verb=Verb.BIND)
    with pytest.raises(IllegalTransition):
        opened(binding).outcome(outcome(binding, Result.EVICTED), 1.0)


# sets of victims

SET = tuple(eviction(uid, gang="g", size=3) for uid in ("a", "b", "c"))


def touches(found: list[Instruction]) -> set[str]:
    return {i.decision.uid for i in found if isinstance(i, Touch)}


def test_victims_go_when_all_may() -> None:
    ledger = opened(*SET)
    assert ledger.outcome(outcome(SET[2], Result.PREPARED), 1.0) == []
    assert ledger.outcome(outcome(SET[0], Result.PREPARED), 1.0) == []
    assert ledger.outcome(outcome(SET[1], Result.PREPARED), 1.0) == [Go("g", ("a", "b", "c"))]


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("result", [Result.REFUSED, Result.STALE, Result.GONE])
def test_none_goes_where_one_is_refused_or_not_there(place: int, result: Result) -> None:
    ledger, odd = opened(*SET), SET[place]
    found: list[Instruction] = []
    for victim in SET:
        found += ledger.outcome(outcome(victim, result if victim is odd else Result.PREPARED), 1.0)
    assert touches(found) >= {v.uid for v in SET} - {odd.uid}
    for victim in SET:
        found += ledger.touched(victim, "n1", 2.0)
    assert not any(isinstance(i, Go) for i in found)
    assert [i.uid for i in found if isinstance(i, Backoff)] == [odd.uid], "the others may be chosen again at once"
    assert ledger.entries == {}


def test_none_goes_where_one_is_deleted_by_somebody_else_meanwhile() -> None:
    ledger = opened(*SET)
    assert touches(ledger.seen("a", "n1", deleted=True)) == {"b", "c"}
    assert touches(opened(*SET).gone("b")) == {"a", "c"}


def test_none_goes_where_one_was_not_stored() -> None:
    ledger = Ledger(10.0)
    ledger.decided(SET, 0.0)
    ledger.committed("a", 5, 0.0)
    ledger.committed("b", 6, 0.0)
    assert touches(ledger.not_committed("c")) == {"a", "b"}


@pytest.mark.parametrize("held", [1, 2])
def test_a_set_that_the_stream_holds_in_part_is_given_up_at_takeover(held: int) -> None:
    ledger = Ledger(10.0)
    for seq, victim in enumerate(SET[:held], 5):
        assert ledger.adopt(victim, seq, 0.0) == [AssumeGone(victim.uid)]
    assert touches(ledger.adopted()) == {v.uid for v in SET[:held]}


def test_a_set_that_went_is_adopted_in_part() -> None:
    ledger = Ledger(10.0)
    ledger.adopt(SET[0], 5, 0.0, went=True)
    assert ledger.adopted() == []
    assert ledger.outcome(outcome(SET[0], Result.REFUSED), 1.0) == [Touch(SET[0])]
