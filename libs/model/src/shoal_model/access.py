"""What each service may do on the Kubernetes API: one ServiceAccount and one role each, nothing that it does not use."""

from __future__ import annotations

from typing import Any

from shoal_model.labels import NAMESPACE

READ = ["get", "list", "watch"]
LEADER = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "patch"]}]
EVENTS = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


RULES: dict[str, list[dict[str, Any]]] = {
    "cluster-state": [
        _rule("", ["pods", "nodes"], ["list", "watch"]),
        _rule("scheduling.run.ai", ["queues", "podgroups"], ["list", "watch"]),
        _rule("kai.scheduler", ["topologies"], ["list", "watch"]),
        _rule("scheduling.k8s.io", ["priorityclasses"], ["list", "watch"]),
        _rule("resource.k8s.io", ["resourceclaims", "resourceslices", "deviceclasses"], ["list", "watch"]),
    ],
    "pod-grouper": [
        _rule("", ["pods"], ["get", "patch"]),
        _rule("scheduling.run.ai", ["podgroups"], ["get", "create", "patch"]),
        _rule("apps", ["deployments", "replicasets", "statefulsets"], ["get"]),
        _rule("batch", ["jobs", "cronjobs"], ["get"]),
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
        _rule("", ["pods"], ["get"]),
        _rule("", ["pods/binding", "pods/eviction"], ["create"]),
        *EVENTS,
    ],
    "gpu-reservation": [],
}
"""Service -> rules of its ClusterRole."""

ELECTING = ("cluster-state", "queue-controller", "scheduler")
READS_LEASES = ("binder",)


def objects() -> list[dict[str, Any]]:
    """Namespace, ServiceAccounts, roles and bindings, in the order in which they are to be made."""
    api = "rbac.authorization.k8s.io"
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kai-resource-reservation"}},
    ]
    for service, rules in RULES.items():
        name = f"shoal-{service}"
        subject = [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]
        found.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}})
        found.append({"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
        found.append({
            "apiVersion": f"{api}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": subject,
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
        })  # fmt: skip
        leases = LEADER if service in ELECTING else []
        if service in READS_LEASES:
            leases = [_rule("coordination.k8s.io", ["leases"], ["get"])]
        if leases:
            metadata = {"name": name, "namespace": NAMESPACE}
            found.append({"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": leases})
            found.append({
                "apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": metadata, "subjects": subject,
                "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
            })  # fmt: skip
    return found
