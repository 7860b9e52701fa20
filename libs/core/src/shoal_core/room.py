"""What pods take of their nodes: whole resources, parts of shared devices, devices of claims."""

from __future__ import annotations

import math

from shoal_core.disruptions import Disruptions
from shoal_core.kernels.charge import LEAVES, RUNS, WILL
from shoal_core.nodes import Nodes
from shoal_core.placement.claims import Claims
from shoal_core.placement.feasible import selected, tolerated
from shoal_core.rows import CENT, Pod, Shape, Vector
from shoal_core.settings import Settings
from shoal_core.status import PIPELINED, RELEASING
from shoal_core.vocabulary import GPU
from shoal_model import gpu


class Room:
    """The nodes, and the pods that are charged to them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes = Nodes()
        self.claims = Claims(settings.queue_label)
        self.pods: dict[str, Pod] = {}
        self.disruptions = Disruptions(self.pods)
        self.by_node: dict[str, dict[str, None]] = {}
        """Node name -> uids of what is charged there."""
        self.pinned: dict[str, dict[str, None]] = {}
        """Node name -> uids of waiting pods that another scheduler can put on this node only."""
        self._pinned_to: dict[str, str] = {}
        self.changes = 0
        """Counts up with every change that a decision may depend on."""

    def set_eviction_backoff(self, uid: str, on: bool, why: str = "") -> None:
        """Keep a pod from being chosen as a victim, because its eviction was refused (``why``), or allow it again."""
        if on:
            self.disruptions.backoff[uid] = why
        else:
            self.disruptions.backoff.pop(uid, None)
        self.disruptions.version += 1
        self.changes += 1

    def memory_on(self, shape: Shape, column: int) -> int:
        """MiB that a sharing pod takes of each of its devices on the node."""
        return int(shape.memory) if shape.memory else int(shape.fraction * float(self.nodes.gpu_memory[column]))

    def pin(self, uid: str, name: str) -> None:
        """The pod waits for this node, empty: for none or any."""
        if old := self._pinned_to.pop(uid, ""):
            del self.pinned[old][uid]
            if not self.pinned[old]:
                del self.pinned[old]
        if name:
            self._pinned_to[uid] = name
            self.pinned.setdefault(name, {})[uid] = None

    def could_hold(self, pod: Pod, name: str) -> bool:
        """Whether the pod could run on the node if nothing else did, by size, labels and taints; yes for a node that is not
        known yet."""
        column = self.nodes.columns.get(name, -1)
        node = self.nodes.records[column] if column >= 0 else None
        if node is None:
            return True
        rows = pod.shape.rows
        fits = bool((pod.shape.request[rows] <= self.nodes.allocatable[rows, column]).all())
        return fits and selected(pod.record, name, node.labels) and tolerated(pod.record, node.taints)

    def accepted(self, pod: Pod, column: int) -> Vector:
        """What the pod counts for in queues on that node (placement spec 1.8)."""
        shape = pod.shape
        if not shape.memory:
            return shape.vector
        size = float(self.nodes.gpu_memory[column])
        portion = math.ceil(round(shape.memory / size * CENT, 9)) / CENT if size else 0.0
        return shape.vector[0], shape.vector[1], round(portion * shape.devices, 6)

    def charge(self, pod: Pod, column: int, status: int, sign: int, slots: bool = True) -> None:
        """Charge the pod to a node as one of this status (``sign`` 1), or take it off (-1); without ``slots`` its shared
        devices are left alone."""
        how = LEAVES if status == RELEASING else WILL if status == PIPELINED else RUNS
        shape, nodes = pod.shape, self.nodes
        request, gpus = shape.request, shape.gpus
        if shape.shared or gpu.is_reservation(pod.record):
            request, gpus = shape.without_gpus, 0.0
        elif shape.claim_gpus:
            gpus += self.claimed(pod, column, sign)
            request = request.copy()
            request[GPU] = gpus
        nodes.charge(column, request, shape.rows, how, float(sign))
        if gpus and nodes.allocatable[GPU, column]:
            nodes.whole_used[column] += sign * gpus
        if slots and shape.shared and pod.groups:
            memory = self.memory_on(shape, column)
            for group in pod.groups:
                nodes.charge_slot(column, group, memory, how, sign)

    def claimed(self, pod: Pod, column: int, sign: int) -> float:
        """GPUs of its claims that nobody else on the node was charged for."""
        name = self.nodes.name(column)
        if sign > 0:
            pod.charged_gpus = self.claims.charge(pod.record, name, pod.shape.claim_gpus)
            return pod.charged_gpus
        return self.claims.discharge(pod.record, name, pod.shape.claim_gpus)

    def rebuild_node(self, column: int) -> None:
        """Charge everything on the node anew."""
        name = self.nodes.name(column)
        self.nodes.clear(column)
        for uid in self.by_node.get(name, {}):
            pod = self.pods[uid]
            if pod.shape.claim_gpus:
                self.claimed(pod, column, -1)
            self.charge(pod, column, pod.status, 1)
