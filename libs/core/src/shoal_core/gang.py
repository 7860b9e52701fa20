"""Gangs: the tree of a pod group's subgroups, and which of its pods are to start together next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shoal_contracts.state import GroupRecord

DEFAULT = "default"


@dataclass
class Member:
    """A node of the tree. A leaf has ``minimum`` pods that it needs, an inner one subgroups; None: all of them."""

    name: str
    minimum: int | None
    leaf: bool
    children: list[Member] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """Pods (leaf) or children (inner) that it needs."""
        if self.leaf:
            return self.minimum or 0
        return len(self.children) if self.minimum is None else self.minimum


def tree(group: GroupRecord) -> Member:
    """The group's tree. Without subgroups: one leaf ``default`` with minMember (1 if it is not given)."""
    root = Member("", group.min_subgroup, leaf=False)
    if not group.subgroups:
        root.minimum = None
        root.children.append(Member(DEFAULT, 1 if group.min_member is None else group.min_member, leaf=True))
        return root
    parents = {s.parent for s in group.subgroups}
    members = {
        s.name: Member(s.name, s.min_subgroup if s.name in parents else (s.min_member or 0), leaf=s.name not in parents)
        for s in group.subgroups
    }
    for s in group.subgroups:
        members.get(s.parent, root).children.append(members[s.name])
    return root


def leaves(member: Member) -> list[Member]:
    """The leaves below, in the order in which they stand."""
    if member.leaf:
        return [member]
    return [leaf for child in member.children for leaf in leaves(child)]


Count = Callable[[str], int]


def satisfied(member: Member, active: Count) -> bool:
    """Whether enough is running or placed; ``active`` gives the pods of a leaf that are."""
    if member.leaf:
        return active(member.name) >= member.needed
    return sum(satisfied(c, active) for c in member.children) >= member.needed


def ready(member: Member, alive: Count) -> bool:
    """Whether enough pods exist for the minimum to be met at all."""
    if member.leaf:
        return alive(member.name) >= member.needed
    return sum(ready(c, alive) for c in member.children) >= member.needed


def _order(member: Member, active: Count) -> tuple[object, ...]:
    """Order among siblings (policy spec 3.6): unsatisfied first, then those with a minimum, then the emptier."""
    count = active(member.name) if member.leaf else sum(satisfied(c, active) for c in member.children)
    need = member.needed
    if count < need:
        return (0, 0, 0.0, member.name)
    if need == 0:
        return (1, 1, float(count), member.name)
    return (1, 0, count / need, member.name)


def next_chunk(member: Member, active: Count, pending: Mapping[str, list[str]]) -> list[str]:
    """Uids of the pods to be placed together next (policy spec 1.6).

    Below the minimum: what is missing of the first members that are needed. Above it: one pod more.
    ``pending`` holds the waiting pods of each leaf, in their order.
    """
    if member.leaf:
        waiting = pending.get(member.name, [])
        missing = member.needed - active(member.name)
        return waiting[:missing] if missing > 0 else waiting[:1]
    ordered = sorted(member.children, key=lambda c: _order(c, active))
    if satisfied(member, active):
        for child in ordered:
            if found := next_chunk(child, active, pending):
                return found
        return []
    found = []
    for child in ordered[: member.needed]:
        if not satisfied(child, active):
            found += next_chunk(child, active, pending)
    return found
