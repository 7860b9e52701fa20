"""How many devices a node can still hold for groups: those that work (allocatable) less those that are held. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shoal_contracts.state import NodeRecord, PodRecord
from shoal_gpu_reservation.ledger import Key, Ledger
from shoal_model import gpu, labels


@dataclass(frozen=True)
class Verdict:
    """Whether one more device can be had: now, later (something is leaving), or not at all."""

    now: bool = True
    later: bool = True
    why: str = ""


class Capacity:
    """What pods with whole GPUs hold, by node; reservations are the ledger's."""

    def __init__(self, nodes: Mapping[str, NodeRecord], ledger: Ledger) -> None:
        self._nodes, self._ledger = nodes, ledger
        self._whole: dict[str, dict[tuple[str, str], tuple[float, bool]]] = {}
        """Node -> pod -> (its GPUs, whether it is leaving)."""
        self._node_of: dict[tuple[str, str], str] = {}

    def pod(self, record: PodRecord) -> None:
        """A pod is so now."""
        name = (record.namespace, record.name)
        self.gone(*name)
        count = record.requests.get(labels.GPU, 0.0)
        if count > 0 and record.node and record.phase not in gpu.ENDED and not gpu.is_reservation(record):
            self._node_of[name] = record.node
            self._whole.setdefault(record.node, {})[name] = (count, bool(record.deleted))

    def gone(self, namespace: str, name: str) -> None:
        """A pod is gone."""
        node = self._node_of.pop((namespace, name), None)
        if node is not None:
            pods = self._whole[node]
            del pods[namespace, name]
            if not pods:
                del self._whole[node]

    def verdict(self, key: Key, asked: Iterable[Key]) -> Verdict:
        """Whether the group can get a device; ``asked``: groups whose reservations were made, and may not show yet."""
        node = self._nodes.get(key[0])
        if node is None:
            return Verdict()
        healthy = int(node.allocatable.get(labels.GPU, 0.0))
        whole = self._whole.get(key[0], {}).values()
        taken, leaving = sum(n for n, going in whole if not going), sum(n for n, going in whole if going)
        groups = {other for other in asked if other[0] == key[0] and other != key}
        for name, group in self._ledger.on_node.get(key[0], {}).items():
            other, standing = (key[0], name), group.reservation
            if other == key:
                continue
            if standing is not None and standing.lost:
                groups.discard(other)  # its device is none of those that work
            elif standing is not None:
                groups.add(other)
            elif group.reservations:
                groups.discard(other)
                leaving += 1
        if taken + len(groups) + leaving < healthy:
            return Verdict()
        why = (
            f"{healthy} of its GPUs work (allocatable), and all are held: {len(groups)} for other groups,"
            f" {int(taken + leaving)} by pods with whole GPUs or what is leaving"
        )
        return Verdict(now=False, later=taken + len(groups) < healthy, why=why)
