"""The binder's rules: what follows each answer and each look."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_binder.bind import Finish, Look, Post, Posted, World, after_post, given_up, judge
from shoal_contracts.decision import Decision, Result, Verb

DECISION = Decision(
    id="d-2", epoch=2, verb=Verb.BIND, uid="u", namespace="ns", pod="p", node="n1", group="g", queue="q", resource_version="7"
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Posted.DONE, Finish(Result.BOUND)),
        (Posted.NOT_FOUND, Finish(Result.GONE, "the pod is gone")),
        (Posted.REFUSED, Finish(Result.REFUSED, "why")),
        (Posted.CONFLICT, Look()),
        (Posted.NO_ANSWER, Look()),
    ],
)
def test_what_follows_an_answer(answer: Posted, expected: Finish | Look) -> None:
    assert after_post(answer, "why") == expected


@pytest.mark.parametrize(
    ("world", "result"),
    [
        (World(exists=False), Result.GONE),
        (World(exists=True, uid="another"), Result.GONE),
        (World(exists=True, uid="u", node="n1", current=False), Result.BOUND),
        (World(exists=True, uid="u", node="n2"), Result.STALE),
        (World(exists=True, uid="u", deleting=True), Result.GONE),
        (World(exists=True, uid="u", given_up="d-2"), Result.STALE),
        (World(exists=True, uid="u", given_up="before-3"), Result.STALE),
        (World(exists=True, uid="u", current=False), Result.STALE),
    ],
)
def test_what_ends_a_decision(world: World, result: Result) -> None:
    step = judge(DECISION, world)
    assert isinstance(step, Finish)
    assert step.result is result


def test_a_newer_version_alone_is_no_reason_to_stop() -> None:
    assert judge(DECISION, World(exists=True, uid="u", version="9", given_up="d-1")) == Post("9")


MARKS = st.one_of(
    st.text(max_size=12), st.text(max_size=12).map("before-{}".format), st.integers(0, 9).map("before-{}".format),
    st.sampled_from(["before-²", "before-" + "9" * 5000, "before-٣"]),
)  # fmt: skip


@given(MARKS)
def test_no_odd_mark_gives_a_decision_up(mark: str) -> None:
    if given_up(DECISION, mark):
        assert mark == DECISION.id or (mark.startswith("before-") and int(mark[7:]) > DECISION.epoch)
