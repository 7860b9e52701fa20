"""Gangs: a pod group's tree of subgroups, which of its pods start together next, and which go together first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal_contracts.state import GroupRecord, TopologyConstraint
from shoal_core.status import ACTIVE, ALIVE, GATED, PENDING, RELEASING, USED

if TYPE_CHECKING:
    from shoal_core.rows import Pod

DEFAULT = "default"


class PodSet:
    """A leaf: ``minimum`` of its pods run together. Counts follow the pods' statuses."""

    __slots__ = (
        "active", "alive", "declared", "done", "gated", "minimum", "name", "parent", "pending", "pods", "topology", "used",
    )  # fmt: skip

    def __init__(self, name: str, minimum: int, topology: TopologyConstraint | None = None) -> None:
        self.name, self.minimum, self.topology = name, minimum, topology
        self.declared, self.done = minimum, 0
        """The minimum that the group states, and how many pods succeeded."""
        self.parent: SubGroupSet | None = None
        self.pods: list[Pod] = []
        """In task order."""
        self.pending = self.active = self.used = self.alive = self.gated = 0

    def count(self, status: int, by: int) -> None:
        """One pod more (``by`` 1) or less (-1) in this status."""
        if status == PENDING:
            self.pending += by
        elif status == GATED:
            self.gated += by
        if ACTIVE[status]:
            self.active += by
        if USED[status]:
            self.used += by
        if ALIVE[status]:
            self.alive += by

    def settle(self) -> bool:
        """Let pods that succeeded stand in for pods that are missing of the minimum; whether that changed it."""
        before = self.minimum
        self.minimum = (
            max(self.declared - self.done, min(self.declared, self.alive - self.gated)) if self.done else self.declared
        )
        return self.minimum != before

    @property
    def satisfied(self) -> bool:
        """Its minimum is placed."""
        return self.active >= self.minimum

    @property
    def whole(self) -> bool:
        """The same, pods that leave included."""
        return self.used >= self.minimum

    @property
    def ready(self) -> bool:
        """Enough pods exist for its minimum."""
        return self.alive - self.gated >= self.minimum

    @property
    def order(self) -> tuple[int, int, float, str]:
        """Order among siblings (policy spec 3.6): unsatisfied first, then those with a minimum, then the emptier."""
        return _order(self.active, self.minimum, self.name)


class SubGroupSet:
    """An inner node: ``minimum`` of its members are needed, all of them where none is given."""

    __slots__ = ("children", "given", "name", "parent", "topology")

    def __init__(self, name: str, given: int | None, topology: TopologyConstraint | None = None) -> None:
        self.name, self.given, self.topology = name, given, topology
        self.parent: SubGroupSet | None = None
        self.children: list[PodSet | SubGroupSet] = []

    @property
    def minimum(self) -> int:
        """So many members are needed."""
        return len(self.children) if self.given is None else self.given

    @property
    def satisfied_children(self) -> int:
        """So many members have what they need."""
        return sum(1 for child in self.children if child.satisfied)

    @property
    def satisfied(self) -> bool:
        """Enough members have what they need."""
        return self.satisfied_children >= self.minimum

    @property
    def whole(self) -> bool:
        """The same, pods that leave included."""
        return sum(1 for child in self.children if child.whole) >= self.minimum

    @property
    def optional(self) -> bool:
        """Some members, here or below, can be done without."""
        return self.minimum < len(self.children) or any(isinstance(c, SubGroupSet) and c.optional for c in self.children)

    @property
    def ready(self) -> bool:
        """Enough members can have what they need."""
        return sum(1 for child in self.children if child.ready) >= self.minimum

    @property
    def order(self) -> tuple[int, int, float, str]:
        """As for leaves, by members."""
        return _order(self.satisfied_children, self.minimum, self.name)


Member = PodSet | SubGroupSet


def _order(count: int, minimum: int, name: str) -> tuple[int, int, float, str]:
    if count < minimum:
        return 0, 0, 0.0, name
    if minimum == 0:
        return 1, 1, float(count), name
    return 1, 0, count / minimum, name


def tree(group: GroupRecord) -> SubGroupSet:
    """The group's tree. Without subgroups, or with a malformed tree: one leaf ``default`` (policy spec 1.5)."""
    root = SubGroupSet("", group.min_subgroup, _constraint(group.topology))
    if not group.subgroups:
        root.given = None
        _hang(root, PodSet(DEFAULT, 1 if group.min_member is None else max(0, group.min_member)))
        return root
    names = {s.name for s in group.subgroups}
    # KAI reads a parent's name in lower case; a name that stands there as it is written is meant.
    above_of = {s.name: s.parent if s.parent in names else s.parent.lower() for s in group.subgroups}
    parents = {parent for parent in above_of.values() if parent}
    members: dict[str, Member] = {}
    for s in group.subgroups:
        if s.name in parents:
            members[s.name] = SubGroupSet(s.name, s.min_subgroup, _constraint(s.topology))
        else:
            members[s.name] = PodSet(s.name, max(s.min_member or 0, 0), _constraint(s.topology))
    sound = len(members) == len(group.subgroups) and parents <= members.keys()
    if sound:
        for s in group.subgroups:
            above = members[above_of[s.name]] if s.parent else root
            assert isinstance(above, SubGroupSet)
            _hang(above, members[s.name])
        sound = len(list(leaves(root))) == sum(isinstance(m, PodSet) for m in members.values())
    if not sound:
        root = SubGroupSet("", None)
        _hang(root, PodSet(DEFAULT, 1))
    return root


def _hang(above: SubGroupSet, member: Member) -> None:
    member.parent = above
    above.children.append(member)


def _constraint(found: TopologyConstraint | None) -> TopologyConstraint | None:
    return found if found and found.topology else None


def leaves(member: Member) -> Iterator[PodSet]:
    """The leaves below, in the order in which they stand."""
    if isinstance(member, PodSet):
        yield member
    else:
        for child in member.children:
            yield from leaves(child)


# what starts next


def _candidates(leaf: PodSet, real: bool) -> list[Pod]:
    if real:
        return [p for p in leaf.pods if p.status == PENDING and not p.barred]
    return [p for p in leaf.pods if (p.status == PENDING and not p.barred) or (p.status == RELEASING and p.virtual)]


def next_pods(member: Member, real: bool, passed: frozenset[str] = frozenset()) -> list[Pod]:
    """The pods to be placed together next (policy spec 1.6); none where not all that start together can be placed now.

    Below the minimum: what is missing of the first members that can be complete. Above it: one pod more, or one member.
    ``real`` False counts pods that were evicted in the current simulation as waiting. Leaves whose names are in ``passed`` are
    passed over.
    """
    if isinstance(member, PodSet):
        if member.name in passed:
            return []
        found = _candidates(member, real)
        missing = member.minimum - member.active
        if missing <= 0:
            return found[:1]
        return found[:missing] if len(found) >= missing else []
    children = member.children
    if len(children) > 1:
        children = sorted(children, key=lambda c: c.order)
    needed = member.minimum - member.satisfied_children
    if needed <= 0:
        for child in children:
            if found := next_pods(child, real, passed):
                return found
        return []
    found = []
    for child in children:
        if not child.satisfied and (its := next_pods(child, real, passed)):
            found += its
            needed -= 1
            if not needed:
                return found
    return []


# what goes first


class Remaining:
    """The active pods of a gang without those that were taken already: counts for the choice of the next victims, of which
    those ``kept`` are none."""

    def __init__(self, root: SubGroupSet, taken: frozenset[str] = frozenset(), kept: frozenset[str] = frozenset()) -> None:
        self.root, self.taken, self.kept = root, taken, kept

    def pods(self, leaf: PodSet) -> list[Pod]:
        """What is left of a leaf, in task order."""
        return [p for p in leaf.pods if ACTIVE[p.status] and p.uid not in self.taken]

    def _count(self, member: Member) -> int:
        if isinstance(member, PodSet):
            return len(self.pods(member)) if self.taken else member.active
        return sum(1 for child in member.children if self._count(child) >= child.minimum)

    def _surplus(self, member: Member) -> bool:
        """Whether a descendant has more than it needs."""
        assert isinstance(member, SubGroupSet)
        for child in member.children:
            if self._count(child) > child.minimum or (isinstance(child, SubGroupSet) and self._surplus(child)):
                return True
        return False

    def _elastic(self, member: SubGroupSet) -> list[Pod]:
        count = self._count(member)
        if count == 0:
            return []
        ordered = sorted(member.children, key=lambda c: _order(self._count(c), c.minimum, c.name), reverse=True)
        if count > member.minimum or self._surplus(member):
            for child in ordered:
                if isinstance(child, SubGroupSet):
                    if found := self._elastic(child):
                        return found
                elif self._count(child) > child.minimum and (found := self._last(child)):
                    return found
        if member.minimum < count:
            for child in ordered:
                found = [p for leaf in leaves(child) for p in self.pods(leaf)]
                if found and self._free(found):
                    return found
        return []

    def _last(self, leaf: PodSet) -> list[Pod]:
        """The pod of a leaf that goes first, if any may."""
        pods = self.pods(leaf)
        return pods[-1:] if not self.kept else [p for p in pods if p.uid not in self.kept][-1:]

    def _free(self, pods: list[Pod]) -> bool:
        return not self.kept or all(p.uid not in self.kept for p in pods)

    def next_victims(self) -> tuple[list[Pod], bool]:
        """(pods that go together next, whether others stay): surplus pods one by one, a surplus member, then all
        (policy spec 1.7)."""
        everything = [p for leaf in leaves(self.root) for p in self.pods(leaf)]
        found = self._elastic(self.root) or everything
        if not self._free(found):
            return [], False
        return found, len(found) < len(everything)

    def elasticity(self) -> int:
        """0: a leaf is below its minimum; 2: none is, and one is above; 1: all are exactly at it."""
        return elasticity((len(self.pods(leaf)), leaf.minimum) for leaf in leaves(self.root))


def elasticity(counts: Iterator[tuple[int, int]]) -> int:
    """From (active, minimum) of each leaf: 0 below, 1 exact, 2 above (policy spec 3.2)."""
    state = 1
    for active, minimum in counts:
        if active < minimum:
            return 0
        if active > minimum:
            state = 2
    return state
