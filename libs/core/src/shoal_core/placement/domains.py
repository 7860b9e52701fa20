"""The domains of a topology, and what is free in each of them (placement spec 5.3, 5.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from shoal_contracts.state import TopologyRecord
from shoal_core.kernels.domains import order_domains, renew_domains
from shoal_core.nodes import Floats, Ints, Nodes
from shoal_core.vocabulary import PODS

if TYPE_CHECKING:
    from shoal_core.session import Session

ROOT = np.zeros(1, np.int64)
MOST_CHANGED = 128
"""If more nodes changed, all is summed anew."""


def ratio(free: Floats, total: Floats) -> Floats:
    """By domain: the largest part of what is free that is asked for; 1000 where nothing is free."""
    rows = [r for r in np.flatnonzero(total > 0) if r != PODS]
    if not rows:
        return np.zeros(free.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(free[rows] > 0, total[rows][:, None] / free[rows], 1000.0)
    return parts.max(axis=0)


@dataclass
class Domains:
    """The tree of a topology over the nodes that have all its labels. Domain 0 is the root; parents come first."""

    version: int
    labels: list[str]
    names: list[str]
    level: Ints
    parent: Ints
    at_level: Ints
    """(levels, nodes): the node's domain at each level, -1 outside the tree."""
    leaf: Ints
    rank: Ints
    """Order of the domains by name."""
    by_level: list[Ints]
    """The domains of each level, in one piece: those of a lower level have higher numbers."""
    inside: Ints
    """(nodes,): the root for nodes in the tree, -1 for others."""
    bounds: Ints
    """(levels + 1,): where the domains of each level begin, and where the last ends."""
    kept_members: dict[int, tuple[Ints, Ints]] = field(default_factory=dict)

    def members(self, level: int) -> tuple[Ints, Ints]:
        """(starts, nodes): ``nodes[starts[i] : starts[i + 1]]`` are those of the level's domain i in ascending order."""
        found = self.kept_members.get(level)
        if found is None:
            here, first = self.at_level[level], int(self.by_level[level][0]) if len(self.by_level[level]) else 0
            nodes = np.argsort(here, kind="stable")
            nodes = nodes[here[nodes] >= 0].astype(np.int64)
            counts = np.bincount(here[nodes] - first, minlength=len(self.by_level[level]))
            found = self.kept_members[level] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), nodes
        return found


def domains(record: TopologyRecord, session: Session) -> Domains:
    """The tree as the nodes stand."""
    nodes = session.nodes
    keys = [level.label for level in record.levels]
    names, parents, levels = ["root"], [-1], [-1]
    at_level = np.full((max(len(keys), 1), nodes.usable.shape[0]), -1, np.int64)
    members = [c for c, found in enumerate(nodes.records) if found is not None and all(k in found.labels for k in keys)]
    above, path = dict.fromkeys(members, 0), dict.fromkeys(members, "")
    for i, key in enumerate(keys):
        numbers: dict[str, int] = {}
        for column in members:
            name = path[column] + nodes.records[column].labels[key]  # type: ignore[union-attr]
            number = numbers.get(name)
            if number is None:
                number = numbers[name] = len(names)
                names.append(name)
                parents.append(above[column])
                levels.append(i)
            above[column] = number
            path[column] = name + "."
        at_level[i, members] = list(above.values())
    rank = np.zeros(len(names), np.int64)
    rank[np.array(sorted(range(len(names)), key=lambda d: names[d]))] = np.arange(len(names))
    leaf = at_level[-1].copy() if keys else at_level[0]
    level = np.array(levels)
    by_level = [np.flatnonzero(level == i) for i in range(len(keys))]
    inside = np.where(leaf >= 0, 0, -1)
    bounds = np.cumsum([1, *(len(here) for here in by_level)])
    return Domains(nodes.version, keys, names, level, np.array(parents), at_level, leaf, rank, by_level, inside, bounds)


class Standing:
    """What is free in each domain for pods of one shape, kept up to date between the jobs of a session."""

    def __init__(self, nodes: Nodes, deepest: int, free: Floats, pods: Ints) -> None:
        self.free, self.pods = free, pods
        self._deepest, self._era, self._seen = deepest, nodes.eras, len(nodes.moved)
        self._ordered: Ints = np.arange(len(pods))
        self._sorted = False
        self._ratio, self._place = np.zeros(len(pods)), np.zeros(len(pods), np.int64)

    def renew(self, nodes: Nodes, tree: Domains, largest: Floats) -> bool:
        """Take in what was charged since. False where it is simpler to begin anew."""
        changed = nodes.moved[self._seen :]
        if self._era != nodes.eras or len(changed) > MOST_CHANGED or self.free.shape[0] != largest.shape[0]:
            return False
        self._seen = len(nodes.moved)
        if changed:
            starts, members = tree.members(self._deepest)
            renew_domains(
                nodes.idle, nodes.releasing, tree.at_level[self._deepest], tree.parent, largest, 1, np.array(changed, np.int64),
                starts, members, int(tree.by_level[self._deepest][0]), self.free, self.pods,
            )  # fmt: skip
        return True

    def order(self, tree: Domains, total: Floats, deepest: int) -> dict[int, Ints]:
        """As ``Topology._order``, for all domains."""
        bounds = tree.bounds[: deepest + 2]
        if not self._sorted:
            # What the kernel starts from: near the order that it is to find.
            fullest = -ratio(self.free, total)
            for i, here in enumerate(tree.by_level[: deepest + 1]):
                here = here[np.lexsort((tree.rank[here], fullest[here], self._place[tree.parent[here]]))]
                self._place[here] = np.arange(len(here))
                self._ordered[bounds[i] : bounds[i + 1]] = here
            self._sorted = True
        order_domains(self.free, total, tree.parent, tree.rank, bounds, self._ordered, self._ratio, self._place)
        found = {level: self._ordered[bounds[level] : bounds[level + 1]].copy() for level in range(deepest + 1)}
        found[-1] = ROOT
        return found
