"""Rules that depend on the pods that run: host ports, pod affinity and anti-affinity, topology spread constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal_contracts.state import PodRecord, PodTerm
from shoal_core.nodes import Bytes, Ints
from shoal_core.placement.census import Census, meaning, spread_out, sums
from shoal_core.placement.spread import Spread
from shoal_core.placement.standings import Meaning, standing
from shoal_core.rows import Pod

if TYPE_CHECKING:
    from shoal_core.session import Session

PORTS = "node(s) didn't have free ports for the requested pod ports"
AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"


class Dynamic:
    """Masks of nodes (uint8, 1: may) for pods with such rules, as the session stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.census: Census = session.census
        self.spread = Spread(session)

    def narrows(self, pod: Pod) -> bool:
        """Whether any rule of this kind concerns the pod."""
        return pod.shape.dynamic or self.repelled(pod)

    def repelled(self, pod: Pod) -> bool:
        """Whether a pod on a node holds an anti-affinity that speaks of this one."""
        return self.census.repelled(pod.record)

    def mask(self, pod: Pod, later: bool) -> tuple[Bytes, str]:
        """(nodes that the pod may use by these rules, which rule excluded most). ``later``: it starts when all that leaves
        is gone."""
        record = pod.record
        good = np.ones(self._session.everywhere.shape[0], np.uint8)
        why = ""
        if record.host_ports and self._ports(pod, later, good):
            why = PORTS
        affinity = record.affinity
        if affinity and affinity.pod_required:
            good &= self._near(record, affinity.pod_required, later)
            why = AFFINITY
        if affinity and affinity.anti_required:
            by_key: dict[str, list[Meaning]] = {}
            for term in affinity.anti_required:
                by_key.setdefault(term.topology_key, []).append(meaning(term, record))
            for key, meanings in by_key.items():
                if self.census.domains(key)[1]:
                    good &= self._far(key, self.census.count_any(meanings).here(later, record.uid))
            why = why or ANTI_AFFINITY
        for concern in self.census.repelling(record, later):
            good &= self._far(concern.topology_key, concern.counts)
            why = why or EXISTING
        if record.spread:
            allowed, told = self.spread.mask(record)
            good &= allowed
            why = why or told
        return good, why

    def _ports(self, pod: Pod, later: bool, good: Bytes) -> bool:
        """Take nodes where a port is in use out of ``good``; whether there were any."""
        wanted = {(p.port, p.protocol, p.ip) for p in pod.record.host_ports}
        found = False
        for other in self._session.cluster.pods.values():
            if not other.record.host_ports or other.node < 0 or other is pod:
                continue
            at = standing(other, self.census.evicted)
            for port in other.record.host_ports:
                if any(_same_port((port.port, port.protocol, port.ip), w) for w in wanted):
                    for column in at.near if later else at.near + at.leaving:
                        good[column] = 0
                        found = True
        return found

    def _far(self, key: str, counts: Ints) -> Bytes:
        """Nodes outside the domains that are counted; those without the label are in none."""
        ids, number = self.census.domains(key)
        return (spread_out(sums(counts, ids, number), ids) == 0).astype(np.uint8)

    def _near(self, record: PodRecord, terms: list[PodTerm], later: bool) -> Bytes:
        # A pod that leaves still attracts, as in Kubernetes: only what a decision removes does not.
        meanings = [meaning(term, record) for term in terms]
        every = self.census.count(*meanings).here(False, record.uid)
        found = np.ones(self._session.everywhere.shape[0], bool)
        labelled = found.copy()
        seen = False
        for term in terms:
            ids, number = self.census.domains(term.topology_key)
            counts = sums(every, ids, number)
            seen = seen or bool(counts.any())
            found &= spread_out(counts, ids) > 0
            labelled &= ids >= 0
        if not seen and all(self.census.means(m, record) for m in meanings):
            # The first of pods that want to be together may go anywhere where the labels are.
            found = labelled
        return found.astype(np.uint8)


def _same_port(a: tuple[int, str, str], b: tuple[int, str, str]) -> bool:
    anywhere = ("", "0.0.0.0")
    return a[0] == b[0] and a[1] == b[1] and (a[2] == b[2] or a[2] in anywhere or b[2] in anywhere)
