"""Rules that depend on the pods that run: host ports, pod affinity and anti-affinity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from shoal_contracts.state import PodRecord, PodTerm, Requirement
from shoal_core.nodes import Bytes
from shoal_core.placement.feasible import matches, selects
from shoal_core.rows import Pod
from shoal_core.status import USED

if TYPE_CHECKING:
    from shoal_core.session import Session


def _in_term(term: PodTerm, owner: PodRecord, other: PodRecord) -> bool:
    """Whether ``other`` is one of the pods that the term of ``owner`` speaks of."""
    if term.namespaces:
        if other.namespace not in term.namespaces and term.namespace_selector is None:
            return False
    elif term.namespace_selector is None and other.namespace != owner.namespace:
        return False
    if not selects(term.selector, other.labels):
        return False
    own = [Requirement(key=k, operator="In", values=[owner.labels[k]]) for k in term.match_label_keys if k in owner.labels]
    own += [
        Requirement(key=k, operator="NotIn", values=[owner.labels[k]]) for k in term.mismatch_label_keys if k in owner.labels
    ]
    return all(matches(r, other.labels) for r in own)


class Dynamic:
    """Masks of nodes (uint8, 1: may) for pods with such rules, as the session stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._values: dict[str, list[str | None]] = {}

    def _labels(self, key: str) -> list[str | None]:
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = [r.labels.get(key) if r else None for r in self._session.nodes.records]
        return found

    def _running(self) -> Iterator[tuple[Pod, int]]:
        for pod in self._session.cluster.pods.values():
            if pod.node >= 0 and USED[pod.status]:
                yield pod, pod.node
                for column, _, _ in pod.away:
                    yield pod, column

    def narrows(self, pod: Pod) -> bool:
        """Whether any rule of this kind concerns the pod."""
        return pod.shape.dynamic or bool(self._session.cluster.avoiding or self._session.avoiding)

    def mask(self, pod: Pod) -> tuple[Bytes, str]:
        """(nodes that the pod may use by these rules, which rule excluded most)."""
        session, record = self._session, pod.record
        good = np.ones(session.everywhere.shape[0], np.uint8)
        why = ""
        if record.host_ports:
            wanted = {(p.port, p.protocol, p.ip) for p in record.host_ports}
            for other, column in self._running():
                for port in other.record.host_ports:
                    if any(_same_port((port.port, port.protocol, port.ip), w) for w in wanted):
                        good[column] = 0
                        why = "node(s) didn't have free ports for the requested pod ports"
        affinity = record.affinity
        if affinity and affinity.pod_required:
            good &= self._near(record, affinity.pod_required)
            why = "node(s) didn't match pod affinity rules"
        if affinity and affinity.anti_required:
            for term in affinity.anti_required:
                good &= self._far(
                    term.topology_key, [c for p, c in self._running() if p is not pod and _in_term(term, record, p.record)]
                )
            why = why or "node(s) didn't match pod anti-affinity rules"
        cluster = session.cluster
        holders = {uid: cluster.pods[uid] for uid in (*cluster.avoiding, *session.avoiding)}
        for other in holders.values():
            theirs = other.record.affinity
            if other is pod or other.node < 0 or theirs is None:
                continue
            for term in theirs.anti_required:
                if _in_term(term, other.record, record):
                    good &= self._far(term.topology_key, [other.node])
                    why = why or "node(s) didn't satisfy existing pods anti-affinity rules"
        return good, why

    def _far(self, key: str, columns: list[int]) -> Bytes:
        values = self._labels(key)
        taken = {values[c] for c in columns} - {None}
        return np.array(
            [0 if v in taken else 1 for v in values] + [0] * (self._session.everywhere.shape[0] - len(values)), np.uint8
        )

    def _near(self, record: PodRecord, terms: list[PodTerm]) -> Bytes:
        size = self._session.everywhere.shape[0]
        found = np.ones(size, np.uint8)
        seen = False
        for term in terms:
            values = self._labels(term.topology_key)
            taken = {
                values[c] for p, c in self._running() if p.record.uid != record.uid and _in_term(term, record, p.record)
            } - {None}
            seen = seen or bool(taken)
            found &= np.array([1 if v in taken else 0 for v in values] + [0] * (size - len(values)), np.uint8)
        if not seen and all(_in_term(term, record, record) for term in terms):
            # The first of pods that want to be together may go anywhere where the labels are.
            found = np.ones(size, np.uint8)
            for term in terms:
                values = self._labels(term.topology_key)
                found &= np.array([v is not None for v in values] + [False] * (size - len(values)), np.uint8)
        return found


def _same_port(a: tuple[int, str, str], b: tuple[int, str, str]) -> bool:
    anywhere = ("", "0.0.0.0")
    return a[0] == b[0] and a[1] == b[1] and (a[2] == b[2] or a[2] in anywhere or b[2] in anywhere)
