"""The nodes as columns: one row per resource, one column per node, updated in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shoal_contracts.state import NodeRecord, PodRecord
from shoal_core.placement.feasible import names_nodes, selected, tolerated
from shoal_core.vocabulary import CPU, FIRST_RESOURCES, GPU, PODS, SHARED_RESOURCES, Interner

PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
DEFAULT_PODS = 110.0
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def usable(record: NodeRecord) -> bool:
    """Whether anything may be placed on the node at all."""
    return record.ready and not record.unschedulable and all(record.conditions.get(p, "False") == "False" for p in PRESSURES)


class Nodes:
    """Arrays (resources, nodes), float64: ``allocatable`` and ``idle`` (what is left of it).

    A node that goes leaves its column empty and unusable; the next new node takes it.
    """

    def __init__(self) -> None:
        self.resources = Interner(FIRST_RESOURCES)
        self.columns: dict[str, int] = {}
        self.records: list[NodeRecord | None] = []
        self.allocatable: Floats = np.zeros((len(FIRST_RESOURCES), 0))
        self.idle: Floats = np.zeros((len(FIRST_RESOURCES), 0))
        self.usable: Bytes = np.zeros(0, np.uint8)
        self.cpu_only: Bytes = np.zeros(0, np.uint8)
        self.rank: NDArray[np.int64] = np.zeros(0, np.int64)
        self.version = 0
        """Changes whenever labels, taints, or the set of nodes changed."""
        self._profiles: Interner[tuple[object, ...]] = Interner()
        self._profile_of: list[int] = []
        self._free: list[int] = []
        self._ranked = -1
        self._allowed: dict[int, tuple[int, Bytes]] = {}
        self._verdicts: dict[tuple[int, int], bool] = {}

    def _grow(self, columns: int, rows: int) -> None:
        have_rows, have = self.allocatable.shape
        if columns <= have and rows <= have_rows:
            return
        wide = max(have, 16)
        while wide < columns:
            wide *= 2
        tall = max(rows, have_rows)
        for name in ("allocatable", "idle"):
            bigger = np.zeros((tall, wide))
            bigger[:have_rows, :have] = getattr(self, name)
            setattr(self, name, bigger)
        for name in ("usable", "cpu_only"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(wide - have, np.uint8)]))
        self.rank = np.concatenate([self.rank, np.zeros(wide - have, np.int64)])
        self._allowed.clear()

    def vector(self, requests: dict[str, float]) -> Floats:
        """A pod's requests as a column: (resources,), one pod included."""
        numbers = {self.resources.number(name): value for name, value in requests.items()}
        self._grow(0, len(self.resources))
        found = np.zeros(self.allocatable.shape[0])
        for number, value in numbers.items():
            found[number] = value
        found[PODS] = 1.0
        return found

    def put(self, record: NodeRecord) -> None:
        """A node that is new or changed; what runs on it stays charged."""
        column = self.columns.get(record.name)
        if column is None:
            column = self._free.pop() if self._free else len(self.records)
            if column == len(self.records):
                self.records.append(None)
                self._profile_of.append(-1)
            self.columns[record.name] = column
            self.version += 1
        for name in record.allocatable:
            self.resources.number(name)
        self._grow(column + 1, len(self.resources))
        used = self.allocatable[:, column] - self.idle[:, column]
        have = np.zeros(self.allocatable.shape[0])
        have[PODS] = DEFAULT_PODS
        for name, value in record.allocatable.items():
            have[self.resources.number(name)] = value
        self.allocatable[:, column] = have
        self.idle[:, column] = have - used
        self.usable[column] = usable(record)
        self.cpu_only[column] = have[GPU] == 0
        self.records[column] = record
        labels = tuple(sorted((k, v) for k, v in record.labels.items() if k != "kubernetes.io/hostname"))
        taints = tuple((t.key, t.value, t.effect) for t in record.taints)
        profile = self._profiles.number((labels, taints))
        if self._profile_of[column] != profile:
            self._profile_of[column] = profile
            self.version += 1

    def remove(self, name: str) -> None:
        """A node that is gone. What was charged to it is forgotten."""
        column = self.columns.pop(name, None)
        if column is None:
            return
        self.allocatable[:, column] = 0
        self.idle[:, column] = 0
        self.usable[column] = 0
        self.records[column] = None
        self._profile_of[column] = -1
        self._free.append(column)
        self.version += 1

    def charge(self, column: int, request: Floats, sign: float = 1.0) -> None:
        """Take ``request`` from a node's idle resources; ``sign`` -1 gives it back."""
        self.idle[: request.shape[0], column] -= sign * request

    def ranks(self) -> NDArray[np.int64]:
        """Rank of each node by name, for ties."""
        if self._ranked != self.version:
            for rank, name in enumerate(sorted(self.columns)):
                self.rank[self.columns[name]] = rank
            self._ranked = self.version
        return self.rank

    def allowed(self, number: int, pod: PodRecord) -> Bytes:
        """0 or 1 per column: nodes that pods of class ``number`` may use by labels and taints. Kept until these change."""
        kept = self._allowed.get(number)
        if kept is None or kept[0] != self.version:
            mask = np.zeros(self.usable.shape[0], np.uint8)
            own_names = names_nodes(pod)
            for column, record in enumerate(self.records):
                if record is None:
                    continue
                key = (number, self._profile_of[column])
                verdict = None if own_names else self._verdicts.get(key)
                if verdict is None:
                    verdict = selected(pod, record.name, record.labels) and tolerated(pod, record.taints)
                    if not own_names:
                        self._verdicts[key] = verdict
                mask[column] = verdict
            kept = self._allowed[number] = (self.version, mask)
        return kept[1] & self.usable

    def total(self) -> Floats:
        """CPU, memory and GPUs of all usable nodes: (3,)."""
        return (self.allocatable[:SHARED_RESOURCES] * self.usable).sum(axis=1)

    def preferred(self, request: Floats) -> tuple[Bytes, int]:
        """(nodes that come first for such a pod, the resource that is packed): CPU-only pods go to CPU-only nodes."""
        if request[GPU] > 0:
            return np.zeros_like(self.cpu_only), GPU
        return self.cpu_only, CPU
