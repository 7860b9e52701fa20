"""Pods, their shapes, and jobs (pod groups) as rows: what the rules read of them, kept up to date as statuses change."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shoal_contracts import state
from shoal_core.gang import DEFAULT, PodSet, SubGroupSet, elasticity, leaves, next_pods
from shoal_core.history import History
from shoal_core.status import BINDING, GONE, PENDING, STEPS
from shoal_core.vocabulary import CPU, GPU, MEMORY, MOST_DEVICES
from shoal_model import labels

if TYPE_CHECKING:
    from shoal_core.queues import Queue

Key = tuple[str, str]
Floats = NDArray[np.float64]
Vector = tuple[float, float, float]
"""CPU (millicores), memory (bytes), GPUs (devices)."""
NOTHING: Vector = (0.0, 0.0, 0.0)
Place = tuple[int, str, tuple[str, ...]]
"""A pod's status, the name of its node and the shared devices that it uses there."""
Away = tuple[int, tuple[str, ...], int]
"""A node, the shared devices on it, and the status that a pod is charged with there."""
REGULAR, FRACTION, GPU_MEMORY, MIG = range(4)
_MIG = re.compile(r"nvidia\.com/mig-(\d+)g\.(\d+)gb$")
MIG_PREFIX = "nvidia.com/mig-"
CENT = 100
EXACT = 1 / 64
"""Multiples of it, as most parts of GPUs are, are exact and the same when rounded to six places."""


def mig_gpus(resource: str) -> int:
    """GPUs that one instance of a MIG profile counts in queues; 0 for a name of another form (placement spec 1.5)."""
    found = _MIG.match(resource)
    return int(found[1]) if found else 0


def hundredths(portion: float) -> int:
    """A portion of a device as reference users know it: rounded to 0.01 (half away from zero)."""
    return math.floor(portion * CENT + 0.5)


class Shape:
    """What pods that are equal to the scheduler have in common."""

    __slots__ = (
        "claim_gpus", "claiming", "cpu_only", "devices", "dynamic", "entangled", "extended", "figures", "fraction", "gpus",
        "kind", "lacking", "legacy_mig", "memory", "missing", "number", "quota", "record", "request", "rows", "shared",
        "social", "vector", "without_gpus",
    )  # fmt: skip

    def __init__(self, number: int, record: state.PodRecord, request: Floats, quota_of_mig: float, claim_gpus: float) -> None:
        self.number, self.record, self.request = number, record, request
        self.claim_gpus = claim_gpus
        share = record.share
        self.fraction = self.memory = 0.0
        self.devices = 0
        self.legacy_mig = any(k.startswith(MIG_PREFIX) for k in record.annotations)
        mig = self.legacy_mig or any(r.startswith(MIG_PREFIX) for r in record.requests)
        self.kind = REGULAR
        whole = float(request[GPU])
        if mig:
            self.kind, whole = MIG, 0.0
        elif share is not None:
            self.devices = min(share.devices, MOST_DEVICES)
            self.kind = GPU_MEMORY if share.memory_mib else FRACTION
            self.fraction, self.memory = share.fraction, float(share.memory_mib)
            whole = 0.0 if share.memory_mib else hundredths(share.fraction) * self.devices / CENT
        self.shared = share is not None and not mig
        self.gpus = whole
        """GPUs() of the request, without claims and MIG."""
        request[GPU] = whole + claim_gpus
        self.quota = whole + claim_gpus + quota_of_mig
        self.cpu_only = whole == 0 and not claim_gpus and self.kind not in (GPU_MEMORY, MIG)
        self.vector: Vector = (float(request[CPU]), float(request[MEMORY]), self.quota)
        self.ask(request)
        affinity = record.affinity
        self.social = bool(
            affinity and (affinity.pod_required or affinity.anti_required or affinity.pod_preferred or affinity.anti_preferred)
        )
        """It wants to be near other pods or far from them."""
        self.entangled = bool(record.host_ports or record.claims or record.volumes or record.spread or self.social)
        """It names what other pods use too."""
        self.extended: tuple[tuple[str, int], ...] = ()
        """(extended resource that a device class offers, amount): nodes that don't count it may have devices for it."""
        self.lacking: tuple[str, ...] = ()
        """Resources that it asks for and that no node ever had: its request is without them."""
        self.missing: tuple[str, ...] = ()
        """Those of them that no device class offers either: no node can have such a pod."""
        self.offer(())

    def ask(self, request: Floats, nvidia: int = -1) -> None:
        """Set what it asks for by row; ``nvidia`` is the row of NVIDIA's GPUs alone, if there is one."""
        self.request = request
        self.without_gpus: NDArray[np.float64] = request.copy()
        """The request without GPUs, which shared devices are charged for by slot."""
        self.without_gpus[GPU] = 0.0
        if nvidia >= 0:
            self.without_gpus[nvidia] = 0.0
        self.rows: NDArray[np.int64] = np.flatnonzero(request).astype(np.int64)
        self.figures: tuple[float, ...] = tuple(np.trim_zeros(request, "b").tolist())
        """The request, as far as it asks for anything."""

    def offer(self, extended: tuple[tuple[str, int], ...]) -> None:
        """Say which of its resources device classes offer."""
        self.extended = extended
        offered = {resource for resource, _ in extended}
        self.missing = tuple(r for r in self.lacking if r not in offered)
        self.claiming = bool(self.record.claims or extended)
        """It may use devices of claims, its own or such as are made for extended resources."""
        self.dynamic = self.entangled or bool(extended)
        """Whether it may run on a node depends on more than the node's labels, taints and free resources."""


class Pod:
    """A pod. ``node`` is the column that it is charged to, -1 for none."""

    __slots__ = (
        "accepted", "away", "barred", "charged_gpus", "groups", "job", "leaf", "node", "node_name", "order", "record",
        "refused", "shape", "status", "virtual", "zones",
    )  # fmt: skip

    def __init__(self, record: state.PodRecord, shape: Shape) -> None:
        self.record, self.shape = record, shape
        self.job: Job | None = None
        self.leaf: PodSet | None = None
        self.status = GONE
        self.node, self.node_name = -1, ""
        self.groups: tuple[str, ...] = ()
        """Shared devices that it uses on its node."""
        self.virtual = False
        """Its status is that of a decision that is being tried."""
        self.barred = self.refused = False
        """Not to be placed for now; because its binding was refused."""
        self.accepted: Vector = NOTHING
        """What it counts for in queues while it is on a node."""
        self.charged_gpus = 0.0
        self.zones: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = ()
        self.away: tuple[Away, ...] = ()
        """Where it is still charged while it has a place elsewhere, the node that it runs on first."""
        self.order = _task_order(record)

    @property
    def uid(self) -> str:
        """Its uid."""
        return self.record.uid

    @property
    def pending(self) -> bool:
        """Waits for a node."""
        return self.status == PENDING


def rules(record: state.PodRecord) -> tuple[object, ...]:
    """What of a pod that exists may be changed and decides on its nodes; with rules on others, its labels do as well."""
    found = record.node_selector, record.affinity, record.tolerations
    return (*found, record.labels) if record.affinity or record.spread else found


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    tail = name[len(head) :]
    return (head, int(tail[:18]) if tail else -1)


def _task_order(record: state.PodRecord) -> tuple[object, ...]:
    """Order inside a leaf (policy spec 3.5): leaders, then the task's own priority, then age, then name."""
    tags = record.labels
    leader = tags.get(labels.KUBEFLOW_ROLE) in ("master", "launcher")
    head = tags.get(labels.RAY_NODE_TYPE) == "head"
    text = tags.get(labels.TASK_PRIORITY)
    try:
        rank = (2, 0) if text is None else (0, -int(text))
    except ValueError:
        rank = (1, 0)
    return (not leader, not head, rank, record.created, _natural(record.name), record.uid)


class Job:
    """A pod group with its pods, and what was derived from them."""

    __slots__ = (
        "active", "chunk_cache", "counted", "created", "held", "history", "key", "key_cache", "leaf_list", "name", "passed",
        "pending", "pods", "preemptible", "priority", "queue", "record", "requests_cache", "root", "signature_cache",
        "succeeded", "unknown", "unsound", "unsure",
    )  # fmt: skip

    def __init__(self, key: Key) -> None:
        self.key, self.name = key, key[1]
        self.record: state.GroupRecord | None = None
        self.root: SubGroupSet = SubGroupSet("", None)
        self.leaf_list: list[PodSet] = []
        self.pods: dict[str, Pod] = {}
        self.unknown: dict[str, Pod] = {}
        """Pods that name a subgroup that the group lacks."""
        self.unsound: dict[str, Pod] = {}
        """Pods whose own record is wrong."""
        self.unsure: dict[str, Pod] = {}
        """Pods that were barred while their binding was decided: it is being given up."""
        self.history = History()
        self.queue: Queue | None = None
        self.priority, self.preemptible, self.created = 50, True, 0.0
        self.pending = self.active = self.counted = self.succeeded = 0
        self.held: Vector = NOTHING
        """Requests of the pods that count as allocated."""
        self.passed: frozenset[str] = frozenset()
        """Subgroups that are passed over while others are tried without them."""
        self.chunk_cache: tuple[list[Pod], Vector] | None = None
        self.key_cache: tuple[int, int, float, str] | None = None
        self.signature_cache: tuple[tuple[object, ...], ...] | None = None
        self.requests_cache: list[tuple[float, ...]] | None = None

    def leaf_for(self, record: state.PodRecord) -> PodSet | None:
        """The leaf that a pod belongs to, None if it names one that does not exist."""
        name = record.subgroup or DEFAULT
        for leaf in self.leaf_list:
            if leaf.name == name:
                return leaf
        return None

    def changed(self) -> None:
        """A status changed: forget what was derived."""
        self.chunk_cache = self.key_cache = self.signature_cache = self.requests_cache = None

    def set_root(self, root: SubGroupSet) -> None:
        """Another tree; its pods are counted anew by the caller."""
        self.root, self.leaf_list = root, list(leaves(root))

    def pass_over(self, names: frozenset[str]) -> None:
        """Leave these subgroups out of what is placed next; none: leave out nothing."""
        if names != self.passed:
            self.passed = names
            self.changed()

    @property
    def ready(self) -> bool:
        """Enough of its pods exist."""
        if len(self.leaf_list) == 1 and self.root.given is None:
            leaf = self.leaf_list[0]
            return leaf.alive - leaf.gated >= leaf.minimum
        return self.root.ready

    @property
    def broken(self) -> bool:
        """Some of it has a place, and less than what runs together."""
        leaves = self.leaf_list
        if len(leaves) == 1:
            return 0 < leaves[0].used < leaves[0].minimum
        return not self.root.whole and any(leaf.used for leaf in leaves)

    def barred(self, pod: Pod) -> None:
        """The pod was barred, or is allowed again."""
        if not pod.barred:
            self.unsure.pop(pod.uid, None)
        elif pod.status == BINDING:
            self.unsure[pod.uid] = pod
        self.changed()

    def finished(self, pod: Pod, by: int) -> None:
        """One pod more (``by`` 1) or less (-1) has succeeded."""
        self.succeeded += by
        if pod.leaf is not None:
            pod.leaf.done += by
            pod.leaf.settle()

    def settle(self) -> None:
        """Statuses changed for good: see ``PodSet.settle``."""
        if self.unsure:
            self.changed()
        if self.succeeded:
            for leaf in self.leaf_list:
                if leaf.settle():
                    self.changed()

    def _in_doubt(self) -> bool:
        """A decision that is being given up may leave it below its minimum: nothing more starts until that is settled."""
        given_up: dict[int, int] = {}
        for pod in self.unsure.values():
            if pod.status == BINDING:
                given_up[id(pod.leaf)] = given_up.get(id(pod.leaf), 0) + 1
        return any(leaf.active - given_up.get(id(leaf), 0) < leaf.minimum for leaf in self.leaf_list) if given_up else False

    def order(self) -> tuple[int, int, float, str]:
        """Order in its queue (policy spec 3.2): priority, below its minimum first, age, name."""
        found = self.key_cache
        if found is None:
            if len(self.leaf_list) == 1:
                active, minimum = self.leaf_list[0].active, self.leaf_list[0].minimum
                state = 0 if active < minimum else 2 if active > minimum else 1
            else:
                state = elasticity((leaf.active, leaf.minimum) for leaf in self.leaf_list)
            found = self.key_cache = (-self.priority, state, self.created, self.name)
        return found

    def chunk(self, real: bool, least_memory: float) -> tuple[list[Pod], Vector]:
        """(pods to be placed together next, what they ask for). ``least_memory``: MiB of the smallest GPU, 0 if unknown.

        Kept until a status changes.
        """
        found = self.chunk_cache
        if found is None:
            if self.unsure and self._in_doubt():
                pods = []
            elif len(self.leaf_list) == 1 and len(self.root.children) == 1:
                pods = next_pods(self.leaf_list[0], real) if self.root.minimum > 0 or self.root.satisfied else []
            else:
                pods = next_pods(self.root, real, self.passed)
            found = self.chunk_cache = (pods, total_request(pods, least_memory))
        return found


def total_request(pods: list[Pod], memory_per_gpu: float) -> Vector:
    """What pods ask for together. GPU-memory requests count by GPUs of ``memory_per_gpu`` MiB (0: they count nothing)."""
    if len(pods) == 1 and not pods[0].shape.memory:
        return pods[0].shape.vector
    cpu = memory = gpu = 0.0
    for pod in pods:
        shape = pod.shape
        cpu += shape.vector[0]
        memory += shape.vector[1]
        gpu += shape.vector[2]
        if shape.memory and memory_per_gpu:
            gpu += shape.devices * shape.memory / memory_per_gpu
    return cpu, memory, round(gpu, 9)


def set_equal(pods: list[Pod], status: int) -> None:
    """``set_status`` for pods of one leaf that have the same shape and status."""
    first = pods[0]
    job, leaf, vector, count = first.job, first.leaf, first.shape.vector, len(pods)
    step = STEPS[first.status][status]
    # Only whole numbers come to the same whether they are added one by one or at once.
    if count == 1 or step is None or job is None or leaf is None or any(x % 1 for x in (*vector, *job.held)):
        for pod in pods:
            set_status(pod, status)
        return
    for pod in pods:
        pod.status = status
    pending, gated, active, used, alive, counted = step
    leaf.pending += pending * count
    job.pending += pending * count
    leaf.gated += gated * count
    leaf.active += active * count
    job.active += active * count
    leaf.used += used * count
    leaf.alive += alive * count
    if counted:
        more, held = counted * count, job.held
        job.counted += more
        job.held = (held[0] + more * vector[0], held[1] + more * vector[1], held[2] + more * vector[2])
    job.chunk_cache = job.key_cache = job.signature_cache = job.requests_cache = None


def set_status(pod: Pod, status: int) -> None:
    """Give a pod a status and count it in its job."""
    step = STEPS[pod.status][status]
    pod.status = status
    job, leaf = pod.job, pod.leaf
    if step is None or job is None or leaf is None:
        return
    pending, gated, active, used, alive, counted = step
    if pending:
        leaf.pending += pending
        job.pending += pending
    if gated:
        leaf.gated += gated
    if active:
        leaf.active += active
        job.active += active
    if used:
        leaf.used += used
    if alive:
        leaf.alive += alive
    if counted:
        job.counted += counted
        held, vector = job.held, pod.shape.vector
        gpus = held[2] + counted * vector[2]
        gpus = round(gpus, 6) if gpus % EXACT else gpus
        job.held = (held[0] + counted * vector[0], held[1] + counted * vector[1], gpus)
    job.chunk_cache = job.key_cache = job.signature_cache = job.requests_cache = None
