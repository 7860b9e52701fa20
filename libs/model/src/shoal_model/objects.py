"""Kubernetes objects as they come from the API, with only the fields that are read.

Unknown fields are skipped, missing ones have the API's defaults. Quantities stay text: ``normalise`` reads them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Obj(msgspec.Struct, rename="camel", gc=False):
    """A piece of an API object."""


class OwnerReference(Obj):
    """metadata.ownerReferences[]."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Meta(Obj):
    """metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


Quantities = dict[str, str | int | float]


class Resources(Obj):
    """containers[].resources."""

    requests: Quantities | None = None
    limits: Quantities | None = None


class Port(Obj):
    """containers[].ports[]."""

    host_port: int = 0
    container_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class Container(Obj):
    """containers[] and initContainers[]."""

    name: str = ""
    resources: Resources = msgspec.field(default_factory=Resources)
    ports: list[Port] | None = None
    restart_policy: str | None = None


class Expression(Obj):
    """A match expression of a selector."""

    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class NodeSelectorTerm(Obj):
    """A node selector term."""

    match_expressions: list[Expression] | None = None
    match_fields: list[Expression] | None = None


class NodeSelector(Obj):
    """requiredDuringSchedulingIgnoredDuringExecution of a node affinity."""

    node_selector_terms: list[NodeSelectorTerm] | None = None


class PreferredNode(Obj):
    """A preferred node selector term."""

    weight: int = 0
    preference: NodeSelectorTerm = msgspec.field(default_factory=NodeSelectorTerm)


class LabelSelector(Obj):
    """A label selector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class AffinityTerm(Obj):
    """A pod affinity term."""

    topology_key: str = ""
    label_selector: LabelSelector | None = None
    namespaces: list[str] | None = None
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] | None = None
    mismatch_label_keys: list[str] | None = None


class WeightedTerm(Obj):
    """A preferred pod affinity term."""

    weight: int = 0
    pod_affinity_term: AffinityTerm = msgspec.field(default_factory=AffinityTerm)


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class NodeAffinity(Obj):
    """affinity.nodeAffinity."""

    required: NodeSelector | None = msgspec.field(default=None, name=_REQUIRED)
    preferred: list[PreferredNode] | None = msgspec.field(default=None, name=_PREFERRED)


class PodAffinity(Obj):
    """affinity.podAffinity and podAntiAffinity."""

    required: list[AffinityTerm] | None = msgspec.field(default=None, name=_REQUIRED)
    preferred: list[WeightedTerm] | None = msgspec.field(default=None, name=_PREFERRED)


class Affinity(Obj):
    """spec.affinity."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class SpreadConstraint(Obj):
    """spec.topologySpreadConstraints[]."""

    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: list[str] | None = None


class Toleration(Obj):
    """spec.tolerations[]."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Gate(Obj):
    """spec.schedulingGates[]."""

    name: str = ""


class Named(Obj):
    """A reference by name."""

    name: str = ""


class VolumeClaim(Obj):
    """volumes[].persistentVolumeClaim."""

    claim_name: str = ""


class Volume(Obj):
    """spec.volumes[]."""

    name: str = ""
    persistent_volume_claim: VolumeClaim | None = None
    ephemeral: dict[str, Any] | None = None
    gce_persistent_disk: Any = None
    aws_elastic_block_store: Any = None
    rbd: Any = None
    iscsi: Any = None


class ResourceClaim(Obj):
    """spec.resourceClaims[] and, with the real name, status.resourceClaimStatuses[]."""

    name: str = ""
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class PodSpec(Obj):
    """A pod's spec."""

    scheduler_name: str = ""
    node_name: str = ""
    priority: int | None = None
    priority_class_name: str = ""
    preemption_policy: str | None = None
    containers: list[Container] = []
    init_containers: list[Container] | None = None
    resources: Resources | None = None
    overhead: Quantities | None = None
    host_network: bool = False
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: list[Toleration] | None = None
    topology_spread_constraints: list[SpreadConstraint] | None = None
    scheduling_group: Any = None
    workload_ref: Any = None
    scheduling_gates: list[Gate] | None = None
    volumes: list[Volume] | None = None
    resource_claims: list[ResourceClaim] | None = None


class Condition(Obj):
    """status.conditions[] of pods and nodes."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class ContainerStatus(Obj):
    """status.containerStatuses[] and status.initContainerStatuses[]."""

    name: str = ""
    allocated_resources: Quantities | None = None
    resources: Resources | None = None


class PodStatus(Obj):
    """A pod's status."""

    phase: str = "Pending"
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    allocated_resources: Quantities | None = None
    resources: Resources | None = None
    nominated_node_name: str = ""
    qos_class: str = ""
    resource_claim_statuses: list[ResourceClaim] | None = None


class Pod(Obj):
    """A pod."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class Taint(Obj):
    """spec.taints[] of a node."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Obj):
    """A node's spec."""

    taints: list[Taint] | None = None
    unschedulable: bool = False


class NodeStatus(Obj):
    """A node's status."""

    allocatable: Quantities | None = None
    capacity: Quantities | None = None
    conditions: list[Condition] | None = None


class Node(Obj):
    """A node."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class QueueResource(Obj):
    """spec.resources.<r> of a queue."""

    quota: float = 0.0
    limit: float = 0.0
    over_quota_weight: float | None = None


class QueueResources(Obj):
    """spec.resources of a queue."""

    gpu: QueueResource | None = None
    cpu: QueueResource | None = None
    memory: QueueResource | None = None


class QueueSpec(Obj):
    """A queue's spec."""

    display_name: str = ""
    parent_queue: str = ""
    resources: QueueResources | None = None
    priority: int | None = None
    preempt_min_runtime: str | None = None
    reclaim_min_runtime: str | None = None


class Queue(Obj):
    """scheduling.run.ai/v2 Queue."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: QueueSpec = msgspec.field(default_factory=QueueSpec)


class TopologyConstraint(Obj):
    """A topology constraint."""

    topology: str = ""
    required_topology_level: str = ""
    preferred_topology_level: str = ""


class SubGroup(Obj):
    """spec.subGroups[] of a pod group."""

    name: str = ""
    parent: str | None = None
    min_member: int | None = None
    min_sub_group: int | None = None
    topology_constraint: TopologyConstraint | None = None


class PodGroupSpec(Obj):
    """A pod group's spec."""

    queue: str = ""
    priority_class_name: str = ""
    preemptibility: str = ""
    min_member: int | None = None
    min_sub_group: int | None = None
    sub_groups: list[SubGroup] | None = None
    topology_constraint: TopologyConstraint | None = None
    mark_unschedulable: bool | None = None
    scheduling_backoff: int | None = None
    preemption_delay: str | None = None
    staleness_grace_period: str | None = None


class SchedulingCondition(Obj):
    """status.schedulingConditions[]."""

    node_pool: str = ""
    reason: str = ""
    message: str = ""
    transition_id: str = msgspec.field(default="", name="transitionID")


class ResourcesStatus(Obj):
    """status.resourcesStatus."""

    requested: Quantities | None = None
    allocated: Quantities | None = None
    allocated_non_preemptible: Quantities | None = None


class PodGroupStatus(Obj):
    """A pod group's status."""

    scheduling_conditions: list[SchedulingCondition] | None = None
    resources_status: ResourcesStatus | None = None


class PodGroup(Obj):
    """scheduling.run.ai/v2alpha2 PodGroup."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodGroupSpec = msgspec.field(default_factory=PodGroupSpec)
    status: PodGroupStatus = msgspec.field(default_factory=PodGroupStatus)


class PriorityClass(Obj):
    """scheduling.k8s.io/v1 PriorityClass."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    value: int = 0
    global_default: bool = False
    preemption_policy: str | None = None


class BudgetSpec(Obj):
    """A PodDisruptionBudget's spec."""

    selector: LabelSelector | None = None
    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    unhealthy_pod_eviction_policy: str | None = None


class BudgetStatus(Obj):
    """A PodDisruptionBudget's status."""

    observed_generation: int = 0
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    disrupted_pods: dict[str, Any] | None = None


class PodDisruptionBudget(Obj):
    """policy/v1 PodDisruptionBudget."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: BudgetSpec = msgspec.field(default_factory=BudgetSpec)
    status: BudgetStatus | None = None


class Namespace(Obj):
    """A namespace."""

    metadata: Meta = msgspec.field(default_factory=Meta)


class Level(Obj):
    """spec.levels[] of a topology."""

    node_label: str = ""
    alias: str = ""


class TopologySpec(Obj):
    """A topology's spec."""

    levels: list[Level] = []


class Topology(Obj):
    """kai.scheduler/v1alpha1 Topology."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: TopologySpec = msgspec.field(default_factory=TopologySpec)


class Opaque(Obj):
    """Any object, of which only the metadata is looked at."""

    metadata: Meta = msgspec.field(default_factory=Meta)


def metadata_of(raw: dict[str, Any]) -> Meta:
    """The typed metadata of an untyped object. Raises msgspec.ValidationError."""
    return msgspec.convert(raw.get("metadata") or {}, Meta)


def drop_nulls(raw: Any) -> None:
    """Take every null out of an untyped object, in place: to the API a null is a field that is not there."""
    seen: set[int] = set()
    todo = [raw]
    while todo:
        at = todo.pop()
        # Aliases of YAML let one part stand in many places, or in itself.
        if not isinstance(at, dict | list) or id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, dict):
            for key in [k for k, value in at.items() if value is None]:
                del at[key]
            todo.extend(at.values())
        else:
            at[:] = [value for value in at if value is not None]
            todo.extend(at)
