"""The book of open decisions, transition by transition (the protocol as a whole: tests/component)."""

from __future__ import annotations

import pytest

from shoal_contracts.decision import Decision, Outcome, Result, Verb
from shoal_scheduler.ledger import FIRST_HOLD, MARKER_TTL, Assume, Close, Forget, Go, Hold, Ledger, Phase, Touch


def decision(
    uid: str = "u", number: int = 1, gang: str = "", groups: tuple[str, ...] = (), volumes: dict[str, str] | None = None
) -> Decision:
    return Decision(
        id=f"d-{uid}-{number}", epoch=1, verb=Verb.BIND, uid=uid, namespace="ns", pod=uid, node="n1", group="g", queue="q",
        gang=gang, staged=bool(gang), gang_size=2 if gang else 0, gpu_groups=list(groups),
        volumes=volumes or {},
    )  # fmt: skip


def staged(ledger: Ledger) -> list[Decision]:
    """A staged gang of two, committed."""
    members = [decision(uid, gang="gang") for uid in ("a", "b")]
    ledger.decided(members, 0.0)
    for seq, member in enumerate(members, 5):
        ledger.committed(member.uid, seq, 0.0)
    return members


def outcome(of: Decision, result: Result) -> Outcome:
    return Outcome(
        decision=of.id, sequence=5, uid=of.uid, namespace="ns", pod=of.pod, node=of.node, result=result, binder="b", at=0.0
    )


def opened(of: Decision | None = None) -> tuple[Ledger, Decision]:
    ledger, found = Ledger(expiry=10.0), of or decision()
    ledger.decided([found], 0.0)
    ledger.committed(found.uid, 5, 0.0)
    return ledger, found


def test_a_decision_ends_when_the_api_shows_the_pod_on_a_node() -> None:
    ledger, found = opened()
    assert ledger.outcome(outcome(found, Result.BOUND), 1.0) == []
    assert ledger.is_open("u")
    assert ledger.seen("u", "n1") == [Forget("u"), Close("u", 5)]
    assert not ledger.is_open("u")


def test_the_api_may_be_faster_than_the_commits_answer() -> None:
    ledger = Ledger(10.0)
    ledger.decided([decision()], 0.0)
    assert ledger.seen("u", "n1") == [Forget("u")]
    assert ledger.committed("u", 5, 1.0) == [Close("u", 5)]


def test_room_is_free_only_after_the_pod_was_touched() -> None:
    ledger, found = opened()
    assert ledger.tick(11.0) == [Touch(found)]
    assert ledger.is_open("u")
    assert ledger.tick(30.0) == []
    assert ledger.touched(found, "", 31.0) == [Forget("u"), Close("u", 5)]


def test_a_touch_that_finds_the_pod_bound_agrees() -> None:
    ledger, found = opened()
    ledger.tick(11.0)
    assert ledger.touched(found, "n1", 12.0) == []
    assert ledger.entries["u"].phase is Phase.AGREED


def test_a_touch_without_an_answer_is_tried_again() -> None:
    ledger, found = opened()
    ledger.tick(11.0)
    ledger.not_touched(found, 12.0)
    assert ledger.tick(12.5) == []
    assert ledger.tick(14.0) == [Touch(found)]


def test_a_refused_pod_is_held_back_longer_each_time_until_it_is_bound() -> None:
    ledger, holds = Ledger(10.0), []
    for number in range(4):
        found = decision(number=number)
        ledger.decided([found], 0.0)
        ledger.committed("u", 5, 0.0)
        assert ledger.outcome(outcome(found, Result.REFUSED), 1.0) == [Touch(found)]
        holds += [i.seconds for i in ledger.touched(found, "", 2.0) if isinstance(i, Hold)]
    assert holds == [FIRST_HOLD * 2**i for i in range(4)]
    ledger.seen("u", "n1")
    found = decision(number=9)
    ledger.decided([found], 0.0)
    ledger.outcome(outcome(found, Result.REFUSED), 1.0)
    assert Hold("u", FIRST_HOLD, refused=True) in ledger.touched(found, "", 2.0)


@pytest.mark.parametrize("result", [Result.STALE, Result.GONE])
def test_a_pod_that_binders_call_stale_is_not_decided_anew_at_once(result: Result) -> None:
    ledger, found = opened()
    assert ledger.outcome(outcome(found, result), 1.0) == [Forget("u"), Close("u", 5), Hold("u", FIRST_HOLD)]


def test_a_pod_that_is_deleted_during_its_commit_leaves_nothing_behind() -> None:
    ledger = Ledger(10.0)
    ledger.decided([decision()], 0.0)
    ledger.gone("u")
    ledger.committed("u", 5, 1.0)
    assert (ledger.entries, ledger.last) == ({}, {})


def test_a_gang_goes_only_while_a_member_is_open() -> None:
    ledger = Ledger(10.0)
    one, _ = staged(ledger)
    assert ledger.goes("a", "gang")
    ledger.outcome(outcome(one, Result.REFUSED), 1.0)
    assert not ledger.goes("a", "gang")
    assert not ledger.goes("b", "gang")
    assert not ledger.goes("nobody", "gang")


def test_the_outcome_of_another_decision_says_nothing() -> None:
    ledger, _ = opened(decision(number=2))
    assert ledger.outcome(outcome(decision(number=1), Result.STALE), 1.0) == []
    assert ledger.is_open("u")


def test_a_staged_gang_goes_once_all_are_prepared() -> None:
    ledger = Ledger(10.0)
    members = staged(ledger)
    assert ledger.outcome(outcome(members[0], Result.PREPARED), 1.0) == []
    assert ledger.outcome(outcome(members[1], Result.PREPARED), 1.0) == [Go("gang", ("a", "b"))]
    assert ledger.outcome(outcome(members[1], Result.PREPARED), 1.0) == []


@pytest.mark.parametrize("result", [Result.REFUSED, Result.STALE, Result.GONE])
def test_a_staged_gang_that_loses_a_member_before_it_goes_is_given_up_whole(result: Result) -> None:
    ledger = Ledger(10.0)
    one, two = staged(ledger)
    ledger.outcome(outcome(one, Result.PREPARED), 1.0)
    found = ledger.outcome(outcome(two, result), 2.0)
    assert Touch(one) in found
    assert not any(isinstance(i, Go) for i in found)
    assert ledger.outcome(outcome(two, Result.PREPARED), 3.0) == [], "it can't go any more"
    assert ledger.touched(one, "", 4.0) == [Forget("a"), Close("a", 5)]


def test_a_staged_gang_of_which_a_chunk_was_not_stored_is_given_up_whole() -> None:
    ledger = Ledger(10.0)
    members = [decision(uid, gang="gang") for uid in ("a", "b")]
    ledger.decided(members, 0.0)
    ledger.committed("a", 5, 0.0)
    assert ledger.not_committed("b") == [Forget("b"), Touch(members[0])]


def test_a_gang_that_went_is_not_broken_by_a_refused_member() -> None:
    ledger = Ledger(10.0)
    one, two = staged(ledger)
    ledger.outcome(outcome(one, Result.PREPARED), 1.0)
    ledger.outcome(outcome(two, Result.PREPARED), 1.0)
    assert ledger.outcome(outcome(one, Result.REFUSED), 2.0) == [Touch(one)]


def test_preparations_have_more_time() -> None:
    ledger, found = opened(decision(groups=("g",)))
    assert ledger.tick(11.0) == []
    assert ledger.tick(61.0) == [Touch(found)]


def test_volumes_have_the_most_and_so_has_a_gang_that_waits_for_one() -> None:
    ledger, found = opened(decision(volumes={"data": ""}))
    assert ledger.tick(149.0) == []
    assert ledger.tick(151.0) == [Touch(found)]
    ledger = Ledger(10.0)
    gang = [decision("a", gang="gang"), decision("b", gang="gang", volumes={"data": ""})]
    ledger.decided([*gang, decision("c")], 0.0)
    for seq, uid in enumerate("abc", 5):
        ledger.committed(uid, seq, 0.0)
    assert ledger.tick(149.0) == [Touch(decision("c"))]
    assert ledger.tick(151.0) == [Touch(member) for member in gang]


def test_a_gang_that_went_has_the_time_of_a_binding() -> None:
    ledger = Ledger(10.0)
    one, two = staged(ledger)
    assert ledger.tick(11.0) == []
    for member in (one, two):
        ledger.outcome(outcome(member, Result.PREPARED), 30.0)
    assert ledger.tick(39.0) == []
    assert ledger.tick(41.0) == [Touch(one), Touch(two)]


def test_a_staged_gang_that_the_stream_holds_in_part_is_given_up_at_takeover() -> None:
    ledger = Ledger(10.0)
    found = decision("a", gang="gang")
    assert ledger.adopt(found, 7, 0.0) == [Assume("a", "n1")]
    assert ledger.adopted() == [Touch(found)]


def test_a_staged_gang_that_had_gone_is_adopted_in_part() -> None:
    ledger = Ledger(10.0)
    ledger.adopt(decision("a", gang="gang"), 7, 0.0, went=True)
    assert ledger.adopted() == []


def test_what_the_stream_holds_at_takeover_counts_as_placed() -> None:
    ledger = Ledger(10.0)
    assert ledger.adopt(decision(groups=("g",)), 7, 0.0) == [Assume("u", "n1", ("g",))]
    assert (ledger.expected("u"), ledger.is_open("u")) == (7, True)


def test_a_lost_stream_gives_every_open_decision_up() -> None:
    ledger, found = opened()
    assert ledger.stream_lost() == [Touch(found)]
    assert ledger.expected("u") == 0
    assert ledger.touched(found, "", 2.0) == [Forget("u")], "there is no record left to close"


def test_a_refused_commit_leaves_nothing_but_the_sequence_that_was_read() -> None:
    ledger = Ledger(10.0)
    ledger.decided([decision()], 0.0)
    assert ledger.not_committed("u", 12) == [Forget("u")]
    assert (ledger.expected("u"), ledger.is_open("u")) == (12, False)


def test_a_pod_that_is_gone_leaves_nothing_behind() -> None:
    ledger, _ = opened()
    assert ledger.gone("u") == [Forget("u"), Close("u", 5)]
    assert (ledger.entries, ledger.last) == ({}, {})


@pytest.mark.parametrize("then", ["prepared", "refused", "gone", "expired"])
def test_a_member_of_a_staged_gang_that_is_evicted_ends_the_gang(then: str) -> None:
    ledger = Ledger(10.0)
    one, two = staged(ledger)
    ledger.outcome(outcome(one, Result.PREPARED), 1.0)
    eviction = Decision(id="d-a-2", epoch=1, verb=Verb.EVICT, uid="a", namespace="ns", pod="a", node="n1")
    assert ledger.decided([eviction], 2.0) == [Touch(two)]
    ledger.committed("a", 9, 2.0)
    assert ledger.gone("a") == [Forget("a"), Close("a", 9)]
    match then:
        case "prepared":
            assert ledger.outcome(outcome(two, Result.PREPARED), 3.0) == []
        case "refused":
            assert ledger.outcome(outcome(two, Result.REFUSED), 3.0) == []
        case "gone":
            assert ledger.gone("b") == [Forget("b"), Close("b", 6)]
        case _:
            assert ledger.tick(1000.0) == []


def test_a_marker_counts_until_it_has_vanished() -> None:
    ledger, _ = opened()
    assert ledger.seen("u", "n1") == [Forget("u"), Close("u", 5)]
    ledger.closed("u", 9, 1.0)
    ledger.tick(1.0 + MARKER_TTL)
    assert ledger.expected("u") == 9
    ledger.tick(2.1 + MARKER_TTL)
    assert ledger.expected("u") == 0
    ledger.decided([decision(number=2)], 20.0)
    ledger.committed("u", 11, 20.0)
    ledger.tick(21.0)
    assert ledger.expected("u") == 11
