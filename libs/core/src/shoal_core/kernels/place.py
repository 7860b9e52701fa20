"""Place a run of equal pods on nodes, best node first, one pod at a time."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@njit(
    "int64(float64[:,::1], float64[:,::1], uint8[::1], uint8[::1], int64[::1], float64[::1], int64[::1],"
    " int64, int64, int64, int64[::1])",
    cache=True,
    nogil=True,
)
def place_run(
    idle: Floats,
    allocatable: Floats,
    allowed: Bytes,
    preferred: Bytes,
    rank: Ints,
    request: Floats,
    rows: Ints,
    by: int,
    spread: int,
    count: int,
    out: Ints,
) -> int:
    """Place up to ``count`` pods that ask for ``request`` each; returns how many found a node.

    ``idle`` and ``allocatable`` are (resources, nodes); ``idle`` is charged for what is placed. ``allowed`` and
    ``preferred`` are 0 or 1 for each node, ``rank`` orders nodes of equal score (smaller first). Only the resources in
    ``rows`` are asked for. ``by`` is the resource that is packed, or spread if ``spread`` is 1. ``out`` receives the
    node of each pod placed. Score: preferred nodes first, then least idle of ``by`` (pack) or the largest idle share
    of it (spread), then rank (placement spec 3.1 and 3.2).
    """
    nodes = idle.shape[1]
    done = 0
    while done < count:
        best = -1
        best_preferred = 0
        best_score = 0.0
        for n in range(nodes):
            if allowed[n] == 0:
                continue
            fits = True
            for i in range(rows.shape[0]):
                r = rows[i]
                if idle[r, n] < request[r]:
                    fits = False
                    break
            if not fits:
                continue
            if spread == 1:
                score = idle[by, n] / allocatable[by, n] if allocatable[by, n] > 0 else 0.0
            else:
                score = -idle[by, n] if allocatable[by, n] > 0 else -np.inf
            if best >= 0:
                if preferred[n] < best_preferred:
                    continue
                if preferred[n] == best_preferred:
                    if score < best_score:
                        continue
                    if score == best_score and rank[n] > rank[best]:
                        continue
            best = n
            best_preferred = preferred[n]
            best_score = score
        if best < 0:
            break
        for i in range(rows.shape[0]):
            r = rows[i]
            idle[r, best] -= request[r]
        out[done] = best
        done += 1
    return done


def place_run_slowly(
    idle: Floats,
    allocatable: Floats,
    allowed: Bytes,
    preferred: Bytes,
    rank: Ints,
    request: Floats,
    rows: Ints,
    by: int,
    spread: int,
    count: int,
    out: Ints,
) -> int:
    """The twin of ``place_run``: the same, by sorting."""
    for done in range(count):
        fitting = [n for n in range(idle.shape[1]) if allowed[n] and all(idle[r, n] >= request[r] for r in rows)]
        if not fitting:
            return done

        def score(n: int) -> tuple[int, float, int]:
            have, size = float(idle[by, n]), float(allocatable[by, n])
            if spread:
                key = have / size if size > 0 else 0.0
            else:
                key = -have if size > 0 else -np.inf
            return -int(preferred[n]), -key, int(rank[n])

        best = min(fitting, key=score)
        idle[rows, best] -= request[rows]
        out[done] = best
    return count


@njit("void(float64[:,::1], uint8[::1], float64[::1], int64[::1], int64[::1])", cache=True, nogil=True)
def count_short(idle: Floats, allowed: Bytes, request: Floats, rows: Ints, out: Ints) -> None:
    """For each resource in ``rows``: on how many allowed nodes too little of it is idle. ``out`` is (len(rows),)."""
    for i in range(rows.shape[0]):
        r = rows[i]
        short = 0
        for n in range(idle.shape[1]):
            if allowed[n] == 1 and idle[r, n] < request[r]:
                short += 1
        out[i] = short


def count_short_slowly(idle: Floats, allowed: Bytes, request: Floats, rows: Ints, out: Ints) -> None:
    """The twin of ``count_short``."""
    for i, r in enumerate(rows):
        out[i] = sum(1 for n in range(idle.shape[1]) if allowed[n] and idle[r, n] < request[r])


def warm() -> None:
    """Load every kernel (from numba's cache, or by compiling): call it before the first cycle."""
    one, ones, ranks = np.ones((4, 1)), np.ones(1, np.uint8), np.zeros(1, np.int64)
    rows, out = np.array([0], np.int64), np.zeros(1, np.int64)
    place_run(one.copy(), one, ones, ones, ranks, np.ones(4), rows, 0, 0, 1, out)
    count_short(one, ones, np.ones(4), rows, out)
