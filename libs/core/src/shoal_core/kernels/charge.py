"""Charge whole resources of pods to nodes and take them off again (placement spec 1.9).

Arrays of nodes are (resources, nodes) float64. All amounts are whole
numbers, so that what is charged and taken off again leaves no trace.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

RUNS, LEAVES, WILL = range(3)
"""How a pod is on a node: it runs there, is being released, or has a place as soon as others are released."""


@njit(
    "void(float64[:,::1], float64[:,::1], float64[:,::1], float64[::1], int64[::1], int64, int64, float64)",
    cache=True,
    nogil=True,
)
def charge(
    idle: Floats, releasing: Floats, allocatable: Floats, request: Floats, rows: Ints, n: int, how: int, sign: float
) -> None:
    """Charge ``request`` (its ``rows``) to node ``n``; ``sign`` -1 takes it off. What the node lacks is not charged."""
    for i in range(rows.shape[0]):
        r = rows[i]
        if allocatable[r, n] == 0.0:
            continue
        v = request[r] * sign
        if how != WILL:
            idle[r, n] -= v
        if how == LEAVES:
            releasing[r, n] += v
        elif how == WILL:
            releasing[r, n] -= v


def charge_slowly(
    idle: Floats, releasing: Floats, allocatable: Floats, request: Floats, rows: Ints, n: int, how: int, sign: float
) -> None:
    """The twin of ``charge``."""
    for r in rows:
        if allocatable[r, n]:
            v = request[r] * sign
            idle[r, n] -= v if how in (RUNS, LEAVES) else 0
            releasing[r, n] += {RUNS: 0.0, LEAVES: v, WILL: -v}[how]
