"""Charge pods to nodes and take them off again: whole resources, and memory of shared devices (placement spec 1.9, 1.10).

Arrays of nodes are (resources, nodes) float64; arrays of shared devices are (nodes, slots). All amounts are whole
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
GPU_ROW = 2


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


@njit(
    "void(float64[:,::1], float64[:,::1], float64[::1], float64[::1], int64[::1], int64[:,::1], int64[:,::1], int64[:,::1],"
    " uint8[:,::1], uint8[:,::1], int64[::1], int64, int64, int64, int64, int64)",
    cache=True,
    nogil=True,
)
def charge_slot(
    idle: Floats,
    releasing: Floats,
    whole_used: Floats,
    devices: Floats,
    device_memory: Ints,
    used: Ints,
    leaving: Ints,
    held: Ints,
    marked: Bytes,
    known: Bytes,
    room: Ints,
    n: int,
    s: int,
    memory: int,
    how: int,
    sign: int,
) -> None:
    """Charge ``memory`` MiB to slot ``s`` of node ``n`` (``sign`` 1) or take it off (-1).

    ``used``, ``leaving``, ``held`` are memory by slot: of all pods, of those that leave less those that will come, and of
    those that are there. ``marked``: the whole device counts as one that is being released; ``known``: a pod was charged
    there. A device turns from idle to shared with its first pod. ``room`` (nodes,) becomes the most free memory of a
    slot that others may join, -1 if there is none.
    """
    if sign > 0:
        used[n, s] += memory
    else:
        used[n, s] -= memory
    shared = 0
    for i in range(used.shape[1]):
        if used[n, i] > 0:
            shared += 1
    in_use = int(whole_used[n]) + shared
    cap = int(devices[n])
    if sign > 0:
        if how == 1:
            leaving[n, s] += memory
            held[n, s] += memory
            known[n, s] = 1
            if used[n, s] == leaving[n, s] and marked[n, s] == 0:
                releasing[GPU_ROW, n] += 1.0
                marked[n, s] = 1
            if cap < int(idle[GPU_ROW, n]) + in_use:
                idle[GPU_ROW, n] -= 1.0
        elif how == 2:
            if used[n, s] - memory == leaving[n, s]:
                releasing[GPU_ROW, n] -= 1.0
            leaving[n, s] -= memory
        else:
            held[n, s] += memory
            known[n, s] = 1
            if used[n, s] <= memory and cap < int(idle[GPU_ROW, n]) + in_use:
                idle[GPU_ROW, n] -= 1.0
            if marked[n, s] == 1:
                releasing[GPU_ROW, n] -= 1.0
                marked[n, s] = 0
    elif how == 1:
        leaving[n, s] -= memory
        held[n, s] -= memory
        if used[n, s] <= 0:
            if cap >= int(idle[GPU_ROW, n]) + in_use:
                idle[GPU_ROW, n] += 1.0
            if marked[n, s] == 1:
                releasing[GPU_ROW, n] -= 1.0
                marked[n, s] = 0
    elif how == 2:
        leaving[n, s] += memory
        if used[n, s] + memory == leaving[n, s] - memory or (used[n, s] == 0 and leaving[n, s] == 0):
            releasing[GPU_ROW, n] += 1.0
    else:
        held[n, s] -= memory
        if used[n, s] <= 0 and cap >= int(idle[GPU_ROW, n]) + in_use:
            idle[GPU_ROW, n] += 1.0
        if used[n, s] != 0 and leaving[n, s] == used[n, s] and marked[n, s] == 0:
            releasing[GPU_ROW, n] += 1.0
            marked[n, s] = 1
    best = -1
    for i in range(used.shape[1]):
        if used[n, i] != 0 and held[n, i] != leaving[n, i]:
            free = device_memory[n] - held[n, i] + leaving[n, i]
            if free > best:
                best = free
    room[n] = best
