"""Topology spread constraints: DoNotSchedule as a filter, ScheduleAnyway as a score (Kubernetes' PodTopologySpread)."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np

from shoal_contracts.state import PodRecord, SpreadConstraint
from shoal_core.nodes import Bytes, Floats, Ints
from shoal_core.placement.census import counted, spread_out, sums
from shoal_core.placement.feasible import selected, tolerated

if TYPE_CHECKING:
    from shoal_core.session import Session

NOT_SPREAD = "node(s) didn't match pod topology spread constraints"
NO_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"
HARD, SOFT, HONOR = "DoNotSchedule", "ScheduleAnyway", "Honor"
HOSTNAME = "kubernetes.io/hostname"


class Spread:
    """The constraints of pods, as the session stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._of = not session.settings.kai_0_17
        self._eligible: dict[tuple[object, ...], np.ndarray] = {}

    def mask(self, pod: PodRecord) -> tuple[Bytes, str]:
        """(nodes (uint8, 1: may) on which no constraint is broken, which reason excluded some)."""
        good = self._session.everywhere.astype(bool)
        hard = [c for c in pod.spread if c.when_unsatisfiable == HARD] if self._of else []
        if not hard:
            return good.astype(np.uint8), ""
        why = ""
        labelled = self._labelled(hard)
        if (good & ~labelled).any():
            why = NO_LABEL
        good &= labelled
        for constraint in hard:
            _, skew = self._skew(pod, constraint, labelled)
            itself = int(self._session.census.means(counted(constraint, pod), pod))
            fits = skew + itself <= constraint.max_skew
            if (good & ~fits).any():
                why = NOT_SPREAD
            good &= fits
        return good.astype(np.uint8), why

    def _skew(self, pod: PodRecord, constraint: SpreadConstraint, labelled: np.ndarray) -> tuple[Ints, Ints]:
        """(domain of each node, by how many pods it has more than the least); far below 0 where no domain counts."""
        ids, number = self._session.census.domains(constraint.topology_key)
        eligible = labelled & self._included(pod, constraint)
        found = sums(np.where(eligible, self._counts(pod, constraint), 0), ids, number)
        domains = np.unique(ids[eligible])
        if not len(domains):
            return ids, np.full(ids.shape[0], -(1 << 31))
        least = int(found[domains].min()) if len(domains) >= constraint.min_domains else 0
        return ids, spread_out(found, ids) - least

    def guard(self, pod: PodRecord) -> Bytes:
        """Nodes (uint8, 1: may) on which the pod, a victim that looks for a place, breaks no constraint of the pods that the
        simulation has placed before it: they would not be bound there."""
        good = self._session.everywhere.astype(bool)
        for other in self._session.spreading.values():
            hard = [c for c in other.record.spread if c.when_unsatisfiable == HARD] if self._of else []
            labelled = self._labelled(hard)
            for constraint in hard:
                if self._session.census.means(counted(constraint, other.record), pod):
                    ids, skew = self._skew(other.record, constraint, labelled)
                    if int(skew[other.node]) + 1 > constraint.max_skew:
                        good &= ids != ids[other.node]
        return good.astype(np.uint8)

    def score(self, pod: PodRecord, candidates: Bytes) -> Floats | None:
        """0 to 1 by node, more where fewer of the pods that are counted run; None if the pod wishes nothing of the kind."""
        soft = [c for c in pod.spread if c.when_unsatisfiable == SOFT] if self._of else []
        if not soft:
            return None
        labelled = self._labelled(soft)
        scored = labelled & (candidates == 1)
        total = np.zeros(candidates.shape[0])
        if not scored.any():
            return total
        for constraint in soft:
            ids, number = self._session.census.domains(constraint.topology_key)
            counts = self._counts(pod, constraint)
            if constraint.topology_key == HOSTNAME:
                each, size = counts, int(scored.sum())
            else:
                counts = np.where(labelled & self._included(pod, constraint), counts, 0)
                each, size = spread_out(sums(counts, ids, number), ids), len(np.unique(ids[scored]))
            total += each * log(size + 2) + (constraint.max_skew - 1)
        total = np.rint(total)
        most, least = float(total[scored].max()), float(total[scored].min())
        return np.where(scored, (most + least - total) / most if most else 1.0, 0.0)

    def _counts(self, pod: PodRecord, constraint: SpreadConstraint) -> Ints:
        """Pods by node; an empty selector counts none, as in Kubernetes."""
        if constraint.selector is None or not (constraint.selector.requirements or constraint.match_label_keys):
            return np.zeros(self._session.everywhere.shape[0], np.int64)
        return self._session.census.count(counted(constraint, pod)).active

    def _labelled(self, constraints: list[SpreadConstraint]) -> np.ndarray:
        """Nodes that have the labels of all constraints."""
        found = self._session.everywhere.astype(bool)
        for constraint in constraints:
            found &= self._session.census.domains(constraint.topology_key)[0] >= 0
        return found

    def _included(self, pod: PodRecord, constraint: SpreadConstraint) -> np.ndarray:
        """Nodes that the constraint counts by its policies on node affinity and taints."""
        affinity = constraint.node_affinity_policy == HONOR
        taints = constraint.node_taints_policy == HONOR
        wanted = pod.affinity.node_required if pod.affinity else None
        key = (
            affinity and (tuple(sorted(pod.node_selector.items())), repr(wanted)),
            taints and repr(pod.tolerations),
        )
        found = self._eligible.get(key)
        if found is None:
            nodes = self._session.nodes
            # Nodes that are cordoned or not ready have taints that say so, as soon as a controller has seen it.
            found = (self._session.everywhere & nodes.open_to(pod) if taints else self._session.everywhere).astype(bool)
            for column in np.flatnonzero(found).tolist():
                node = nodes.records[column]
                assert node is not None
                found[column] = (not affinity or selected(pod, node.name, node.labels)) and (
                    not taints or tolerated(pod, node.taints)
                )
            self._eligible[key] = found
        return found
