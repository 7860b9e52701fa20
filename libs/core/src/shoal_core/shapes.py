"""The shapes of pods: those that ask for the same have the same one."""

from __future__ import annotations

import msgspec

from shoal_contracts.state import PodRecord
from shoal_core.nodes import Nodes
from shoal_core.placement.claims import Claims
from shoal_core.rows import MIG, Shape, mig_gpus
from shoal_core.vocabulary import GPU
from shoal_model import labels


class Shapes:
    """Kept for as long as the cluster; ``renew`` tells them what device classes offer."""

    def __init__(self, nodes: Nodes, claims: Claims) -> None:
        self._nodes, self._claims = nodes, claims
        self._shapes: dict[bytes, Shape] = {}
        self._version = 0
        """The version of the extended resources that shapes know of."""

    def of(self, record: PodRecord) -> Shape:
        """The pod's shape."""
        gpus = self._claims.gpu_count(record) if record.claims else 0.0
        mig = sorted(k for k in record.annotations if k.startswith(labels.MIG_PREFIX))
        key = msgspec.json.encode(
            (
                sorted(record.requests.items()), sorted(record.node_selector.items()), record.affinity, record.tolerations,
                record.host_ports, record.claims, record.share, bool(record.volumes), mig, gpus,
                (record.namespace, sorted(record.labels.items()), record.spread) if record.affinity or record.spread else None,
            )
        )  # fmt: skip
        found = self._shapes.get(key)
        if found is None:
            request = self._nodes.vector(record.requests)
            quota = sum(mig_gpus(name) * value for name, value in record.requests.items())
            found = self._shapes[key] = Shape(len(self._shapes), record, request, quota, gpus)
            if self._nodes.nvidia >= 0:
                self._split(found)
            if extended := self._claims.extended.of(record.requests):
                found.offer(extended)
        return found

    def split_gpus(self) -> None:
        """Count NVIDIA's GPUs on their own as well."""
        for shape in self._shapes.values():
            self._split(shape)

    def _split(self, shape: Shape) -> None:
        request = self._nodes.vector(shape.record.requests)
        request[GPU] = shape.request[GPU]
        if shape.kind == MIG:
            request[self._nodes.nvidia] = 0.0
        shape.ask(request, self._nodes.nvidia)

    def renew(self) -> bool:
        """Whether device classes offer other resources than when this was last asked; then all shapes know."""
        if self._version == self._claims.extended.version:
            return False
        self._version = self._claims.extended.version
        for shape in self._shapes.values():
            shape.offer(self._claims.extended.of(shape.record.requests))
        return True
