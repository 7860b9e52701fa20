"""Place pods on nodes, best node first, one pod at a time (placement spec 2.1, 3.1, 3.2, 8.3)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

PACK, SPREAD, NEITHER = range(3)
AVAILABLE, SHARING, PREFERRED = 1000.0, 10000.0, 10.0
DENSITY = 9.0


@njit(
    "int64(float64[:,::1], float64[:,::1], float64[:,::1], uint8[::1], uint8[::1], uint8[::1], int64[::1], float64[::1],"
    " float64[::1], int64[::1], float64[::1], int64[::1], int64, int64, int64, int64, int64, int64, int64, int64[::1],"
    " int64[::1])",
    cache=True,
    nogil=True,
)
def place_run(
    idle: Floats,
    releasing: Floats,
    allocatable: Floats,
    candidates: Bytes,
    allowed: Bytes,
    preferred: Bytes,
    room: Ints,
    extra: Floats,
    devices: Floats,
    rank: Ints,
    request: Floats,
    rows: Ints,
    by: int,
    strategy: int,
    availability: int,
    sharing: int,
    only_later: int,
    charged: int,
    count: int,
    out: Ints,
    later: Ints,
) -> int:
    """Place up to ``count`` pods that ask for ``request`` each; returns how many found a node.

    Resources are (resources, nodes). ``candidates`` are the nodes that compete (0 or 1), ``allowed`` those that the pods
    may use. A node fits if of nothing that is asked for more is asked than idle + releasing. Score: ``extra`` + 1000 if it
    fits in idle (``availability`` 1) + 10000 if ``sharing`` and it has a shared GPU with room + 10 if ``preferred`` +
    0 to 9 by how full it is in resource ``by`` (pack) or 0 to 1 by how empty (spread, of ``devices`` for GPUs); ties go
    by ``rank``. ``out`` receives the node of each pod, ``later`` 1 where it has to wait for what is being released
    (always, if ``only_later``). With ``charged``, idle and releasing are charged for what is placed.
    """
    first, nodes = 0, idle.shape[1]
    # Often the candidates are the few nodes of one domain, side by side.
    while first < nodes and candidates[first] == 0:
        first += 1
    while nodes > first and candidates[nodes - 1] == 0:
        nodes -= 1
    total = request.shape[0]
    done = 0
    last = -1
    while done < count:
        best = -1
        best_score = -np.inf
        best_later = 0
        if last >= 0 and strategy == 0 and allocatable[by, last] != 0.0:
            # What packs stays on its node while it fits as it did before: nothing else became more attractive.
            fits_idle = True
            fits = True
            for r in range(total):
                if request[r] > idle[r, last] and request[r] > 0.0:
                    fits_idle = False
                if request[r] > idle[r, last] + releasing[r, last] and request[r] > 0.0:
                    fits = False
                    break
            was_later = later[done - 1]
            if fits and (only_later == 0) and ((fits_idle and was_later == 0) or (not fits_idle and was_later == 1)):
                best = last
                best_later = was_later
        if best < 0:
            least = np.inf
            most = 0.0
            seen = np.inf
            fullness = 0.0
            if strategy == 0:
                for n in range(first, nodes):
                    if candidates[n] == 1 and allocatable[by, n] != 0.0:
                        v = idle[by, n] + releasing[by, n]
                        if v < least:
                            least = v
                        if v > most:
                            most = v
            for n in range(first, nodes):
                if candidates[n] == 0 or allowed[n] == 0:
                    continue
                have = idle[by, n] + releasing[by, n]
                if request[by] > have and request[by] > 0.0:
                    continue
                bonus = extra[n]
                if sharing == 1 and room[n] >= 0:
                    bonus += 10000.0
                if strategy == 0:
                    # Many nodes have as much as the one before.
                    if have != seen:
                        seen = have
                        fullness = 9.0 if least == most else 9.0 * (1.0 - (have - least) / (most - least))
                    value = fullness if allocatable[by, n] != 0.0 and most != 0.0 else 0.0
                else:
                    value = 0.0
                    if strategy == 1:
                        size = devices[n] if by == 2 else allocatable[by, n]
                        if size != 0.0:
                            value = have / size
                liked = 10.0 if preferred[n] == 1 else 0.0
                score = bonus + (1000.0 if availability == 1 else 0.0) + liked + value
                if score < best_score or (best >= 0 and score == best_score and rank[n] >= rank[best]):
                    # Not even if all it asks for is idle.
                    continue
                fits = True
                fits_idle = True
                for r in range(total):
                    have = idle[r, n]
                    if request[r] > have:
                        if request[r] == 0.0:
                            # Too much of it is in use already, which is nothing to a pod without it.
                            continue
                        fits_idle = False
                        if request[r] > have + releasing[r, n]:
                            fits = False
                            break
                    elif releasing[r, n] < 0.0 and request[r] > 0.0 and request[r] > have + releasing[r, n]:
                        fits = False
                        break
                if not fits:
                    continue
                if availability == 1 and not fits_idle:
                    score = bonus + liked + value
                if score > best_score or (score == best_score and rank[n] < rank[best]):
                    best = n
                    best_score = score
                    best_later = 0 if fits_idle else 1
        if best < 0:
            break
        if only_later == 1:
            best_later = 1
        if charged == 1:
            for i in range(rows.shape[0]):
                r = rows[i]
                if allocatable[r, best] != 0.0:
                    if best_later == 1:
                        releasing[r, best] -= request[r]
                    else:
                        idle[r, best] -= request[r]
        out[done] = best
        later[done] = best_later
        last = best
        done += 1
    return done


def place_run_slowly(
    idle: Floats,
    releasing: Floats,
    allocatable: Floats,
    candidates: Bytes,
    allowed: Bytes,
    preferred: Bytes,
    room: Ints,
    extra: Floats,
    devices: Floats,
    rank: Ints,
    request: Floats,
    rows: Ints,
    by: int,
    strategy: int,
    availability: int,
    sharing: int,
    only_later: int,
    charged: int,
    count: int,
    out: Ints,
    later: Ints,
) -> int:
    """The twin of ``place_run``: the same, by sorting."""
    asked = np.flatnonzero(request > 0)

    def fits(among: Floats, n: int) -> bool:
        return bool((request[asked] <= among[asked, n]).all())

    for done in range(count):
        free = idle + releasing
        among = [n for n in range(idle.shape[1]) if candidates[n]]
        sized = [float(free[by, n]) for n in among if allocatable[by, n]]
        least, most = min(sized, default=0.0), max([0.0, *sized])

        def score(n: int, free: Floats = free, least: float = least, most: float = most) -> float:
            found = float(extra[n]) + (SHARING if sharing and room[n] >= 0 else 0.0)
            found += AVAILABLE if availability and fits(idle, n) else 0.0
            found += PREFERRED if preferred[n] else 0.0
            if strategy == PACK and allocatable[by, n] and most:
                found += DENSITY if least == most else DENSITY * (1.0 - (float(free[by, n]) - least) / (most - least))
            size = float(devices[n] if by == 2 else allocatable[by, n])
            return found + (float(free[by, n]) / size if strategy == SPREAD and size else 0.0)

        fitting = [n for n in among if allowed[n] and fits(free, n)]
        if not fitting:
            return done
        best = min(fitting, key=lambda n: (-score(n), int(rank[n])))
        waits = bool(only_later) or not fits(idle, best)
        if charged:
            for r in rows:
                if allocatable[r, best]:
                    (releasing if waits else idle)[r, best] -= request[r]
        out[done], later[done] = best, waits
    return count


@njit("void(float64[:,::1], uint8[::1], float64[::1], int64[::1], int64[::1])", cache=True, nogil=True)
def count_short(free: Floats, allowed: Bytes, request: Floats, rows: Ints, out: Ints) -> None:
    """For each resource in ``rows``: on how many allowed nodes too little of it is free. ``out`` is (len(rows),)."""
    for i in range(rows.shape[0]):
        r = rows[i]
        short = 0
        for n in range(free.shape[1]):
            if allowed[n] == 1 and free[r, n] < request[r]:
                short += 1
        out[i] = short


def count_short_slowly(free: Floats, allowed: Bytes, request: Floats, rows: Ints, out: Ints) -> None:
    """The twin of ``count_short``."""
    for i, r in enumerate(rows):
        out[i] = sum(1 for n in range(free.shape[1]) if allowed[n] and free[r, n] < request[r])
