"""Pods of one gang that must be in one domain: which they are, and the domains that have room for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shoal_core.nodes import Bytes
from shoal_core.placement.census import meaning
from shoal_core.rows import Pod
from shoal_core.vocabulary import GPU

if TYPE_CHECKING:
    from shoal_core.session import Session

MOST_DOMAINS = 64
"""So many domains are tried in one attempt: each costs placing the gang."""


class Companions(NamedTuple):
    """Pods that a required affinity holds together."""

    topology_key: str
    pods: tuple[Pod, ...]
    uids: frozenset[str]


def companions(session: Session, tasks: list[Pod]) -> Companions | None:
    """The pods among ``tasks`` that a required affinity of one of them binds to another; of several keys, the first one's.

    None where no such term is, or where pods that run already say which domain it is.
    """
    if len(tasks) < 2 or not any(t.shape.social for t in tasks):
        return None
    census = session.census
    seen: set[int] = set()
    for task in tasks:
        affinity = task.record.affinity
        if affinity is None or task.shape.number in seen:
            continue
        seen.add(task.shape.number)
        for term in affinity.pod_required:
            means = meaning(term, task.record)
            meant = [t for t in tasks if census.means(means, t.record)]
            if not meant or meant == [task] or census.count(means):
                continue
            bound = {t.record.uid for t in meant}
            for other in tasks:
                theirs = other.record.affinity
                if theirs and any(
                    x.topology_key == term.topology_key and meaning(x, other.record) == means for x in theirs.pod_required
                ):
                    bound.add(other.record.uid)
            pods = tuple(t for t in tasks if t.record.uid in bound)
            return Companions(term.topology_key, pods, frozenset(bound))
    return None


def domains(session: Session, found: Companions, among: Bytes) -> Iterator[Bytes]:
    """The nodes of each domain that may hold all the companions, the fullest first, then by name.

    A domain is left out where its nodes, idle and releasing, have too little of a resource for all of them, or too few
    places for as many of the smallest.
    """
    nodes = session.nodes
    ids, number = session.census.domains(found.topology_key)
    size = nodes.idle.shape[0]
    total, least = np.zeros(size), np.full(size, np.inf)
    for pod in found.pods:
        request = np.zeros(size)
        request[: pod.shape.request.shape[0]] = pod.shape.request
        total += request
        least = np.minimum(least, request)
    room = np.maximum(nodes.idle + nodes.releasing, 0.0)
    asked = [r for r in np.flatnonzero(least > 0).tolist() if r != GPU or not any(p.shape.shared for p in found.pods)]
    each = np.full(ids.shape[0], float(len(found.pods)))
    for r in asked:
        each = np.minimum(each, np.floor(room[r] / least[r] + 1e-9))
    inside = (ids >= 0) & (among == 1)
    pods = np.bincount(ids[inside], weights=each[inside], minlength=number)
    fits = pods >= len(found.pods)
    for r in asked:
        fits &= np.bincount(ids[inside], weights=room[r][inside], minlength=number) >= total[r] - 1e-6
    names: dict[int, str] = {}
    for column in np.flatnonzero(inside).tolist():
        node = nodes.records[column]
        if node is not None:
            names.setdefault(int(ids[column]), node.labels[found.topology_key])
    free = np.bincount(ids[inside], weights=room[GPU][inside], minlength=number)
    order = sorted((d for d in names if fits[d]), key=lambda d: (free[d], pods[d], names[d]))
    for d in order[:MOST_DOMAINS]:
        yield ((ids == d) & inside).astype(np.uint8)
