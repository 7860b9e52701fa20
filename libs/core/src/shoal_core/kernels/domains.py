"""Sum what is free over the domains of a topology (placement spec 5.3, 5.4)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@njit(
    "void(float64[:,::1], float64[:,::1], uint8[::1], int64[::1], int64[::1], float64[::1], float64[::1], int64, int64,"
    " float64[:,::1], int64[::1])",
    cache=True,
    nogil=True,
)
def sum_domains(
    idle: Floats,
    releasing: Floats,
    inside: Bytes,
    leaf: Ints,
    parent: Ints,
    largest: Floats,
    shared: Floats,
    count_pods: int,
    tasks: int,
    free: Floats,
    pods: Ints,
) -> None:
    """Fill ``free`` (resources, domains), of what ``largest`` asks for, and ``pods`` (domains,): how many pods of that
    size fit.

    ``leaf`` (nodes,) is each node's lowest domain, -1 outside the tree; ``inside`` (domains,) marks those looked at.
    ``parent`` (at least domains,) comes before its children, -1 at the root. ``shared`` (nodes,) are the free parts of shared
    GPUs, which count for pods that ask for less than one. A pod that asks for nothing fits ``tasks`` times.
    """
    total = largest.shape[0]
    asks = False
    for r in range(total):
        if r != 3 and largest[r] > 0.0:
            asks = True
    for n in range(leaf.shape[0]):
        d = leaf[n]
        if d < 0 or inside[d] == 0:
            continue
        for r in range(total):
            if largest[r] > 0.0:
                free[r, d] += idle[r, n] + releasing[r, n]
        if count_pods == 0:
            continue
        if not asks and largest[3] <= 1.0:
            pods[d] += tasks
            continue
        fit = np.inf
        for i in range(total):
            # GPUs first: mostly they are the tightest, which spares the other divisions.
            r = 2 - i if i < 3 else i
            have = idle[r, n] + releasing[r, n]
            if r == 2 and 0.0 < largest[2] < 1.0:
                have += shared[n]
            if largest[r] > have:
                fit = 0.0
                break
            if largest[r] > 0.0 and (fit == np.inf or have < fit * largest[r]):
                fit = min(fit, np.floor(have / largest[r]))
        if fit != np.inf:
            pods[d] += int(fit)
    for i in range(inside.shape[0]):
        d = inside.shape[0] - 1 - i
        p = parent[d]
        if p >= 0 and inside[d] == 1 and inside[p] == 1:
            for r in range(total):
                if largest[r] > 0.0:
                    free[r, p] += free[r, d]
            pods[p] += pods[d]


def sum_domains_slowly(
    idle: Floats, releasing: Floats, inside: Bytes, leaf: Ints, parent: Ints, largest: Floats, shared: Floats,
    count_pods: int, tasks: int, free: Floats, pods: Ints,
) -> None:  # fmt: skip
    """The twin of ``sum_domains``."""
    nothing = not any(v > 0 for r, v in enumerate(largest) if r != 3) and largest[3] <= 1
    for n, d in enumerate(leaf):
        at = int(d)
        if at < 0 or not inside[at]:
            continue
        have = idle[:, n] + releasing[:, n]
        room = have.copy()
        room[2] += shared[n] if 0 < largest[2] < 1 else 0
        fit = tasks if nothing else 0
        if not nothing and (largest <= room).all():
            fit = int(min((room[r] // largest[r] for r in range(len(largest)) if largest[r] > 0), default=0))
        while at >= 0 and inside[at]:
            free[:, at] += np.where(largest > 0, have, 0.0)
            pods[at] += fit if count_pods else 0
            at = int(parent[at])
