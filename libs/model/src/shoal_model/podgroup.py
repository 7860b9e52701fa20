"""Pod groups: priority, preemptibility, and what makes a definition impossible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shoal_contracts.state import GroupRecord, PodRecord, PriorityClassRecord

DEFAULT_PRIORITY = 50
PREEMPTIBLE_BELOW = 100
NEVER = "Never"
"""preemptionPolicy of pods that evict nobody."""


def priority(name: str, classes: Mapping[str, PriorityClassRecord]) -> int:
    """The value of the class, else of the global default class, else 50 (spec: kubernetes.md 2.6)."""
    found = priority_class(name, classes)
    return found.value if found else DEFAULT_PRIORITY


def priority_class(name: str, classes: Mapping[str, PriorityClassRecord]) -> PriorityClassRecord | None:
    """The class of this name, else the global default class, if there is one."""
    if found := classes.get(name):
        return found
    return min((c for c in classes.values() if c.global_default), key=lambda c: c.name, default=None)


def evicts_nobody(group: GroupRecord, pods: Iterable[PodRecord], classes: Mapping[str, PriorityClassRecord]) -> bool:
    """Whether these pods of the group wait for room without evicting others: preemptionPolicy Never of its class or of theirs.

    A pod that named no class has the policy of the global default one: a class that the group names stands above it.
    """
    mine = priority_class(group.priority_class, classes)
    if mine is not None and mine.preemption_policy == NEVER:
        return True
    for pod in pods:
        its = classes.get(pod.priority_class)
        unnamed = its is not None and its.global_default and mine is not None and not mine.global_default
        if (pod.preemption_policy or (its.preemption_policy if its else "")) == NEVER and not unnamed:
            return True
    return False


def preemptible(group: GroupRecord, value: int) -> bool:
    """Whether the group's pods may be evicted for others: as it says, else by its priority."""
    if group.preemptibility:
        return group.preemptibility == "preemptible"
    return value < PREEMPTIBLE_BELOW


def problems(group: GroupRecord) -> list[str]:
    """What is wrong with the minimums and subgroups, in words for the owner; empty if they are sound."""
    found: list[str] = []
    if group.min_member is not None and group.min_subgroup is not None:
        found.append(
            f"spec: minMember and minSubGroup are mutually exclusive: set minMember ({group.min_member})"
            f" or minSubGroup ({group.min_subgroup}), not both"
        )
    for value, where in ((group.min_member, "minMember"), (group.min_subgroup, "minSubGroup")):
        if value is not None and value < 0:
            found.append(f"spec.{where}: {value} is negative")
    if any(not s.name for s in group.subgroups):
        return [*found, "spec.subGroups: a subgroup has no name: give each one"]
    times = Counter(s.name for s in group.subgroups)
    found += [f"spec.subGroups: duplicate subgroup name {name}" for name in sorted(n for n, k in times.items() if k > 1)]
    parents = {s.name: s.parent for s in group.subgroups}
    found += [
        f"spec.subGroups: parent {parent} of {name} was not found among the subgroups"
        for name, parent in parents.items()
        if parent and parent not in parents
    ]
    found += [f"spec.subGroups: cycle detected in subgroups: {name} is its own ancestor" for name in _circling(parents)]
    return found


def _circling(parents: Mapping[str, str]) -> list[str]:
    """Names that are their own ancestors, in the order of ``parents``. Each name is walked over once."""
    walk_of: dict[str, int] = {}
    found: set[str] = set()
    for walk, name in enumerate(parents):
        path, at = [], name
        while at in parents and at not in walk_of:
            walk_of[at] = walk
            path.append(at)
            at = parents[at]
        if walk_of.get(at) == walk:
            found.update(path[path.index(at) :])
    return [name for name in parents if name in found]


@dataclass(frozen=True)
class Complaint:
    """Something wrong with a minimum. ``on_create``, ``on_update``: whether it is refused then, or only warned of."""

    text: str
    on_create: bool = True
    on_update: bool = True


def minimum_complaints(group: GroupRecord) -> list[Complaint]:
    """Minimums that don't fit the tree of subgroups, by name (spec: kubernetes.md 1.2). The structure must be sound.

    Groups that were accepted before stay valid for the scheduler: it takes the nearest meaning.
    """
    found: list[Complaint] = []
    below = Counter(s.parent for s in group.subgroups)

    def too_many(least: int | None, children: int, where: str) -> None:
        if least is not None and least > children:
            found.append(
                Complaint(
                    f"{where}: minSubGroup ({least}) exceeds the number of direct child SubGroups ({children});"
                    " lower it, or add subgroups",
                    on_create=False,
                    on_update=False,
                )
            )

    too_many(group.min_subgroup, below[""], "spec")
    for part in sorted(group.subgroups, key=lambda s: s.name):
        where = f'subgroup "{part.name}"'
        if part.min_member is not None and part.min_subgroup is not None:
            found.append(Complaint(f"{where}: minMember and minSubGroup are mutually exclusive: keep one"))
        elif not below[part.name]:
            if part.min_subgroup is not None:
                found.append(
                    Complaint(f"{where}: minSubGroup cannot be set on a leaf SubGroup (no child SubGroups); use minMember")
                )
            elif part.min_member is None:
                found.append(Complaint(f"subgroup {part.name}: minMember is required, for it has no child SubGroups"))
        elif part.min_member is not None:
            text = f"{where}: minMember cannot be set on a mid-level SubGroup (has child SubGroups); use minSubGroup instead"
            found.append(Complaint(text, on_update=False))
        if below[part.name]:
            too_many(part.min_subgroup, below[part.name], where)
    return found
