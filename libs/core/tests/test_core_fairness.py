"""Fair division: worked examples, and laws."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_core.fairness.division import UNLIMITED, Share, divide


def share(uid: str, **more: float) -> Share:
    given = {"created": 0.0, "priority": 100, "quota": 0.0, "limit": UNLIMITED, "weight": 1.0, "request": 100.0} | more
    return Share(uid, **given)  # type: ignore[arg-type]


def shares(total: float, *queues: Share) -> list[float]:
    divide(total, list(queues))
    return [q.share for q in queues]


def test_quota_comes_before_weight() -> None:
    assert shares(10, share("a", quota=6), share("b", quota=2, weight=0)) == [8, 2]


def test_what_is_over_goes_by_weight() -> None:
    assert shares(9, share("a", weight=2), share("b", weight=1)) == [6, 3]


def test_a_small_request_leaves_its_part_to_the_others() -> None:
    assert shares(9, share("a", request=1), share("b"), share("c")) == [1, 4, 4]


def test_a_limit_caps() -> None:
    assert shares(10, share("a", limit=2), share("b")) == [2, 8]


def test_priority_bands_go_one_after_the_other() -> None:
    assert shares(10, share("a", priority=200, request=7), share("b"), share("c", weight=2)) == [7, 1, 2]


def test_a_remainder_goes_to_the_largest_fraction_then_the_oldest() -> None:
    assert shares(10, share("a", created=2), share("b", created=1), share("c", created=3)) == [3, 4, 3]


def test_quotas_may_oversubscribe() -> None:
    assert shares(4, share("a", quota=4), share("b", quota=4)) == [4, 4]


def test_unlimited_quota_is_all_there_is() -> None:
    assert shares(8, share("a", quota=UNLIMITED, request=5), share("b")) == [5, 3]


QUEUES = st.lists(
    st.builds(
        dict, priority=st.sampled_from([50, 100]), quota=st.integers(-1, 6), limit=st.integers(-1, 8),
        weight=st.integers(0, 3), request=st.integers(0, 12), created=st.integers(0, 3),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@given(st.integers(0, 30), QUEUES)
def test_laws_of_division(total: int, drawn: list[dict[str, float]]) -> None:
    queues = [share(f"q{i}", **{k: float(v) if k != "priority" else v for k, v in d.items()}) for i, d in enumerate(drawn)]
    left = divide(float(total), queues)
    assert left >= 0
    for queue in queues:
        deserved = total if queue.quota == UNLIMITED else queue.quota
        assert queue.share >= min(deserved, queue.requestable)
        assert queue.share <= max(queue.requestable, 0) + 1
        assert queue.share == int(queue.share)
    promised = sum(min(total if q.quota == UNLIMITED else q.quota, q.requestable) for q in queues)
    if promised <= total:
        assert sum(q.share for q in queues) + left == pytest.approx(total)


@given(st.integers(0, 40), QUEUES, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(total: int, drawn: list[dict[str, float]], rng: object) -> None:
    def make() -> list[Share]:
        return [share(f"q{i}", **{k: float(v) if k != "priority" else v for k, v in d.items()}) for i, d in enumerate(drawn)]

    one, other = make(), make()
    rng.shuffle(other)  # type: ignore[attr-defined]
    divide(float(total), one)
    divide(float(total), other)
    assert {q.uid: q.share for q in one} == {q.uid: q.share for q in other}


def test_one_round_by_weight_is_exact() -> None:
    queues = [share("a", weight=1), share("b", weight=2), share("c", weight=4)]
    divide(70.0, queues)
    assert [Fraction(q.share) for q in queues] == [Fraction(70 * w, 7) for w in (1, 2, 4)]
