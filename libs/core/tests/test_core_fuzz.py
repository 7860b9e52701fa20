"""Whatever objects say: nothing raises, every count stays exact, and sound pods start."""

from __future__ import annotations

import pytest

from shoal_testkit.fuzz import BATCH, Fuzzer, run


@pytest.mark.parametrize("first", range(0, 84, 21))
def test_odd_objects(first: int) -> None:
    run(first, 21 * BATCH)


def test_a_seed_makes_the_same_objects() -> None:
    assert list(Fuzzer(7).objects(50)) == list(Fuzzer(7).objects(50))
    assert list(Fuzzer(7).objects(50)) != list(Fuzzer(8).objects(50))
