"""What each service may do on the Kubernetes API: one ServiceAccount and one role each, nothing that it does not use."""

from __future__ import annotations

from typing import Any

from shoal_model.labels import NAMESPACE, RESERVATION_APP, RESERVATION_NAMESPACE

READ = ["get", "list", "watch"]
LEADER = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "patch"]}]
EVENTS = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}]


OWNERS: dict[str, list[str]] = {
    "apps": ["deployments", "replicasets", "statefulsets"],
    "batch": ["jobs", "cronjobs"],
    "kubeflow.org": [
        "jaxjobs", "mpijobs", "notebooks", "paddlejobs", "pytorchjobs", "scheduledworkflows", "tfjobs", "xgboostjobs",
    ],
    "trainer.kubeflow.org": ["trainjobs"],
    "jobset.x-k8s.io": ["jobsets"],
    "leaderworkerset.x-k8s.io": ["leaderworkersets"],
    "ray.io": ["rayclusters", "rayjobs", "rayservices"],
    "serving.knative.dev": ["configurations", "revisions", "services"],
    "grove.io": ["podcliques", "podcliquescalinggroups", "podcliquesets", "podgangsets"],
    "argoproj.io": ["workflows"],
    "tekton.dev": ["pipelineruns", "taskruns"],
    "kubevirt.io": ["virtualmachines", "virtualmachineinstances"],
    "machinelearning.seldon.io": ["seldondeployments"],
    "workspace.devfile.io": ["devworkspaces"],
    "sparkoperator.k8s.io": ["sparkapplications"],
    "egx.nvidia.io": ["spotrequests"],
    "amlarc.azureml.com": ["amljobs"],
    "run.ai": [
        "distributedinferenceworkloads", "distributedworkloads", "inferenceworkloads", "interactiveworkloads", "runaijobs",
        "trainingworkloads",
    ],
}  # fmt: skip
"""API group -> resources that own pods, whose metadata pod-grouper reads: queue, priority and annotations of a workload."""


def _rule(group: str, resources: list[str], verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return rule | ({"resourceNames": names} if names else {})


RULES: dict[str, list[dict[str, Any]]] = {
    "cluster-state": [
        _rule("", ["pods", "nodes", "namespaces"], ["list", "watch"]),
        _rule("scheduling.run.ai", ["queues", "podgroups"], ["list", "watch"]),
        _rule("kai.scheduler", ["topologies"], ["list", "watch"]),
        _rule("scheduling.k8s.io", ["priorityclasses"], ["list", "watch"]),
        _rule("policy", ["poddisruptionbudgets"], ["list", "watch"]),
        _rule("resource.k8s.io", ["resourceclaims", "resourceslices", "deviceclasses"], ["list", "watch"]),
        _rule("topology.node.k8s.io", ["noderesourcetopologies"], ["list", "watch"]),
        # What may refuse the binding of one member of a gang.
        _rule(
            "admissionregistration.k8s.io",
            [
                "validatingwebhookconfigurations", "mutatingwebhookconfigurations", "validatingadmissionpolicies",
                "mutatingadmissionpolicies",
            ],
            ["list", "watch"],
        ),
        _rule("", ["persistentvolumeclaims", "persistentvolumes"], ["list", "watch"]),
        _rule("storage.k8s.io", ["storageclasses", "csidrivers", "csinodes", "csistoragecapacities"], ["list", "watch"]),
        *EVENTS,
    ],
    "pod-grouper": [
        _rule("", ["pods"], ["get", "patch"]),
        _rule("scheduling.run.ai", ["podgroups"], ["get", "create", "patch"]),
        *(_rule(group, resources, ["get"]) for group, resources in OWNERS.items()),
        *EVENTS,
    ],
    "queue-controller": [
        _rule("scheduling.run.ai", ["queues/status", "podgroups/status"], ["patch"]),
        *EVENTS,
    ],
    "scheduler": [
        _rule("", ["pods"], ["get", "patch"]),
        _rule("", ["pods/status"], ["patch"]),
        _rule("scheduling.run.ai", ["podgroups"], ["patch"]),
        _rule("scheduling.run.ai", ["podgroups/status"], ["patch"]),
        *EVENTS,
    ],
    "binder": [
        _rule("", ["pods"], ["get", "patch"]),
        _rule("", ["pods/binding", "pods/eviction"], ["create"]),
        # In spite of a budget, where the pod's queue says so.
        _rule("", ["pods"], ["delete"]),
        _rule("", ["configmaps"], ["get", "create", "update"]),
        _rule("", ["persistentvolumeclaims", "persistentvolumes"], ["get", "patch"]),
        *EVENTS,
    ],
    "gpu-reservation": [
        _rule("", ["pods"], ["list"]),
        _rule("", ["pods/eviction"], ["create"]),
        *EVENTS,
    ],
    "shard-controller": [
        _rule("kai.scheduler", ["schedulingshards", "configs"], ["list", "watch"]),
        _rule("kai.scheduler", ["schedulingshards/status", "configs/status"], ["patch"]),
    ],
    "admission": [
        _rule(
            "admissionregistration.k8s.io", ["mutatingwebhookconfigurations"], ["get", "patch"], ["mutating-kai-admission"]
        ),
        _rule(
            "admissionregistration.k8s.io", ["validatingwebhookconfigurations"], ["get", "patch"],
            ["validating-kai-admission", "kai-queue-validation-v2", "kai-podgroup-validation-v2alpha2"],
        ),
    ],
}  # fmt: skip
"""Service -> rules of its ClusterRole."""

ADMISSION_SECRET = "shoal-admission-tls"
_KEEPING = [_rule("", ["secrets"], ["create"]), _rule("", ["secrets"], ["get", "update"], [ADMISSION_SECRET])]

_OWNING = [_rule("coordination.k8s.io", ["leases"], ["get", "list", "create", "patch", "delete"])]
_SHARDING = [
    *LEADER,
    _rule("apps", ["deployments"], ["list", "watch", "create", "patch"]),
    _rule("", ["configmaps"], ["create", "patch"]),
]
_RESERVING = [_rule("", ["pods"], ["get", "create", "patch", "delete"])]
IN_NAMESPACES: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {
    "cluster-state": [(NAMESPACE, LEADER)],
    "queue-controller": [(NAMESPACE, LEADER)],
    "scheduler": [(NAMESPACE, LEADER)],
    "binder": [(NAMESPACE, [_rule("coordination.k8s.io", ["leases"], ["get"])])],
    "admission": [(NAMESPACE, _KEEPING)],
    "shard-controller": [(NAMESPACE, _SHARDING)],
    "gpu-reservation": [(NAMESPACE, _OWNING), (RESERVATION_NAMESPACE, _RESERVING)],
}
"""Service -> rules of its Roles, by namespace."""
RESERVATION_RULES = [_rule("", ["pods"], ["get", "patch"])]
"""What reservation pods may do in their own namespace: annotate themselves."""
_API = "rbac.authorization.k8s.io"


def _account(name: str, namespace: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def _role(name: str, namespace: str, rules: list[dict[str, Any]], home: str = NAMESPACE) -> list[dict[str, Any]]:
    """A role and its binding to the account of that name in ``home``; an empty ``namespace``: in all of them."""
    kind, metadata = ("Role", {"name": name, "namespace": namespace}) if namespace else ("ClusterRole", {"name": name})
    return [
        {"apiVersion": f"{_API}/v1", "kind": kind, "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_API}/v1", "kind": f"{kind}Binding", "metadata": metadata,
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": home}],
            "roleRef": {"apiGroup": _API, "kind": kind, "name": name},
        },
    ]  # fmt: skip


def objects() -> list[dict[str, Any]]:
    """Namespaces, ServiceAccounts, roles and bindings, in the order in which they are to be made."""
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (NAMESPACE, RESERVATION_NAMESPACE)
    ]
    for service, rules in RULES.items():
        name = f"shoal-{service}"
        found.append(_account(name, NAMESPACE))
        found += _role(name, "", rules)
        for namespace, own in IN_NAMESPACES.get(service, ()):
            found += _role(name, namespace, own)
    found.append(_account(RESERVATION_APP, RESERVATION_NAMESPACE))
    found += _role(RESERVATION_APP, RESERVATION_NAMESPACE, RESERVATION_RULES, RESERVATION_NAMESPACE)
    return found
