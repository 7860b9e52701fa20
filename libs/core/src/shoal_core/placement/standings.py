"""Pods on nodes as rows, and their labels as columns, so that one look says where all pods are that a selector means."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import NamedTuple

import numpy as np

from shoal_contracts.state import PodRecord, Requirement, Selector
from shoal_core.nodes import Ints
from shoal_core.placement.feasible import selects
from shoal_core.rows import Pod
from shoal_core.status import ACTIVE, RELEASING, USED
from shoal_core.vocabulary import Interner
from shoal_model.labels import NAMESPACE_NAME

Bools = np.ndarray
Namespaces = Mapping[str, Mapping[str, str]]
"""Labels of namespaces by name."""


class Standing(NamedTuple):
    """Where a pod counts."""

    near: tuple[int, ...]
    """Nodes that it runs on or is about to."""
    leaving: tuple[int, ...]
    """Nodes that it leaves by a decision: they count for what starts now, not for what starts when it is gone."""
    active: int
    """The node that spread constraints count it on, -1 for none: pods that are being deleted don't count."""


NOWHERE = Standing((), (), -1)


def standing(pod: Pod, evicted: Container[str] | None) -> Standing:
    """Victims of a decision that is being tried count nowhere; once it is taken they leave (``evicted``: their uids). Pods
    that end by themselves stay where they are until they are gone, as in Kubernetes. ``evicted`` None: all stay."""
    near: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    active = -1
    if pod.node >= 0 and USED[pod.status]:
        if pod.status != RELEASING or evicted is None or not (pod.virtual or pod.uid in evicted):
            near = (pod.node,)
        elif not pod.virtual:
            leaving = (pod.node,)
        if ACTIVE[pod.status] and not pod.record.deleted:
            active = pod.node
        if pod.away and evicted is None:
            near += tuple(column for column, _, _ in pod.away)
        elif pod.away and not pod.virtual:
            leaving += tuple(column for column, _, _ in pod.away)
    return Standing(near, leaving, active)


class Meaning(NamedTuple):
    """Which pods a term speaks of: pods of these namespaces, or of those that the selector selects, with these labels."""

    namespaces: tuple[str, ...]
    elsewhere: Selector | None
    wanted: tuple[Selector, ...]
    """All of them hold; empty: no pod is meant."""
    claim: str = ""
    """Pods that mount this volume claim, whatever their labels."""

    def in_namespace(self, name: str, namespaces: Namespaces) -> bool:
        """Whether pods of a namespace may be meant."""
        if name in self.namespaces:
            return True
        if self.elsewhere is None:
            return False
        tags = namespaces.get(name)
        return selects(self.elsewhere, {NAMESPACE_NAME: name} if tags is None else tags)

    def means(self, pod: PodRecord, namespaces: Namespaces) -> bool:
        """Whether the pod is meant."""
        if not self.in_namespace(pod.namespace, namespaces):
            return False
        if self.claim:
            return self.claim in pod.volumes
        return bool(self.wanted) and all(selects(s, pod.labels) for s in self.wanted)

    @property
    def key(self) -> tuple[object, ...]:
        """The same for the same meaning."""

        def flat(selector: Selector | None) -> tuple[object, ...] | None:
            return None if selector is None else tuple((r.key, r.operator, tuple(r.values)) for r in selector.requirements)

        return self.namespaces, flat(self.elsewhere), tuple(flat(s) for s in self.wanted), self.claim


class Column:
    """Whole numbers that are appended to and changed; ``now`` is an array of them."""

    def __init__(self) -> None:
        self._values: Ints = np.full(64, -1, np.int64)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def append(self, value: int) -> None:
        """One more at the end."""
        if self._used == len(self._values):
            self._values = np.concatenate([self._values, np.full(self._used, -1, np.int64)])
        self._values[self._used] = value
        self._used += 1

    def __setitem__(self, at: int, value: int) -> None:
        self._values[at] = value

    def __getitem__(self, at: int) -> int:
        return int(self._values[at])

    @property
    def now(self) -> Ints:
        """A view that holds until the next ``append``."""
        return self._values[: self._used]


class Kinds:
    """Pods of the same namespace and labels, who are meant by the same selectors; a column for each label asked for."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._numbers: dict[tuple[object, ...], int] = {}
        self._records: list[PodRecord] = []
        """One pod of each kind."""
        self._space = Column()
        self._spaces: Interner[str] = Interner()
        self._columns: dict[str, Column] = {}
        """Label -> number of its value by kind, -1 without it."""
        self._values: Interner[str] = Interner()
        self._matches: dict[tuple[object, ...], Bools] = {}

    def of(self, record: PodRecord) -> int:
        """The number of a pod's kind. The volumes count too: some meanings ask for them."""
        key = (record.namespace, *sorted(record.labels.items()), None, *record.volumes)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self._records)
            self._records.append(record)
            self._space.append(self._spaces.number(record.namespace))
            for label, column in self._columns.items():
                column.append(self._value(record, label))
        return found

    def _value(self, record: PodRecord, label: str) -> int:
        value = record.labels.get(label)
        return -1 if value is None else self._values.number(value)

    def _column(self, label: str) -> Ints:
        found = self._columns.get(label)
        if found is None:
            found = self._columns[label] = Column()
            for record in self._records:
                found.append(self._value(record, label))
        return found.now

    def meant(self, meaning: Meaning) -> Bools:
        """(kinds,) bool: which are meant."""
        key = meaning.key
        known = self._matches.get(key)
        done = 0 if known is None else len(known)
        if done < len(self._records):
            more = self._look(meaning, done)
            known = self._matches[key] = more if known is None else np.concatenate([known, more])
        return known if known is not None else np.zeros(0, bool)

    def _look(self, meaning: Meaning, first: int) -> Bools:
        if meaning.claim or not meaning.wanted:
            return np.array([meaning.means(r, self._namespaces) for r in self._records[first:]], bool)
        inside = np.array([meaning.in_namespace(name, self._namespaces) for name in self._spaces.values], bool)
        found = inside[self._space.now[first:]]
        for selector in meaning.wanted:
            for requirement in selector.requirements:
                found &= self._meet(requirement, first)
        return found

    def _meet(self, requirement: Requirement, first: int) -> Bools:
        """As ``feasible.selects`` for one requirement of a label selector."""
        values = self._column(requirement.key)[first:]
        match requirement.operator:
            case "In" | "NotIn":
                wanted = [number for v in requirement.values if (number := self._values.find(v)) is not None]
                listed = np.isin(values, wanted)
                return listed if requirement.operator == "In" else ~listed
            case "Exists":
                return values >= 0
            case "DoesNotExist":
                return values < 0
            case _:
                return np.zeros(len(values), bool)


class Standings:
    """Rows of pods on nodes; a pod that counts on several nodes has several rows."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.kinds = Kinds(namespaces)
        self.kind, self.near, self.leaving, self.active = Column(), Column(), Column(), Column()
        """By row: the pod's kind, and the nodes of ``Standing``, -1 for none."""
        self.rows: dict[str, list[int]] = {}
        """Pod's uid -> its rows; they are never given to another."""
        self.version = 0
        """Another one after each change."""

    def set(self, pod: Pod, at: Standing) -> None:
        """The pod counts here, and nowhere else."""
        rows = self.rows.get(pod.uid)
        if rows is None:
            if at == NOWHERE:
                return
            rows = self.rows[pod.uid] = []
        for number in range(max(len(rows), len(at.near), len(at.leaving), at.active >= 0)):
            if number == len(rows):
                rows.append(len(self.kind))
                self.kind.append(self.kinds.of(pod.record))
                for column in (self.near, self.leaving, self.active):
                    column.append(-1)
            row = rows[number]
            self.near[row] = at.near[number] if number < len(at.near) else -1
            self.leaving[row] = at.leaving[number] if number < len(at.leaving) else -1
            self.active[row] = at.active if number == 0 else -1
        self.version += 1
