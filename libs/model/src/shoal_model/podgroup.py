"""Pod groups: priority, preemptibility, and what makes a definition impossible."""

from __future__ import annotations

from collections.abc import Mapping

from shoal_contracts.state import GroupRecord, PriorityClassRecord

DEFAULT_PRIORITY = 50
PREEMPTIBLE_BELOW = 100


def priority(name: str, classes: Mapping[str, PriorityClassRecord]) -> int:
    """The value of the class, else of the global default class, else 50 (spec: kubernetes.md 2.6)."""
    if found := classes.get(name):
        return found.value
    for other in sorted(classes.values(), key=lambda c: c.name):
        if other.global_default:
            return other.value
    return DEFAULT_PRIORITY


def preemptible(group: GroupRecord, value: int) -> bool:
    """Whether the group's pods may be evicted for others: as it says, else by its priority."""
    if group.preemptibility:
        return group.preemptibility == "preemptible"
    return value < PREEMPTIBLE_BELOW


def problems(group: GroupRecord) -> list[str]:
    """What is wrong with the minimums and subgroups, in words for the owner; empty if they are sound."""
    found: list[str] = []
    if group.min_member is not None and group.min_subgroup is not None:
        found.append("spec: minMember and minSubGroup exclude each other: keep one")
    for value, where in ((group.min_member, "minMember"), (group.min_subgroup, "minSubGroup")):
        if value is not None and value < 0:
            found.append(f"spec.{where}: {value} is negative")
    names = [s.name for s in group.subgroups]
    found += [f"spec.subGroups: {name!r} stands twice" for name in sorted({n for n in names if names.count(n) > 1})]
    parents = {s.name: s.parent for s in group.subgroups}
    for name, parent in parents.items():
        if parent and parent not in parents:
            found.append(f"spec.subGroups: parent {parent!r} of {name!r} is not a subgroup")
        seen, at = {name}, parent
        while at in parents and at not in seen:
            seen.add(at)
            at = parents[at]
        if at == name:
            found.append(f"spec.subGroups: {name!r} is its own ancestor")
    return found
