"""The state plane: the cluster as records, with names and base units and no local row numbers.

Units: CPU in millicores, memory and storage in bytes, every other resource in its own count; times are seconds since
the epoch (float64, UTC). A record is the last word on its object; a deletion is a marker (an empty message with the
header ``Shoal-Deleted``), see ``shoal_bus.follow``.
"""

from __future__ import annotations

import msgspec

from shoal_contracts.base import Message, Part

Resources = dict[str, float]
"""Resource name -> amount in base units. ``cpu`` in millicores, ``memory`` in bytes, the rest in counts."""


class Requirement(Part, frozen=True, kw_only=True):
    """One label requirement. ``operator``: In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: list[str] = []


class Selector(Part, frozen=True, kw_only=True):
    """A label selector; all requirements hold. ``matchLabels`` is written as In requirements."""

    requirements: list[Requirement] = []


class NodeTerm(Part, frozen=True, kw_only=True):
    """A node selector term; ``fields`` select on metadata.name. An empty term matches no node."""

    expressions: list[Requirement] = []
    fields: list[Requirement] = []
    weight: int = 0
    """Used by preferred terms only."""


class PodTerm(Part, frozen=True, kw_only=True):
    """A pod affinity or anti-affinity term. ``selector`` None matches no pod."""

    topology_key: str
    selector: Selector | None = None
    namespaces: list[str] = []
    namespace_selector: Selector | None = None
    """None: not given (then the pod's own namespace if ``namespaces`` is empty); an empty selector: all namespaces."""
    match_label_keys: list[str] = []
    mismatch_label_keys: list[str] = []
    weight: int = 0


class Affinity(Part, frozen=True, kw_only=True):
    """Node affinity, pod affinity and pod anti-affinity of a pod. ``node_required`` None means no requirement."""

    node_required: list[NodeTerm] | None = None
    node_preferred: list[NodeTerm] = []
    pod_required: list[PodTerm] = []
    pod_preferred: list[PodTerm] = []
    anti_required: list[PodTerm] = []
    anti_preferred: list[PodTerm] = []


class SpreadConstraint(Part, frozen=True, kw_only=True):
    """A topology spread constraint, with the API's defaults. ``selector`` None matches no pod."""

    topology_key: str
    max_skew: int = 1
    when_unsatisfiable: str = "DoNotSchedule"
    """Or ScheduleAnyway."""
    selector: Selector | None = None
    min_domains: int = 1
    node_affinity_policy: str = "Honor"
    node_taints_policy: str = "Ignore"
    match_label_keys: list[str] = []


class Toleration(Part, frozen=True, kw_only=True):
    """As in the pod API; ``operator`` Exists or Equal, an empty ``effect`` tolerates all effects."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Taint(Part, frozen=True, kw_only=True):
    """As in the node API."""

    key: str
    value: str = ""
    effect: str = ""


class HostPort(Part, frozen=True, kw_only=True):
    """A port of the node that the pod asks for."""

    port: int
    protocol: str = "TCP"
    ip: str = ""


class ClaimUse(Part, frozen=True, kw_only=True):
    """One entry of the pod's resourceClaims. ``claim`` is the real name, empty while a template is not resolved."""

    name: str
    claim: str = ""
    template: str = ""


class GpuShare(Part, frozen=True, kw_only=True):
    """A request for parts of GPUs: a fraction or MiB of each of ``devices`` devices; exactly one of the two is set."""

    fraction: float = 0.0
    memory_mib: int = 0
    devices: int = 1


class OwnerRef(Part, frozen=True, kw_only=True):
    """The owner of an object, as in its ownerReferences."""

    api_version: str
    type: str
    """The owner's Kubernetes kind (``kind`` is the tag of messages)."""
    name: str
    uid: str
    controller: bool = False


class ContainerRequest(Part, frozen=True, kw_only=True):
    """Requests of one container, for rules that look at containers (NUMA, extended claims)."""

    name: str
    requests: Resources = {}
    init: bool = False
    sidecar: bool = False


class PodRecord(Message, frozen=True, kw_only=True, tag="pod.v1"):
    """A pod, as far as scheduling, grouping and status look at it."""

    namespace: str
    name: str
    uid: str
    resource_version: str = ""
    created: float = 0.0
    deleted: float = 0.0
    """deletionTimestamp; 0 while the pod is not being deleted."""
    scheduler_name: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    """Only the annotations that ``shoal_model.labels`` names."""
    owners: list[OwnerRef] = []
    group: str = ""
    """Name of the PodGroup (annotation ``pod-group-name``), in the pod's namespace."""
    subgroup: str = ""
    node: str = ""
    nominated_node: str = ""
    phase: str = "Pending"
    scheduled: bool = False
    """Condition PodScheduled is True."""
    condition_message: str = ""
    """Message of the condition PodScheduled; empty where the condition has no time of its transition."""
    ready: bool = False
    """It runs, and its condition Ready is not False or Unknown."""
    gated: bool = False
    """Has scheduling gates."""
    priority: int | None = None
    priority_class: str = ""
    preemption_policy: str = ""
    """Never: it evicts nobody. Empty: as its priority class says."""
    requests: Resources = {}
    """What the scheduler counts: max of init and running containers, sidecars, overhead. Without ``pods``."""
    container_requests: list[ContainerRequest] = []
    """Of each container, if there are several."""
    container: str = ""
    """Name of the only container, if it may ask for extended resources."""
    share: GpuShare | None = None
    gpu_groups: list[str] = []
    """Groups of shared GPUs that the pod's labels name."""
    error: str = ""
    """Why the pod can't be scheduled as it is written (a malformed annotation, say); empty if it is sound."""
    unheeded: list[str] = []
    """Fields of its spec that say where it may run and are not honoured, a sentence each."""
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: list[Toleration] = []
    spread: list[SpreadConstraint] = []
    """Topology spread constraints."""
    host_ports: list[HostPort] = []
    claims: list[ClaimUse] = []
    volumes: list[str] = []
    """Names of the PersistentVolumeClaims that it mounts."""
    config_maps: list[str] = []
    """Required ConfigMaps it mounts or reads."""
    qos_guaranteed: bool = False


class NodeRecord(Message, frozen=True, kw_only=True, tag="node.v1"):
    """A node."""

    name: str
    uid: str = ""
    resource_version: str = ""
    created: float = 0.0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    taints: list[Taint] = []
    unschedulable: bool = False
    ready: bool = True
    conditions: dict[str, str] = {}
    """Condition type -> status."""
    allocatable: Resources = {}
    capacity: Resources = {}


class QueueResource(Part, frozen=True, kw_only=True):
    """Quota, limit and over-quota weight of one resource in the API's units: GPUs in devices, CPU in millicores,
    memory in 10^6 bytes; -1 is unlimited. ``weight`` None: not given."""

    quota: float = 0.0
    limit: float = 0.0
    weight: float | None = None


class QueueRecord(Message, frozen=True, kw_only=True, tag="queue.v1"):
    """A queue (scheduling.run.ai/v2)."""

    name: str
    uid: str = ""
    resource_version: str = ""
    created: float = 0.0
    labels: dict[str, str] = {}
    display_name: str = ""
    parent: str = ""
    priority: int | None = None
    gpu: QueueResource | None = None
    cpu: QueueResource | None = None
    memory: QueueResource | None = None
    preempt_min_runtime: float | None = None
    """Seconds; None: inherited."""
    reclaim_min_runtime: float | None = None
    ignore_budgets: bool = False
    """Its pods are evicted even where a PodDisruptionBudget forbids it (annotation ``shoal.dev/ignore-budgets``)."""
    error: str = ""


class TopologyConstraint(Part, frozen=True, kw_only=True):
    """Which topology, and which level is required or preferred (empty: none)."""

    topology: str = ""
    required: str = ""
    preferred: str = ""


class SubGroup(Part, frozen=True, kw_only=True):
    """A subgroup of a pod group; ``min_member`` on leaves, ``min_subgroup`` on inner ones."""

    name: str
    parent: str = ""
    min_member: int | None = None
    min_subgroup: int | None = None
    topology: TopologyConstraint | None = None


class SchedulingCondition(Part, frozen=True, kw_only=True):
    """What stands in the group's status.schedulingConditions, as far as writers compare it."""

    node_pool: str = ""
    reason: str = ""
    message: str = ""
    transition: str = ""


class GroupRecord(Message, frozen=True, kw_only=True, tag="group.v1"):
    """A pod group (scheduling.run.ai/v2alpha2)."""

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""
    created: float = 0.0
    deleted: float = 0.0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owners: list[OwnerRef] = []
    queue: str = ""
    priority_class: str = ""
    preemptibility: str = ""
    min_member: int | None = None
    min_subgroup: int | None = None
    subgroups: list[SubGroup] = []
    topology: TopologyConstraint | None = None
    mark_unschedulable: bool | None = None
    scheduling_backoff: int | None = None
    preemption_delay: float | None = None
    staleness_grace: float | None = None
    last_start: float = 0.0
    last_eviction: float = 0.0
    stale_since: float = 0.0
    """The three annotations that the scheduler writes; 0: not set."""
    conditions: list[SchedulingCondition] = []
    requested: Resources = {}
    allocated: Resources = {}
    allocated_non_preemptible: Resources = {}
    """From status.resourcesStatus, in base units; written by the queue-controller."""
    error: str = ""


class PriorityClassRecord(Message, frozen=True, kw_only=True, tag="priorityclass.v1"):
    """A PriorityClass."""

    name: str
    value: int = 0
    global_default: bool = False
    preemption_policy: str = ""
    """Never: its pods evict nobody."""


class PdbRecord(Message, frozen=True, kw_only=True, tag="pdb.v1"):
    """A PodDisruptionBudget (policy/v1)."""

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""
    selector: Selector | None = None
    """None matches no pod, an empty one all pods of the namespace."""
    min_available: str = ""
    max_unavailable: str = ""
    """As written: a count or a percentage; empty: not given."""
    unhealthy_policy: str = ""
    """unhealthyPodEvictionPolicy; empty: IfHealthyBudget."""
    observed: bool = False
    """The status below is that of the present spec; the API evicts no pod of a budget until it is."""
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    disrupted: list[str] = []
    """Names of pods whose eviction the API has granted and the budget's controller has not seen yet: ``disruptions_allowed``
    is without them."""


class NamespaceRecord(Message, frozen=True, kw_only=True, tag="namespace.v1"):
    """A namespace, for terms that select pods by the labels of their namespace."""

    name: str
    labels: dict[str, str] = {}


class AdmissionRecord(Message, frozen=True, kw_only=True, tag="admission.v1"):
    """A webhook configuration or admission policy that is asked about bindings of pods: it may refuse some of a gang."""

    type: str
    """Its kind in the API."""
    name: str


class TopologyLevel(Part, frozen=True, kw_only=True):
    """A level: the node label that names its domains, and another name for the level."""

    label: str
    alias: str = ""


class TopologyRecord(Message, frozen=True, kw_only=True, tag="topology.v1"):
    """A topology (kai.scheduler/v1alpha1): levels from widest to narrowest."""

    name: str
    levels: list[TopologyLevel] = []


class ObjectRecord(Message, frozen=True, kw_only=True, tag="object.v1"):
    """An object that only some rules read, passed on whole: claims, slices, device classes, volumes, NUMA zones."""

    type: str
    """Its Kubernetes kind."""
    namespace: str = ""
    name: str
    uid: str = ""
    resource_version: str = ""
    body: msgspec.Raw
    """The object's JSON without managedFields."""


class GpuGroupRecord(Message, frozen=True, kw_only=True, tag="gpu.v1"):
    """A shared GPU of a node, as its owner among the replicas of gpu-reservation has it in its ledger."""

    node: str
    group: str
    device: str = ""
    """UUID; empty until it is known."""
    reservation: str = ""
    """Name of the pod that holds it."""
    used: float = 0.0
    """Part of the device that its users take together."""
    users: list[str] = []
    """Pods that use it, as ``namespace/name``."""


class SyncMark(Message, frozen=True, kw_only=True, tag="sync.v1"):
    """How far each kind has been read: kind -> resourceVersion up to which the state plane is complete."""

    versions: dict[str, str] = {}
    at: float = 0.0


StateMessage = (
    PodRecord
    | NodeRecord
    | QueueRecord
    | GroupRecord
    | PriorityClassRecord
    | NamespaceRecord
    | AdmissionRecord
    | TopologyRecord
    | PdbRecord
    | ObjectRecord
    | GpuGroupRecord
    | SyncMark
)
