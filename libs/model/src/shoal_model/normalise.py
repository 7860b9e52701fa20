"""Kubernetes objects -> records of the state plane. Pure; used by cluster-state, tools and tests.

A field that can't be understood becomes ``error`` of the record, in words for the object's owner; it never raises.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec

from shoal_contracts import state
from shoal_model import gpu, labels, objects, podgroup
from shoal_model import queue as queue_rules
from shoal_model.quantity import BadQuantity, duration, seconds
from shoal_model.resources import container_needs, host_ports, pod_requests, tolerant
from shoal_model.unheeded import unheeded

Record = state.StateMessage


def _time(text: str | None) -> float:
    if not text:
        return 0.0
    try:
        return seconds(text)
    except BadQuantity:
        return 0.0


def _owners(meta: objects.Meta) -> list[state.OwnerRef]:
    return [
        state.OwnerRef(api_version=o.api_version, type=o.kind, name=o.name, uid=o.uid, controller=bool(o.controller))
        for o in meta.owner_references or ()
    ]


def requirements(found: list[objects.Expression] | None) -> list[state.Requirement]:
    """Match expressions of a selector."""
    return [state.Requirement(key=e.key, operator=e.operator, values=e.values or []) for e in found or ()]


def selector(found: objects.LabelSelector | None) -> state.Selector | None:
    """A label selector; None selects nothing."""
    if found is None:
        return None
    equal = [state.Requirement(key=k, operator="In", values=[v]) for k, v in sorted((found.match_labels or {}).items())]
    return state.Selector(requirements=equal + requirements(found.match_expressions))


def _node_term(found: objects.NodeSelectorTerm, weight: int = 0) -> state.NodeTerm:
    return state.NodeTerm(
        expressions=requirements(found.match_expressions), fields=requirements(found.match_fields), weight=weight
    )


def node_terms(found: objects.NodeSelector | None) -> list[state.NodeTerm] | None:
    """The terms of a required node affinity, of which one has to be met; None: no node is excluded."""
    return [_node_term(t) for t in found.node_selector_terms or ()] if found else None


def _pod_term(found: objects.AffinityTerm, weight: int = 0) -> state.PodTerm:
    return state.PodTerm(
        topology_key=found.topology_key,
        selector=selector(found.label_selector),
        namespaces=found.namespaces or [],
        namespace_selector=selector(found.namespace_selector),
        match_label_keys=found.match_label_keys or [],
        mismatch_label_keys=found.mismatch_label_keys or [],
        weight=weight,
    )


def _affinity(found: objects.Affinity | None) -> state.Affinity | None:
    if found is None:
        return None
    node, near, far = found.node_affinity, found.pod_affinity, found.pod_anti_affinity
    return state.Affinity(
        node_required=node_terms(node.required) if node else None,
        node_preferred=[_node_term(p.preference, p.weight) for p in (node.preferred if node else None) or ()],
        pod_required=[_pod_term(t) for t in (near.required if near else None) or ()],
        pod_preferred=[_pod_term(p.pod_affinity_term, p.weight) for p in (near.preferred if near else None) or ()],
        anti_required=[_pod_term(t) for t in (far.required if far else None) or ()],
        anti_preferred=[_pod_term(p.pod_affinity_term, p.weight) for p in (far.preferred if far else None) or ()],
    )


def _spread(found: objects.SpreadConstraint) -> state.SpreadConstraint:
    return state.SpreadConstraint(
        topology_key=found.topology_key,
        max_skew=found.max_skew,
        when_unsatisfiable=found.when_unsatisfiable,
        selector=selector(found.label_selector),
        min_domains=found.min_domains or 1,
        node_affinity_policy=found.node_affinity_policy or "Honor",
        node_taints_policy=found.node_taints_policy or "Ignore",
        match_label_keys=found.match_label_keys or [],
    )


def _claims(found: objects.Pod) -> list[state.ClaimUse]:
    real = {c.name: c.resource_claim_name or "" for c in found.status.resource_claim_statuses or ()}
    return [
        state.ClaimUse(
            name=c.name,
            claim=c.resource_claim_name or real.get(c.name, ""),
            template=c.resource_claim_template_name or "",
        )
        for c in found.spec.resource_claims or ()
    ]


def pod(found: objects.Pod) -> state.PodRecord:
    """A pod's record."""
    meta, spec, status = found.metadata, found.spec, found.status
    tags, notes = meta.labels or {}, meta.annotations or {}
    error = ""
    requests: dict[str, float] = {}
    each: list[state.ContainerRequest] = []
    only = ""
    try:
        needs = container_needs(found)
        requests = pod_requests(found, needs)
        if len(needs) > 1 or spec.resources is not None:
            each = [state.ContainerRequest(name=n.name, requests=n.requests, init=n.init, sidecar=n.sidecar) for n in needs]
        elif spec.containers and any("/" in resource for resource in requests):
            only = spec.containers[0].name
    except BadQuantity as problem:
        error = f"spec.{problem}"
    shared, wrong = gpu.request(notes, spec)
    scheduled, message, ready = False, "", status.phase == "Running"
    for condition in status.conditions or ():
        if condition.type == "PodScheduled":
            scheduled = condition.status == "True"
            # Without a time it is the API server's, of a pod with gates: nobody has written why it waits.
            message = condition.message if condition.last_transition_time else ""
        elif condition.type == "Ready":
            ready = ready and condition.status == "True"
    return state.PodRecord(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        created=_time(meta.creation_timestamp),
        deleted=_time(meta.deletion_timestamp),
        scheduler_name=spec.scheduler_name,
        labels=tags,
        annotations={k: v for k, v in notes.items() if k in labels.POD_ANNOTATIONS or k.startswith(labels.MIG_PREFIX)},
        owners=_owners(meta),
        group=notes.get(labels.GROUP, ""),
        subgroup=tags.get(labels.SUBGROUP, ""),
        node=spec.node_name,
        nominated_node=status.nominated_node_name,
        phase=status.phase or "Pending",
        scheduled=scheduled,
        condition_message=message,
        ready=ready,
        gated=bool(spec.scheduling_gates),
        priority=spec.priority,
        priority_class=spec.priority_class_name,
        preemption_policy=spec.preemption_policy or "",
        requests=requests,
        container_requests=each,
        container=only,
        share=shared,
        gpu_groups=gpu.groups_of(tags),
        error=error or wrong,
        unheeded=unheeded(spec),
        node_selector=spec.node_selector or {},
        affinity=_affinity(spec.affinity),
        tolerations=[
            state.Toleration(key=t.key, operator=t.operator or "Equal", value=t.value, effect=t.effect)
            for t in spec.tolerations or ()
        ],
        spread=[_spread(c) for c in spec.topology_spread_constraints or ()],
        host_ports=host_ports(spec),
        claims=_claims(found),
        volumes=_volumes(found),
        qos_guaranteed=status.qos_class == "Guaranteed",
    )


def _volumes(found: objects.Pod) -> list[str]:
    names: list[str] = []
    for volume in found.spec.volumes or ():
        if volume.persistent_volume_claim is not None:
            names.append(volume.persistent_volume_claim.claim_name)
        elif volume.ephemeral is not None:
            # The API's own name for a claim that is made for the pod.
            names.append(f"{found.metadata.name}-{volume.name}")
    return names


def node(found: objects.Node) -> state.NodeRecord:
    """A node's record."""
    meta, conditions = found.metadata, {c.type: c.status for c in found.status.conditions or ()}
    return state.NodeRecord(
        name=meta.name,
        uid=meta.uid,
        # A node's heartbeat changes nothing else; its version would make every heartbeat news.
        created=_time(meta.creation_timestamp),
        labels=meta.labels or {},
        taints=[state.Taint(key=t.key, value=t.value, effect=t.effect) for t in found.spec.taints or ()],
        unschedulable=found.spec.unschedulable,
        ready=conditions.get("Ready", "True") == "True",
        conditions=conditions,
        allocatable=tolerant(found.status.allocatable),
        capacity=tolerant(found.status.capacity),
    )


def _queue_resource(found: objects.QueueResource | None) -> state.QueueResource | None:
    if found is None:
        return None
    return state.QueueResource(quota=found.quota, limit=found.limit, weight=found.over_quota_weight)


def _duration(text: str | None, where: str, problems: list[str]) -> float | None:
    if text is None:
        return None
    try:
        return duration(text)
    except BadQuantity as error:
        problems.append(f"{where}: {error}")
        return None


def queue(found: objects.Queue) -> state.QueueRecord:
    """A queue's record."""
    meta, spec, problems = found.metadata, found.spec, []
    resources = spec.resources or objects.QueueResources()
    if spec.resources is None:
        problems.append("spec.resources: missing: resources must be specified; give gpu, cpu and memory a quota and a limit")
    for resource in ("gpu", "cpu", "memory"):
        problems += queue_rules.amount_problems(getattr(resources, resource), f"spec.resources.{resource}")
    return state.QueueRecord(
        name=meta.name,
        uid=meta.uid,
        created=_time(meta.creation_timestamp),
        labels=meta.labels or {},
        display_name=spec.display_name,
        parent=spec.parent_queue,
        priority=spec.priority,
        gpu=_queue_resource(resources.gpu),
        cpu=_queue_resource(resources.cpu),
        memory=_queue_resource(resources.memory),
        preempt_min_runtime=_duration(spec.preempt_min_runtime, "spec.preemptMinRuntime", problems),
        reclaim_min_runtime=_duration(spec.reclaim_min_runtime, "spec.reclaimMinRuntime", problems),
        ignore_budgets=(meta.annotations or {}).get(labels.IGNORE_BUDGETS) == "true",
        error="; ".join(problems),
    )


def _constraint(found: objects.TopologyConstraint | None) -> state.TopologyConstraint | None:
    if found is None:
        return None
    return state.TopologyConstraint(
        topology=found.topology, required=found.required_topology_level, preferred=found.preferred_topology_level
    )


def group(found: objects.PodGroup) -> state.GroupRecord:
    """A pod group's record."""
    meta, spec, status, problems = found.metadata, found.spec, found.status, []
    notes = meta.annotations or {}
    used = status.resources_status or objects.ResourcesStatus()
    record = state.GroupRecord(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        created=_time(meta.creation_timestamp),
        deleted=_time(meta.deletion_timestamp),
        labels=meta.labels or {},
        annotations=notes,
        owners=_owners(meta),
        queue=spec.queue,
        priority_class=spec.priority_class_name,
        preemptibility=spec.preemptibility,
        min_member=spec.min_member,
        min_subgroup=spec.min_sub_group,
        subgroups=[
            state.SubGroup(
                name=s.name,
                parent=s.parent or "",
                min_member=s.min_member,
                min_subgroup=s.min_sub_group,
                topology=_constraint(s.topology_constraint),
            )
            for s in spec.sub_groups or ()
        ],
        topology=_constraint(spec.topology_constraint),
        mark_unschedulable=spec.mark_unschedulable,
        scheduling_backoff=spec.scheduling_backoff,
        preemption_delay=_duration(spec.preemption_delay, "spec.preemptionDelay", problems),
        staleness_grace=_duration(spec.staleness_grace_period, "spec.stalenessGracePeriod", problems),
        last_start=_time(notes.get(labels.LAST_START)),
        last_eviction=_time(notes.get(labels.LAST_EVICTION)),
        stale_since=_time(notes.get(labels.STALE_SINCE)),
        conditions=[
            state.SchedulingCondition(node_pool=c.node_pool, reason=c.reason, message=c.message, transition=c.transition_id)
            for c in status.scheduling_conditions or ()
        ],
        requested=tolerant(used.requested),
        allocated=tolerant(used.allocated),
        allocated_non_preemptible=tolerant(used.allocated_non_preemptible),
    )
    problems += podgroup.problems(record)
    return msgspec.structs.replace(record, error="; ".join(problems)) if problems else record


def priority_class(found: objects.PriorityClass) -> state.PriorityClassRecord:
    """A PriorityClass's record."""
    return state.PriorityClassRecord(
        name=found.metadata.name,
        value=found.value,
        global_default=found.global_default,
        preemption_policy=found.preemption_policy or "",
    )


def namespace(found: objects.Namespace) -> state.NamespaceRecord:
    """A namespace's record; the label with its name is the API server's."""
    meta = found.metadata
    return state.NamespaceRecord(name=meta.name, labels={labels.NAMESPACE_NAME: meta.name} | (meta.labels or {}))


def topology(found: objects.Topology) -> state.TopologyRecord:
    """A topology's record."""
    return state.TopologyRecord(
        name=found.metadata.name,
        levels=[state.TopologyLevel(label=x.node_label, alias=x.alias) for x in found.spec.levels],
    )


def disruption_budget(found: objects.PodDisruptionBudget) -> state.PdbRecord:
    """A PodDisruptionBudget's record. A selector that the API would refuse matches nothing, as in the API."""
    meta, spec, status = found.metadata, found.spec, found.status or objects.BudgetStatus()
    return state.PdbRecord(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        selector=selector(spec.selector),
        min_available="" if spec.min_available is None else str(spec.min_available),
        max_unavailable="" if spec.max_unavailable is None else str(spec.max_unavailable),
        unhealthy_policy=spec.unhealthy_pod_eviction_policy or "",
        observed=found.status is not None and status.observed_generation >= meta.generation,
        disruptions_allowed=status.disruptions_allowed,
        current_healthy=status.current_healthy,
        desired_healthy=status.desired_healthy,
        expected_pods=status.expected_pods,
        disrupted=sorted(status.disrupted_pods or ()),
    )


TYPES: dict[str, tuple[type, Callable[..., Record]]] = {
    "Pod": (objects.Pod, pod),
    "Node": (objects.Node, node),
    "Queue": (objects.Queue, queue),
    "PodGroup": (objects.PodGroup, group),
    "PriorityClass": (objects.PriorityClass, priority_class),
    "Topology": (objects.Topology, topology),
    "PodDisruptionBudget": (objects.PodDisruptionBudget, disruption_budget),
    "Namespace": (objects.Namespace, namespace),
}
"""Kubernetes kind -> (its type, its normaliser)."""


def from_dict(raw: dict[str, object]) -> Record:
    """The record of an untyped object, by its ``kind``. Raises KeyError for a kind that has none."""
    kind, normalise = TYPES[str(raw["kind"])]
    try:
        found = msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError:
        raw = copy.deepcopy(raw)
        objects.drop_nulls(raw)
        found = msgspec.convert(raw, kind, strict=False)
    return normalise(found)
