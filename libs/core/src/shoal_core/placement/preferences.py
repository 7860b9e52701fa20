"""What pods would rather have: nodes with some labels, none with some taints, to be near or far from others, to be spread
(Kubernetes' scores of NodeAffinity, TaintToleration, InterPodAffinity and PodTopologySpread)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal_core.nodes import Bytes, Floats, Ints
from shoal_core.placement.census import meaning, spread_out, sums
from shoal_core.placement.feasible import SHUNNING, shunned, wished
from shoal_core.placement.spread import Spread
from shoal_core.rows import Pod

if TYPE_CHECKING:
    from shoal_core.session import Session

WORTH = 200.0
"""Of the best node by each of the four: more than the fullest node is worth, together less than to start now."""
PLUGIN = 1e6
"""What one point is worth where the plugin podaffinity is on, as in KAI."""


class Preferences:
    """Scores, as the session stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._spread = Spread(session)
        self._plugin = "podaffinity" in session.plugins
        self._of = self._plugin or not session.settings.kai_0_17
        self._nodes = not session.settings.kai_0_17
        self._shunning = self._nodes and any(
            t.effect == SHUNNING for node in session.nodes.records if node is not None for t in node.taints
        )
        self._kept: dict[int, tuple[Ints, Ints]] = {}
        """By shape: (weights that each node meets, taints of each node that are not tolerated)."""

    def of_nodes(self, pod: Pod) -> bool:
        """Whether some nodes suit the pod better than others by their labels or taints."""
        affinity = pod.record.affinity
        return self._shunning or (self._nodes and affinity is not None and bool(affinity.node_preferred))

    def by_node(self, pod: Pod, candidates: Bytes) -> Floats:
        """(nodes,): what is to be added to the score of each for its labels and taints."""
        kept = self._kept.get(pod.shape.number)
        if kept is None:
            size = candidates.shape[0]
            kept = self._kept[pod.shape.number] = np.zeros(size, np.int64), np.zeros(size, np.int64)
            for column, node in enumerate(self._session.nodes.records):
                if node is not None:
                    kept[0][column] = wished(pod.record, node.name, node.labels)
                    kept[1][column] = shunned(pod.record, node.taints)
        here = candidates == 1
        total = np.zeros(candidates.shape[0])
        for sign, found in zip((1, -1), kept, strict=True):
            most = int(found[here].max(initial=0))
            if most > 0:
                total += sign * WORTH * np.where(here, found / most, 0.0)
        return total

    def any(self, pod: Pod) -> bool:
        """Whether the pod has wishes, or others have of it."""
        if not self._of:
            return False
        affinity = pod.record.affinity
        if pod.record.spread or (affinity is not None and (affinity.pod_preferred or affinity.anti_preferred)):
            return True
        return self._session.census.attracted(pod.record)

    def score(self, pod: Pod, candidates: Bytes) -> Floats | None:
        """(nodes,): what is to be added to the score of each; None: nothing. ``candidates``: nodes that compete."""
        found: Floats | None = None
        points = self._points(pod)
        here = candidates == 1
        if points is not None and here.any():
            if self._plugin:
                found = points.astype(np.float64) * PLUGIN
            else:
                least, most = float(points[here].min()), float(points[here].max())
                if most > least:
                    found = np.where(here, (points - least) / (most - least) * WORTH, 0.0)
        spread = self._spread.score(pod.record, candidates) if pod.record.spread else None
        if spread is not None:
            found = spread * WORTH if found is None else found + spread * WORTH
        return found

    def _points(self, pod: Pod) -> Ints | None:
        """The sum of weights by node: the pod's own preferred terms, and those of pods that would have it near or far."""
        record, census = pod.record, self._session.census
        total: Ints | None = None
        weighted: list[tuple[str, int, Ints]] = []
        if record.affinity is not None:
            own = [(t, t.weight) for t in record.affinity.pod_preferred]
            own += [(t, -t.weight) for t in record.affinity.anti_preferred]
            for term, weight in own:
                counts = census.count(meaning(term, record)).here(False, record.uid)
                weighted.append((term.topology_key, weight, counts))
        weighted += [(c.topology_key, 1, c.counts) for c in census.attracting(record, hard=not self._plugin)]
        for key, weight, counts in weighted:
            if counts.any():
                ids, number = census.domains(key)
                value = weight * spread_out(sums(counts, ids, number), ids)
                total = value if total is None else total + value
        return total
