"""Parts of GPUs: charge them to shared devices, and find the best node and devices (placement spec 1.10, 2.3, 3.1, 3.3)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
GPU_ROW = 2


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
            if used[n, s] == leaving[n, s]:
                if marked[n, s] == 0:
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


@njit("UniTuple(float64, 2)(float64[:,::1], float64[:,::1], float64[:,::1], uint8[::1])", cache=True, nogil=True)
def spread_of(idle: Floats, releasing: Floats, allocatable: Floats, candidates: Bytes) -> tuple[float, float]:
    """(least, most) GPUs that are free on a candidate that has any."""
    least = np.inf
    most = 0.0
    for n in range(idle.shape[1]):
        if candidates[n] == 1 and allocatable[GPU_ROW, n] != 0.0:
            v = idle[GPU_ROW, n] + releasing[GPU_ROW, n]
            if v < least:
                least = v
            if v > most:
                most = v
    return least, most


@njit(
    "Tuple((float64, int64, int64))(int64, float64, float64, float64, float64[:,::1], float64[:,::1], float64[:,::1],"
    " int64[::1], float64[::1], float64[::1], int64[::1], int64[:,::1], int64[:,::1], int64[:,::1], float64[::1], float64,"
    " int64, int64, int64, int64, int64, int64, int64)",
    cache=True,
    nogil=True,
)
def weigh_shared(
    n: int,
    floor: float,
    least: float,
    most: float,
    idle: Floats,
    releasing: Floats,
    allocatable: Floats,
    room: Ints,
    extra: Floats,
    devices: Floats,
    gpu_memory: Ints,
    used: Ints,
    leaving: Ints,
    held: Ints,
    request: Floats,
    fraction: float,
    memory: int,
    wanted: int,
    strategy: int,
    availability: int,
    sharing: int,
    device_order: int,
    pods_row: int,
) -> tuple[float, int, int]:
    """(score, memory of each device, 1 if it fits in what is idle) of a node for a pod that asks for parts of GPUs.

    The score is -inf if the pod does not fit, or if the node can't come to ``floor``. Arguments as for ``place_shared``.
    """
    size = gpu_memory[n]
    need = memory if memory > 0 else int(fraction * size)
    bonus = 0.0
    if room[n] < need:
        if idle[2, n] + releasing[2, n] < 1.0:
            return -np.inf, need, 0
    elif sharing == 1:
        bonus = 10000.0
    if strategy != 1 and extra[n] + bonus + 1009.0 < floor:
        # Not even idle and full could it win.
        return -np.inf, need, 0
    fits_idle = 1
    for r in range(request.shape[0]):
        if r == 2 or request[r] == 0.0:
            continue
        if request[r] > idle[r, n]:
            fits_idle = 0
            if allocatable[r, n] == 0.0:
                return -np.inf, need, 0
        if request[r] > idle[r, n] + releasing[r, n]:
            return -np.inf, need, 0
    if memory > 0 and memory > size:
        return -np.inf, need, 0
    joinable = 0
    if room[n] >= need and size >= 100:
        if wanted == 1:
            joinable = 1
        else:
            for s in range(used.shape[1]):
                if used[n, s] != 0 and held[n, s] != leaving[n, s] and size - held[n, s] + leaving[n, s] >= need:
                    joinable += 1
    whole = 0
    if idle[2, n] > 0.0 or releasing[2, n] > 0.0:
        whole = max(0, int(idle[2, n]) + int(releasing[2, n]))
    if joinable + whole < wanted:
        return -np.inf, need, 0
    if max(0.0, np.floor(idle[2, n])) + joinable < wanted:
        fits_idle = 0
    if pods_row >= 0 and idle[pods_row, n] + releasing[pods_row, n] < 2.0 and (joinable < wanted or device_order == 1):
        return -np.inf, need, 0
    score = extra[n] + bonus
    if availability == 1 and fits_idle == 1:
        score += 1000.0
    if strategy == 0:
        if allocatable[2, n] != 0.0 and most != 0.0:
            if least == most:
                score += 9.0
            else:
                score += 9.0 * (1.0 - (idle[2, n] + releasing[2, n] - least) / (most - least))
    elif strategy == 1 and devices[n] != 0.0:
        score += (idle[2, n] + releasing[2, n]) / devices[n]
    return score, need, fits_idle


@njit(
    "int64(int64, int64, int64, int64, int64, float64[:,::1], float64[:,::1], int64[::1], int64[:,::1], int64[:,::1],"
    " int64[:,::1], uint8[:,::1], int64, int64[::1])",
    cache=True,
    nogil=True,
)
def pick_devices(
    n: int,
    need: int,
    wanted: int,
    fits_idle: int,
    only_later: int,
    idle: Floats,
    releasing: Floats,
    gpu_memory: Ints,
    used: Ints,
    leaving: Ints,
    held: Ints,
    known: Bytes,
    device_order: int,
    out: Ints,
) -> int:
    """Choose ``wanted`` devices of node ``n`` with ``need`` MiB free each: their slots into ``out``, -1 for a new one.

    1 if the pod has to wait for what is being released there.
    """
    whole = 0
    if idle[2, n] > 0.0 or releasing[2, n] > 0.0:
        whole = max(0, int(idle[2, n]) + int(releasing[2, n]))
    waits = only_later
    slots = used.shape[1]
    for i in range(wanted):
        pick = -1
        pick_score = -np.inf
        if gpu_memory[n] >= 100:
            for s in range(slots):
                if used[n, s] == 0 or held[n, s] == leaving[n, s]:
                    continue
                if gpu_memory[n] - held[n, s] + leaving[n, s] < need:
                    continue
                taken = False
                for j in range(i):
                    if out[j] == s:
                        taken = True
                if taken:
                    continue
                value = 0.0
                if device_order == 0:
                    value = used[n, s] / gpu_memory[n]
                elif device_order == 1:
                    value = 1.0 - used[n, s] / gpu_memory[n]
                if value > pick_score:
                    pick = s
                    pick_score = value
        if whole > 0 and (pick < 0 or (device_order == 1 and pick_score < 1.0)):
            pick = -1
            whole -= 1
            if fits_idle == 0:
                waits = 1
        elif pick >= 0 and (fits_idle == 0 or known[n, pick] == 0 or gpu_memory[n] - held[n, pick] < need):
            waits = 1
        out[i] = pick
    return waits


@njit(
    "int64(float64[:,::1], float64[:,::1], float64[:,::1], uint8[::1], uint8[::1], int64[::1], float64[::1], float64[::1],"
    " int64[::1], int64[::1], int64[:,::1], int64[:,::1], int64[:,::1], uint8[:,::1], float64[::1], float64, int64, int64,"
    " int64, int64, int64, int64, int64, int64, int64[::1])",
    cache=True,
    nogil=True,
)
def place_shared(
    idle: Floats,
    releasing: Floats,
    allocatable: Floats,
    candidates: Bytes,
    allowed: Bytes,
    room: Ints,
    extra: Floats,
    devices: Floats,
    rank: Ints,
    gpu_memory: Ints,
    used: Ints,
    leaving: Ints,
    held: Ints,
    known: Bytes,
    request: Floats,
    fraction: float,
    memory: int,
    wanted: int,
    strategy: int,
    availability: int,
    sharing: int,
    device_order: int,
    pods_row: int,
    only_later: int,
    out: Ints,
) -> int:
    """The best node for one pod that asks for parts of ``wanted`` GPUs, and its devices; -1 if there is none.

    ``fraction`` of each GPU, or ``memory`` MiB of each. Slots are (nodes, slots), see ``charge_slot``. ``device_order``:
    0 the fullest device first, 1 the emptiest (unused ones before), 2 as they come. ``pods_row`` -1: no check for the
    reservation pod that a new shared device needs. ``out`` (2 + wanted,) receives whether it has to wait for what is
    being released, the memory of each device, and the slots (-1: a device that is not shared yet).
    """
    least, most = np.inf, 0.0
    if strategy == 0:
        least, most = spread_of(idle, releasing, allocatable, candidates)
    best = -1
    best_score = -np.inf
    best_idle = 0
    for n in range(idle.shape[1]):
        if candidates[n] == 0 or allowed[n] == 0:
            continue
        score, need, fits_idle = weigh_shared(
            n, best_score, least, most, idle, releasing, allocatable, room, extra, devices, gpu_memory, used, leaving, held,
            request, fraction, memory, wanted, strategy, availability, sharing, device_order, pods_row,
        )  # fmt: skip
        if score > best_score or (best >= 0 and score == best_score and rank[n] < rank[best]):
            best = n
            best_score = score
            best_idle = fits_idle
            out[1] = need
    if best < 0:
        return -1
    out[0] = pick_devices(
        best, out[1], wanted, best_idle, only_later, idle, releasing, gpu_memory, used, leaving, held, known, device_order,
        out[2:],
    )  # fmt: skip
    return best


def place_shared_slowly(
    idle: Floats, releasing: Floats, allocatable: Floats, candidates: Bytes, allowed: Bytes, room: Ints, extra: Floats,
    devices: Floats, rank: Ints, gpu_memory: Ints, used: Ints, leaving: Ints, held: Ints, known: Bytes, request: Floats,
    fraction: float, memory: int, wanted: int, strategy: int, availability: int, sharing: int, device_order: int,
    pods_row: int, only_later: int, out: Ints,
) -> int:  # fmt: skip
    """The twin of ``place_shared``: the same, from lists of what each node has."""
    free = idle + releasing
    sized = [float(free[GPU_ROW, n]) for n in np.flatnonzero(candidates) if allocatable[GPU_ROW, n]]
    least, most = min(sized, default=0.0), max([0.0, *sized])
    asked = [r for r in range(len(request)) if r != GPU_ROW and request[r] > 0]
    found: list[tuple[float, int, int, int, bool, list[int], int]] = []
    for n in np.flatnonzero(candidates & allowed).tolist():
        size = int(gpu_memory[n])
        need = memory or int(fraction * size)
        roomy = room[n] >= need
        joined = used[n] != 0
        joined &= held[n] != leaving[n]
        open_ = [s for s in np.flatnonzero(joined).tolist() if size - held[n, s] + leaving[n, s] >= need and size >= 100]
        joinable = (min(len(open_), 1) if wanted == 1 else len(open_)) if roomy else 0
        spare = int(idle[GPU_ROW, n]) + int(releasing[GPU_ROW, n]) if idle[GPU_ROW, n] > 0 or releasing[GPU_ROW, n] > 0 else 0
        whole = max(0, spare)
        if (not roomy and free[GPU_ROW, n] < 1) or joinable + whole < wanted or memory > size:
            continue
        if any(request[r] > free[r, n] or (request[r] > idle[r, n] and not allocatable[r, n]) for r in asked):
            continue
        if pods_row >= 0 and free[pods_row, n] < 2 and (joinable < wanted or device_order == 1):
            continue
        now = all(request[r] <= idle[r, n] for r in asked) and max(0, np.floor(idle[GPU_ROW, n])) + joinable >= wanted
        score = float(extra[n]) + (10000.0 if roomy and sharing else 0.0) + (1000.0 if availability and now else 0.0)
        if strategy == 0 and allocatable[GPU_ROW, n] and most:
            score += 9.0 if least == most else 9.0 * (1.0 - (float(free[GPU_ROW, n]) - least) / (most - least))
        if strategy == 1 and devices[n]:
            score += float(free[GPU_ROW, n] / devices[n])
        found.append((-score, int(rank[n]), n, need, bool(now), open_, whole))
    if not found:
        return -1
    _, _, best, need, now, open_, whole = min(found)
    out[1] = need
    waits = bool(only_later)
    share = {s: float(used[best, s] / gpu_memory[best]) for s in open_}
    for i in range(wanted):
        order = {0: lambda s: -share[s], 1: lambda s: -(1.0 - share[s])}.get(device_order, lambda _: 0.0)
        pick = min(open_, key=order, default=-1)
        if whole and (pick < 0 or (device_order == 1 and 1.0 - share[pick] < 1.0)):
            pick, whole = -1, whole - 1
            waits |= not now
        elif pick >= 0:
            waits |= not now or not known[best, pick] or gpu_memory[best] - held[best, pick] < need
            open_.remove(pick)
        out[2 + i] = pick
    out[0] = waits
    return best


@njit("int64(float64[::1], int64[::1], int64, int64)", cache=True, nogil=True)
def best_between(scores: Floats, rank: Ints, start: int, stop: int) -> int:
    """The node of the best score from ``start`` to before ``stop``, ties by rank; -1 if all are -inf."""
    best = -1
    most = -np.inf
    for n in range(start, stop):
        if scores[n] > most or (best >= 0 and scores[n] == most and rank[n] < rank[best]):
            best = n
            most = scores[n]
    return best


@njit(
    "int64(float64[:,::1], float64[:,::1], float64[:,::1], uint8[::1], uint8[:,::1], int64[::1], float64[::1],"
    " float64[::1], int64[::1], int64[::1], int64[:,::1], int64[:,::1], int64[:,::1], uint8[:,::1], uint8[:,::1],"
    " float64[::1], int64[::1], float64[:,::1], float64[::1], int64, int64, int64, int64, int64, int64[::1], int64[::1],"
    " int64[::1], uint8[::1])",
    cache=True,
    nogil=True,
)
def place_shared_run(
    idle: Floats,
    releasing: Floats,
    allocatable: Floats,
    candidates: Bytes,
    allowed: Bytes,
    room: Ints,
    extra: Floats,
    devices: Floats,
    rank: Ints,
    gpu_memory: Ints,
    used: Ints,
    leaving: Ints,
    held: Ints,
    marked: Bytes,
    known: Bytes,
    whole_used: Floats,
    opened: Ints,
    request: Floats,
    fraction: Floats,
    strategy: int,
    availability: int,
    sharing: int,
    device_order: int,
    pods_row: int,
    kinds: Ints,
    out: Ints,
    slots: Ints,
    fresh: Bytes,
) -> int:
    """Place pods one after the other, each on a part of one GPU, as ``place_shared`` does, and charge them.

    Pods are of a few kinds: ``kinds`` (pods,) has the kind of each, ``request`` (kinds, resources), ``fraction`` (kinds,)
    and ``allowed`` (kinds, nodes) what they ask for. ``opened`` (nodes,) is how many slots of each node were ever in use.
    Ends at the first pod that finds no node, or would have to wait for what is being released, or needs a slot more than
    there are; returns how many were placed. Of those ``out`` receives the node, ``slots`` the slot, ``fresh`` 1 where the
    device was not shared before.

    The scores of all nodes are kept for each kind, with the best of each block of nodes: a placement changes those of its
    node alone, unless the least or most free node does.
    """
    count, nodes, total = request.shape[0], idle.shape[1], request.shape[1]
    block = 64
    blocks = (nodes + block - 1) // block
    scores = np.empty((count, nodes))
    needs = np.zeros((count, nodes), np.int64)
    idles = np.zeros((count, nodes), np.int64)
    tops = np.empty((count, blocks), np.int64)
    least, most = np.inf, 0.0
    if strategy == 0:
        least, most = spread_of(idle, releasing, allocatable, candidates)
    first, last = 0, nodes
    pick = np.zeros(1, np.int64)
    for i in range(kinds.shape[0]):
        for k in range(count):
            for n in range(first, last):
                scores[k, n] = -np.inf
                if candidates[n] == 1 and allowed[k, n] == 1:
                    scores[k, n], needs[k, n], idles[k, n] = weigh_shared(
                        n, -np.inf, least, most, idle, releasing, allocatable, room, extra, devices, gpu_memory, used,
                        leaving, held, request[k], fraction[k], 0, 1, strategy, availability, sharing, device_order,
                        pods_row,
                    )  # fmt: skip
            for b in range(first // block, (last + block - 1) // block):
                tops[k, b] = best_between(scores[k], rank, b * block, min(nodes, b * block + block))
        kind = kinds[i]
        best = -1
        for b in range(blocks):
            n = tops[kind, b]
            if n >= 0 and (
                best < 0
                or scores[kind, n] > scores[kind, best]
                or (scores[kind, n] == scores[kind, best] and rank[n] < rank[best])
            ):
                best = n
        if best < 0:
            return i
        n = best
        if pick_devices(
            n, needs[kind, n], 1, idles[kind, n], 0, idle, releasing, gpu_memory, used, leaving, held, known, device_order, pick
        ):
            return i
        fresh[i] = 1 if pick[0] < 0 else 0
        if pick[0] < 0:
            if opened[n] >= used.shape[1]:
                return i
            pick[0] = opened[n]
            opened[n] += 1
        before = idle[2, n] + releasing[2, n]
        for r in range(total):
            if r != 2 and allocatable[r, n] != 0.0:
                idle[r, n] -= request[kind, r]
        charge_slot(
            idle, releasing, whole_used, devices, gpu_memory, used, leaving, held, marked, known, room, n, pick[0],
            needs[kind, n], 0, 1,
        )  # fmt: skip
        out[i] = n
        slots[i] = pick[0]
        first, last = n, n + 1
        now = idle[2, n] + releasing[2, n]
        if strategy == 0 and now != before:
            lower, higher = min(least, now), most
            if now > before or before == most:
                lower, higher = spread_of(idle, releasing, allocatable, candidates)
            if lower != least or higher != most:
                least, most = lower, higher
                first, last = 0, nodes
    return kinds.shape[0]
