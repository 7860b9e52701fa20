"""Counts of pods by node, for rules that speak of other pods: who matches a selector, and who holds a term that matches.

All pods on nodes are looked at once when a session first asks; from then on the session's journal of pods whose place or
status changed keeps the rows up to date, so that undo needs no care of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from shoal_contracts.state import PodRecord, PodTerm, Requirement, Selector, SpreadConstraint
from shoal_core.nodes import Ints
from shoal_core.placement.standings import Bools, Column, Meaning, Standings, standing
from shoal_core.placement.terms import Concern, Term, Terms
from shoal_core.rows import Pod

if TYPE_CHECKING:
    from shoal_core.session import Session


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


class Count:
    """Pods by node, (nodes,) each (see ``Standing``), as they stand when it is asked for."""

    def __init__(self, standings: Standings, kinds: Bools, size: int) -> None:
        self._standings, self._size = standings, size
        self._rows = np.flatnonzero(kinds[standings.kind.now]) if len(standings.kind) else np.zeros(0, np.int64)

    def _by_node(self, column: Column, rows: Ints) -> Ints:
        nodes = column.now[rows]
        return np.bincount(nodes[nodes >= 0], minlength=self._size)

    def here(self, later: bool, but: str = "") -> Ints:
        """Pods by node; ``later``: without those that leave; without the pod ``but``."""
        rows = self._rows
        if own := self._standings.rows.get(but):
            rows = rows[~np.isin(rows, own)]
        found = self._by_node(self._standings.near, rows)
        return found if later else found + self._by_node(self._standings.leaving, rows)

    @property
    def active(self) -> Ints:
        """Pods by node as spread constraints count them."""
        return self._by_node(self._standings.active, self._rows)

    def __bool__(self) -> bool:
        places = (self._standings.near, self._standings.leaving, self._standings.active)
        return any(bool((column.now[self._rows] >= 0).any()) for column in places)


class Census:
    """The counts of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._size = session.everywhere.shape[0]
        self.evicted = None if session.settings.kai_0_17 else session.cluster.evicted
        """See ``standing``."""
        self._domains: dict[str, tuple[Ints, int]] = {}
        self._pods: Standings | None = None
        """Pods on nodes, from when one first asked."""
        self._terms: Terms | None = None
        self._counts: dict[tuple[object, ...], tuple[int, Count]] = {}
        """With the version of the standings that they are of."""

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
        return self._count(meanings, every=True)

    def count_any(self, meanings: list[Meaning]) -> Count:
        """Where the pods are that at least one of ``meanings`` means."""
        return self._count(tuple(meanings), every=False)

    def _count(self, meanings: tuple[Meaning, ...], *, every: bool) -> Count:
        pods = self._up_to_date()
        key = (every, *(m.key for m in meanings))
        kept = self._counts.get(key)
        if kept is None or kept[0] != pods.version:
            together = np.logical_and if every else np.logical_or
            kinds = together.reduce([pods.kinds.meant(m) for m in meanings])
            kept = self._counts[key] = pods.version, Count(pods, kinds, self._size)
        return kept[1]

    def _up_to_date(self) -> Standings:
        session = self._session
        pods = self._pods
        if pods is None:
            session.journal = session.journal or {}
            pods = self._pods = Standings(session.cluster.namespaces)
            for pod in session.cluster.pods.values():
                if pod.node >= 0:
                    pods.set(pod, standing(pod, self.evicted))
        if session.journal:
            for pod in session.journal.values():
                pods.set(pod, standing(pod, self.evicted))
                if self._terms is not None and pod.shape.social:
                    self._hold(self._terms, pod)
            session.journal.clear()
        return pods

    def _hold(self, terms: Terms, pod: Pod) -> None:
        if not terms.complete(pod.uid):
            # A term on a label that no node has is about no place.
            terms.hold(pod.uid, [t for t in _terms(pod.record) if self.domains(t.topology_key)[1]])

    def _others(self) -> Terms | None:
        """The terms of pods on nodes; None if no pod has any."""
        cluster, session = self._session.cluster, self._session
        if self._terms is None:
            if not cluster.social and not session.social:
                return None
            pods = self._up_to_date()
            self._terms = Terms(cluster.namespaces, pods, self._size)
            for uid in sorted({*cluster.social, *session.social}):
                self._hold(self._terms, cluster.pods[uid])
        self._up_to_date()
        return self._terms if len(self._terms) else None

    @property
    def idle(self) -> bool:
        """Whether no pod, on a node or placed in this session, has a term that speaks of others."""
        return self._terms is None and not self._session.social and not self._session.cluster.social

    def concerned(self, pod: PodRecord) -> bool:
        """Whether pods on nodes hold, or held in this session, a term that speaks of this one."""
        terms = self._others()
        return terms is not None and terms.any(pod)

    def repelled(self, pod: PodRecord) -> bool:
        """Whether a pod on a node holds a required anti-affinity that speaks of this one."""
        terms = self._others()
        return terms is not None and terms.held(pod, weighted=False)

    def attracted(self, pod: PodRecord) -> bool:
        """Whether a pod on a node holds a term with a weight that speaks of this one."""
        terms = self._others()
        return terms is not None and terms.held(pod, weighted=True)

    def repelling(self, pod: PodRecord, later: bool) -> list[Concern]:
        """See ``Terms.repelling``."""
        terms = self._others()
        return terms.repelling(pod, later) if terms is not None else []

    def attracting(self, pod: PodRecord, *, hard: bool) -> list[Concern]:
        """See ``Terms.attracting``."""
        terms = self._others()
        return terms.attracting(pod, hard=hard) if terms is not None else []


def _terms(owner: PodRecord) -> list[Term]:
    """The terms by which the pod concerns others (Kubernetes' InterPodAffinity: a required affinity is worth 1 to those that
    it speaks of)."""
    affinity = owner.affinity
    if affinity is None:
        return []
    given = [(t, 0, False) for t in affinity.anti_required] + [(t, 1, True) for t in affinity.pod_required]
    given += [(t, t.weight, False) for t in affinity.pod_preferred if t.weight]
    given += [(t, -t.weight, False) for t in affinity.anti_preferred if t.weight]
    return [Term(meaning(term, owner), term.topology_key, weight, hard) for term, weight, hard in given]


def sums(counts: Ints, ids: Ints, number: int) -> Ints:
    """By domain: the sum of counts of its nodes. ``ids`` as from ``Census.domains``."""
    inside = ids >= 0
    return np.bincount(ids[inside], weights=counts[inside], minlength=number).astype(np.int64)


def spread_out(values: Ints, ids: Ints) -> Ints:
    """By node: the value of its domain, 0 for nodes without one."""
    return np.where(ids >= 0, values[ids], 0) if len(values) else np.zeros_like(ids)
