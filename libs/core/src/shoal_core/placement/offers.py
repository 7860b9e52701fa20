"""Where pods find extended resources that device classes offer: counted by the node, or as devices (placement spec 7.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal_core.nodes import Bytes, Floats
from shoal_core.rows import Shape
from shoal_model import labels

if TYPE_CHECKING:
    from shoal_core.session import Session


class Offers:
    """Masks and requests for shapes with such resources, as the session began; neither classes nor slices change in it."""

    def __init__(self, session: Session) -> None:
        self._nodes, self._slices = session.nodes, session.cluster.claims.slices
        self._by_devices = session.settings.extended_by_devices
        self._masks: dict[int, Bytes] = {}
        self._counted: dict[int, bool] = {}

    def mask(self, shape: Shape) -> Bytes:
        """Nodes that count all of the shape's extended resources themselves or reach as many devices: uint8 (nodes,)."""
        found = self._masks.get(shape.number)
        if found is None:
            found = self._masks[shape.number] = np.zeros(self._nodes.usable.shape[0], np.uint8)
            for name, column in self._nodes.columns.items():
                record = self._nodes.records[column]
                assert record is not None
                lacking = sum(amount for resource, amount in shape.extended if not record.allocatable.get(resource))
                found[column] = not lacking or (self._by_devices and len(self._slices.devices(name, record.labels)) >= lacking)
        return found

    def counted_everywhere(self, shape: Shape) -> bool:
        """Whether no node that pods of this shape may use has to give them devices."""
        found = self._counted.get(shape.number)
        if found is None:
            nodes, may = self._nodes, self.mask(shape)
            records = [nodes.records[column] for column in nodes.columns.values() if may[column]]
            found = self._counted[shape.number] = all(
                r and r.allocatable.get(name) for r in records for name, _ in shape.extended
            )
        return found

    def told(self, shape: Shape) -> str:
        """Why the others can't be used."""
        names = ", ".join(resource for resource, _ in shape.extended)
        return (
            f"node(s) offer too few of {names}"
            if self._by_devices
            else f"node(s) offer {names} as devices at most: not supported"
        )

    def rows(self, shape: Shape) -> list[int]:
        """Rows of the shape's extended resources; GPUs always count as GPUs (placement spec 7.2)."""
        found = [self._nodes.resources.find(name) for name, _ in shape.extended if name != labels.GPU]
        return [row for row in found if row is not None]

    def counted(self, shape: Shape, request: Floats) -> Floats:
        """The request without what some nodes offer as devices."""
        less = request.copy()
        less[self.rows(shape)] = 0.0
        return less

    def request(self, shape: Shape, request: Floats, allowed: Bytes) -> tuple[Floats, Bytes]:
        """(the request without what some nodes offer as devices, nodes where that suffices)."""
        rows, nodes = self.rows(shape), self._nodes
        if not rows:
            return request, allowed
        for r in rows:
            room = nodes.idle[r] + nodes.releasing[r] >= request[r]
            allowed = (allowed & (room | (nodes.allocatable[r] == 0.0))).astype(np.uint8)
        return self.counted(shape, request), allowed

    def waits(self, shape: Shape, request: Floats, column: int) -> bool:
        """Whether too little of what the node counts itself is idle there."""
        nodes = self._nodes
        return any(nodes.allocatable[r, column] != 0.0 and request[r] > nodes.idle[r, column] for r in self.rows(shape))
