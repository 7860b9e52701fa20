"""Sum what is free over the domains of a topology (placement spec 5.3, 5.4)."""

from __future__ import annotations

from itertools import pairwise

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
                free[r, d] += max(0.0, idle[r, n] + releasing[r, n])
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
            if largest[r] > have and largest[r] > 0.0:
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
        if not nothing and (largest <= room)[largest > 0].all():
            fit = int(min((room[r] // largest[r] for r in range(len(largest)) if largest[r] > 0), default=0))
        while at >= 0 and inside[at]:
            free[:, at] += np.where(largest > 0, np.maximum(have, 0.0), 0.0)
            pods[at] += fit if count_pods else 0
            at = int(parent[at])


@njit(
    "void(float64[:,::1], float64[:,::1], int64[::1], int64[::1], float64[::1], int64, int64[::1], int64[::1], int64[::1],"
    " int64, float64[:,::1], int64[::1])",
    cache=True,
    nogil=True,
)
def renew_domains(
    idle: Floats,
    releasing: Floats,
    leaf: Ints,
    parent: Ints,
    largest: Floats,
    count_pods: int,
    changed: Ints,
    starts: Ints,
    members: Ints,
    first: int,
    free: Floats,
    pods: Ints,
) -> None:
    """Bring what ``sum_domains`` filled in up to date after the nodes ``changed`` were charged.

    All domains are looked at, ``largest`` asks for something and not for a part of a GPU. The lowest domains are those from
    ``first`` on; ``members[starts[d - first] : starts[d - first + 1]]`` are the nodes of domain d in ascending order. Sums are
    made anew in the order of ``sum_domains``, so that they are the same to the last bit.
    """
    total = largest.shape[0]
    for i in range(changed.shape[0]):
        d = leaf[changed[i]]
        if d < 0:
            continue
        pods[d] = -1
    for i in range(changed.shape[0]):
        d = leaf[changed[i]]
        if d < 0 or pods[d] != -1:
            continue
        pods[d] = 0
        for r in range(total):
            free[r, d] = 0.0
        for at in range(starts[d - first], starts[d - first + 1]):
            n = members[at]
            fit = np.inf
            for r in range(total):
                have = idle[r, n] + releasing[r, n]
                if largest[r] <= 0.0:
                    continue
                free[r, d] += max(0.0, have)
                if largest[r] > have:
                    fit = 0.0
                elif fit > 0.0:
                    fit = min(fit, np.floor(have / largest[r]))
            if count_pods != 0 and fit != np.inf:
                pods[d] += int(fit)
    for d in range(first):
        pods[d] = 0
        for r in range(total):
            free[r, d] = 0.0
    for i in range(pods.shape[0]):
        d = pods.shape[0] - 1 - i
        p = parent[d]
        if p >= 0:
            for r in range(total):
                if largest[r] > 0.0:
                    free[r, p] += free[r, d]
            pods[p] += pods[d]


def renew_domains_slowly(
    idle: Floats, releasing: Floats, leaf: Ints, parent: Ints, largest: Floats, count_pods: int, changed: Ints, starts: Ints,
    members: Ints, first: int, free: Floats, pods: Ints,
) -> None:  # fmt: skip
    """The twin of ``renew_domains``: all anew."""
    free[:], pods[:] = 0.0, 0
    inside, none = np.ones(pods.shape[0], np.uint8), np.zeros(idle.shape[1])
    sum_domains_slowly(idle, releasing, inside, leaf, parent, largest, none, count_pods, 0, free, pods)


@njit("void(float64[:,::1], float64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], int64[::1])",
      cache=True, nogil=True)  # fmt: skip
def order_domains(
    free: Floats, total: Floats, parent: Ints, rank: Ints, bounds: Ints, order: Ints, ratio: Floats, place: Ints
) -> None:
    """Put the domains of each level in order: those of parents that come first, then the fullest, then by ``rank``.

    ``bounds[i] : bounds[i + 1]`` are the domains of level i, and their places in ``order``, which holds an order from before:
    the nearer it is, the less work. ``ratio`` receives by domain the largest part of what is free that ``total`` asks for,
    1000 where nothing is free, ``place`` the domain's place in its level. Row 3 (pods) does not count.
    """
    for d in range(free.shape[1]):
        most = 0.0
        for r in range(total.shape[0]):
            if r != 3 and total[r] > 0.0:
                part = total[r] / free[r, d] if free[r, d] > 0.0 else 1000.0
                if part > most:
                    most = part
        ratio[d] = most
    place[0] = 0
    for level in range(bounds.shape[0] - 1):
        first = bounds[level]
        for i in range(first + 1, bounds[level + 1]):
            d = order[i]
            at = i
            while at > first:
                e = order[at - 1]
                p, q = place[parent[d]], place[parent[e]]
                if p > q or (p == q and (ratio[d] < ratio[e] or (ratio[d] == ratio[e] and rank[d] > rank[e]))):
                    break
                order[at] = e
                at -= 1
            order[at] = d
        for i in range(first, bounds[level + 1]):
            place[order[i]] = i - first


def order_domains_slowly(
    free: Floats, total: Floats, parent: Ints, rank: Ints, bounds: Ints, order: Ints, ratio: Floats, place: Ints
) -> None:
    """The twin of ``order_domains``."""
    for d in range(free.shape[1]):
        asked = [r for r in range(len(total)) if r != 3 and total[r] > 0]
        ratio[d] = max((float(total[r] / free[r, d]) if free[r, d] > 0 else 1000.0 for r in asked), default=0.0)
    place[0] = 0
    for first, end in pairwise(bounds.tolist()):
        found = sorted(range(first, end), key=lambda d: (place[parent[d]], -ratio[d], rank[d]))
        order[first:end] = found
        place[found] = np.arange(end - first)
