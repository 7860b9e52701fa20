"""Counts of pods by node, for rules that speak of other pods: who matches a selector, and who holds a term that matches.

A count is made by one look at all pods when it is first asked for in a session, and kept up to date from the session's
journal of pods whose place or status changed, so that undo needs no care of its own.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shoal_contracts.state import PodRecord, PodTerm, Requirement, Selector, SpreadConstraint
from shoal_core.nodes import Ints
from shoal_core.placement.feasible import selects
from shoal_core.rows import Pod
from shoal_core.status import ACTIVE, RELEASING, USED
from shoal_model.labels import NAMESPACE_NAME

if TYPE_CHECKING:
    from shoal_core.session import Session


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

    def means(self, pod: PodRecord, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        """Whether the pod is meant. ``namespaces``: labels by name."""
        if pod.namespace not in self.namespaces:
            if self.elsewhere is None:
                return False
            tags = namespaces.get(pod.namespace)
            if not selects(self.elsewhere, {NAMESPACE_NAME: pod.namespace} if tags is None else tags):
                return False
        if self.claim:
            return self.claim in pod.volumes
        return bool(self.wanted) and all(selects(s, pod.labels) for s in self.wanted)


def _same_as(keys: Iterable[str], selector: Selector | None, tags: Mapping[str, str], operator: str) -> list[Requirement]:
    """Requirements on the values that the pod itself has of ``keys``, but for keys that the API server has added already."""
    known = {r.key for r in selector.requirements} if selector else set()
    return [Requirement(key=k, operator=operator, values=[tags[k]]) for k in keys if k in tags and k not in known]


def _wanted(selector: Selector | None, own: list[Requirement]) -> tuple[Selector, ...]:
    if selector is None:
        return ()
    return (selector, Selector(requirements=own)) if own else (selector,)


def meaning(term: PodTerm, owner: PodRecord) -> Meaning:
    """The pods that a term of ``owner`` speaks of."""
    own = _same_as(term.match_label_keys, term.selector, owner.labels, "In")
    own += _same_as(term.mismatch_label_keys, term.selector, owner.labels, "NotIn")
    names = tuple(sorted(set(term.namespaces)))
    if not names and term.namespace_selector is None:
        names = (owner.namespace,)
    return Meaning(names, term.namespace_selector, _wanted(term.selector, own))


def counted(constraint: SpreadConstraint, owner: PodRecord) -> Meaning:
    """The pods that a spread constraint of ``owner`` counts."""
    own = _same_as(constraint.match_label_keys, constraint.selector, owner.labels, "In")
    return Meaning((owner.namespace,), None, _wanted(constraint.selector, own))


def users(namespace: str, claim: str) -> Meaning:
    """The pods that mount a volume claim."""
    return Meaning((namespace,), None, (), claim)


def _frozen(found: Meaning) -> tuple[object, ...]:
    """The meaning as a key."""

    def flat(selector: Selector | None) -> tuple[object, ...] | None:
        return None if selector is None else tuple((r.key, r.operator, tuple(r.values)) for r in selector.requirements)

    return found.namespaces, flat(found.elsewhere), tuple(flat(s) for s in found.wanted), found.claim


class Count:
    """Pods by node, (nodes,) each: see ``Standing``."""

    def __init__(self, size: int) -> None:
        self.near: Ints = np.zeros(size, np.int64)
        self.leaving: Ints = np.zeros(size, np.int64)
        self.active: Ints = np.zeros(size, np.int64)
        self._of: dict[str, Standing] = {}

    def set(self, uid: str, at: Standing) -> None:
        """The pod counts here, and nowhere else."""
        old = self._of.get(uid, NOWHERE)
        if old == at:
            return
        for sign, found in ((-1, old), (1, at)):
            for column in found.near:
                self.near[column] += sign
            for column in found.leaving:
                self.leaving[column] += sign
            if found.active >= 0:
                self.active[found.active] += sign
        if at == NOWHERE:
            self._of.pop(uid, None)
        else:
            self._of[uid] = at

    def here(self, later: bool, but: str = "") -> Ints:
        """Pods by node; ``later``: without those that leave; without the pod ``but``."""
        found = self.near if later else self.near + self.leaving
        own = self._of.get(but)
        if own is not None:
            found = found.copy()
            for column in own.near if later else own.near + own.leaving:
                found[column] -= 1
        return found

    def __bool__(self) -> bool:
        return bool(self._of)


@dataclass(eq=False)
class Held:
    """A term that pods on nodes hold, and where they are."""

    meaning: Meaning
    topology_key: str
    weight: int
    """0: a required anti-affinity; otherwise what it is worth to be near its holder."""
    hard: bool
    """A required affinity."""
    holders: Count


class Census:
    """The counts of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._size = session.everywhere.shape[0]
        self._counts: dict[tuple[object, ...], tuple[tuple[Meaning, ...], Count]] = {}
        self._held: dict[tuple[object, ...], Held] | None = None
        self._on: dict[str, list[Pod]] | None = None
        """Namespace -> pods on nodes when it was first asked for."""
        self.evicted = None if session.settings.kai_0_17 else session.cluster.evicted
        """See ``standing``."""
        self._domains: dict[str, tuple[Ints, int]] = {}
        self._concerned: dict[tuple[object, ...], tuple[Held, ...]] = {}
        """By namespace and labels of a pod: the terms that speak of it."""
        self._known: set[str] = set()
        self._spaces: set[str] | None = set()
        """Namespaces that terms of pods on nodes speak of; None: any."""

    def domains(self, key: str) -> tuple[Ints, int]:
        """(domain of each node by the value of this label, -1 without it; how many domains there are)."""
        found = self._domains.get(key)
        if found is None:
            numbers: dict[str, int] = {}
            ids = np.full(self._size, -1, np.int64)
            for column, node in enumerate(self._session.nodes.records):
                if node is not None and (value := node.labels.get(key)) is not None:
                    ids[column] = numbers.setdefault(value, len(numbers))
            found = self._domains[key] = ids, len(numbers)
        return found

    def means(self, found: Meaning, pod: PodRecord) -> bool:
        """Whether the pod is meant."""
        return found.means(pod, self._session.cluster.namespaces)

    def count(self, *meanings: Meaning) -> Count:
        """Where the pods are that all of ``meanings`` mean."""
        key = tuple(_frozen(m) for m in meanings)
        kept = self._counts.get(key)
        self._catch_up()
        if kept is None:
            kept = self._counts[key] = (meanings, Count(self._size))
            on = self._by_namespace()
            names = meanings[0].namespaces if meanings[0].elsewhere is None else tuple(on)
            for name in names:
                for pod in on.get(name, ()):
                    if all(self.means(m, pod.record) for m in meanings):
                        kept[1].set(pod.uid, standing(pod, self.evicted))
        return kept[1]

    def _begin(self) -> None:
        """From now on the session notes which pods it moves."""
        if self._session.journal is None:
            self._session.journal = {}

    def _by_namespace(self) -> dict[str, list[Pod]]:
        """Pods on nodes, those of the journal included: their standing is read when they are counted."""
        session = self._session
        if self._on is None:
            self._on = {}
            self._begin()
            for pod in session.cluster.pods.values():
                if pod.node >= 0:
                    self._on.setdefault(pod.record.namespace, []).append(pod)
            self._known = {pod.uid for pods in self._on.values() for pod in pods}
        return self._on

    def _catch_up(self) -> None:
        """Read the journal."""
        journal = self._session.journal
        if not journal:
            return
        fresh = list(journal.items())
        journal.clear()
        for uid, pod in fresh:
            at = standing(pod, self.evicted)
            if self._on is not None and uid not in self._known:
                self._known.add(uid)
                self._on.setdefault(pod.record.namespace, []).append(pod)
            for meanings, count in self._counts.values():
                if all(self.means(m, pod.record) for m in meanings):
                    count.set(uid, at)
            if self._held is not None and pod.shape.social:
                self._hold(self._held, pod, at)

    def _hold(self, held: dict[tuple[object, ...], Held], pod: Pod, at: Standing) -> None:
        for key, term in _terms(pod.record):
            kept = held.get(key)
            if kept is None:
                if at == NOWHERE:
                    continue
                kept = held[key] = Held(*term, Count(self._size))
                self._concerned.clear()
                if kept.meaning.elsewhere is not None:
                    self._spaces = None
                elif self._spaces is not None:
                    self._spaces.update(kept.meaning.namespaces)
            kept.holders.set(pod.uid, at)

    @property
    def idle(self) -> bool:
        """Whether no pod, on a node or placed in this session, has a term that speaks of others."""
        return self._held is None and not self._session.social and not self._session.cluster.social

    def concerned(self, pod: PodRecord) -> tuple[Held, ...]:
        """The terms of pods on nodes that speak of this one."""
        cluster = self._session.cluster
        if self._held is None:
            if not cluster.social and not self._session.social:
                return ()
            self._begin()
            self._held = {}
            for uid in sorted({*cluster.social, *self._session.social}):
                other = cluster.pods[uid]
                self._hold(self._held, other, standing(other, self.evicted))
        self._catch_up()
        if self._spaces is not None and pod.namespace not in self._spaces:
            return ()
        key = (pod.namespace, *sorted(pod.labels.items()))
        found = self._concerned.get(key)
        if found is None:
            found = tuple(h for h in self._held.values() if self.means(h.meaning, pod))
            self._concerned[key] = found
        return found


def _terms(owner: PodRecord) -> list[tuple[tuple[object, ...], tuple[Meaning, str, int, bool]]]:
    """(key, (meaning, topology key, weight, hard)) of each term by which the pod concerns others (Kubernetes' InterPodAffinity:
    a required affinity is worth 1 to those that it speaks of)."""
    affinity = owner.affinity
    if affinity is None:
        return []
    given = [(t, 0, False) for t in affinity.anti_required] + [(t, 1, True) for t in affinity.pod_required]
    given += [(t, t.weight, False) for t in affinity.pod_preferred if t.weight]
    given += [(t, -t.weight, False) for t in affinity.anti_preferred if t.weight]
    found: list[tuple[tuple[object, ...], tuple[Meaning, str, int, bool]]] = []
    for term, weight, hard in given:
        means = meaning(term, owner)
        found.append(((_frozen(means), term.topology_key, weight, hard), (means, term.topology_key, weight, hard)))
    return found


def sums(counts: Ints, ids: Ints, number: int) -> Ints:
    """By domain: the sum of counts of its nodes. ``ids`` as from ``Census.domains``."""
    inside = ids >= 0
    return np.bincount(ids[inside], weights=counts[inside], minlength=number).astype(np.int64)


def spread_out(values: Ints, ids: Ints) -> Ints:
    """By node: the value of its domain, 0 for nodes without one."""
    return np.where(ids >= 0, values[ids], 0) if len(values) else np.zeros_like(ids)
