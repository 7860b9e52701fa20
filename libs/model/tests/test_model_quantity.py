"""Quantities, durations and times against slow exact versions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_model.quantity import BadQuantity, amount, duration, exact, milli, plain, rfc3339, seconds

SUFFIXES = {
    "": Fraction(1), "m": Fraction(1, 1000), "u": Fraction(1, 10**6), "n": Fraction(1, 10**9),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30),
}  # fmt: skip


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(SUFFIXES)))
def test_amounts_are_exact_and_rounded_up(whole: int, thousandths: int, suffix: str) -> None:
    value = (whole + Fraction(thousandths, 1000)) * SUFFIXES[suffix]
    text = f"{whole}.{thousandths:03d}{suffix}"
    assert amount(text) == math.ceil(value)
    assert milli(text) == math.ceil(value * 1000)
    assert exact(text) == pytest.approx(float(value), rel=1e-15, abs=1e-12)


@pytest.mark.parametrize(("text", "value"), [("1e3", 1000), ("12E2", 1200), ("+5", 5), ("-1", -1), (".5k", 500), ("100m", 1)])
def test_other_ways_to_write_an_amount(text: str, value: float) -> None:
    assert amount(text) == value


@pytest.mark.parametrize(
    "text", ["", "abc", "1 Gi", "1Gb", "--1", "1e", "NaN", "inf", "0x10", "1" * 100, "１", "1e3Ki", "1e3m", " 1", "1 "]
)
def test_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadQuantity, match="not a quantity"):
        amount(text)


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("1h30m", 5400), ("-5s", -5), ("0", 0), ("1.5h", 5400), ("100ms", 0.1), ("2m0.5s", 120.5)]
)
def test_durations(text: str, value: float) -> None:
    assert duration(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "1d", "1h-3m", "x" * 200])
def test_bad_durations(text: str) -> None:
    with pytest.raises(BadQuantity):
        duration(text)


@given(st.integers(0, 4_000_000_000))
def test_times_come_back(at: int) -> None:
    assert seconds(rfc3339(at)) == at


def test_bad_time() -> None:
    with pytest.raises(BadQuantity):
        seconds("yesterday")


@given(st.integers(0, 10**9))
def test_plain_cpu_reads_back(value: int) -> None:
    assert milli(plain(float(value), "cpu")) == pytest.approx(value, rel=1e-5)


@given(st.integers(0, 10**15))
def test_plain_amounts_read_back(value: int) -> None:
    assert amount(plain(float(value), "memory")) == value
