"""Each kernel against its slow twin."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_core.kernels.place import count_short, count_short_slowly, place_run, place_run_slowly

SMALL = st.integers(0, 6)


@st.composite
def situations(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    nodes = draw(st.integers(1, 7))
    resources = 4
    allocatable = np.array([[float(draw(SMALL)) for _ in range(nodes)] for _ in range(resources)])
    used = np.array([[float(draw(SMALL)) for _ in range(nodes)] for _ in range(resources)])
    idle = allocatable - used
    flags = st.lists(st.integers(0, 1), min_size=nodes, max_size=nodes)
    allowed = np.array(draw(flags), np.uint8)
    preferred = np.array(draw(flags), np.uint8)
    rank = np.array(draw(st.permutations(range(nodes))), np.int64)
    request = np.array([float(draw(st.integers(0, 3))) for _ in range(resources)])
    return idle, allocatable, allowed, preferred, rank, request


@settings(max_examples=300)
@given(situations(), st.integers(0, 3), st.integers(0, 1), st.integers(0, 9))
def test_place_run(found: tuple[np.ndarray, ...], by: int, spread: int, count: int) -> None:
    idle, allocatable, allowed, preferred, rank, request = found
    rows = np.flatnonzero(request).astype(np.int64)
    fast_idle, slow_idle = idle.copy(), idle.copy()
    fast, slow = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    done = place_run(fast_idle, allocatable, allowed, preferred, rank, request, rows, by, spread, count, fast)
    assert done == place_run_slowly(slow_idle, allocatable, allowed, preferred, rank, request, rows, by, spread, count, slow)
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(fast_idle, slow_idle)
    assert all(allowed[n] for n in fast[:done])
    if rows.size and done:
        assert (fast_idle[np.ix_(rows, np.unique(fast[:done]))] >= 0).all()


@given(situations())
def test_count_short(found: tuple[np.ndarray, ...]) -> None:
    idle, _, allowed, _, _, request = found
    rows = np.flatnonzero(request).astype(np.int64)
    fast, slow = np.zeros(rows.size, np.int64), np.zeros(rows.size, np.int64)
    count_short(idle, allowed, request, rows, fast)
    count_short_slowly(idle, allowed, request, rows, slow)
    np.testing.assert_array_equal(fast, slow)
