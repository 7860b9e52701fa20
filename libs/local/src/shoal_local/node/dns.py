"""CoreDNS in the cluster, for the names of services."""

from __future__ import annotations

import time
from typing import Any

from shoal_local.node import place
from shoal_local.node.plane import NodePlane
from shoal_local.process import NotStarted

LIMIT = 60.0
COREFILE = """\
.:53 {
  errors
  health :8080
  ready :8181
  kubernetes cluster.local in-addr.arpa {
    pods insecure
    fallthrough in-addr.arpa
  }
  cache 2
}
"""


def objects() -> list[dict[str, Any]]:
    """Account, rights, settings, deployment and service, in the order in which they are to be made."""
    rbac = "rbac.authorization.k8s.io"
    here = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    container = {
        "name": "coredns", "image": place.image("coredns"), "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/coredns"}],
    }  # fmt: skip
    pod = {
        "serviceAccountName": "coredns", "dnsPolicy": "Default", "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": "coredns"}}],
    }  # fmt: skip
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {
            "apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", **here}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": here, "data": {"Corefile": COREFILE}},
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": here,
            "spec": {
                "replicas": 1, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": place.DNS_SERVICE, "selector": labels,
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
            },
        },
    ]  # fmt: skip


def wait(plane: NodePlane) -> None:
    """Wait until a replica is ready. Raises NotStarted."""
    deadline = time.monotonic() + LIMIT
    path = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"
    while not (plane.seen(path) or {}).get("status", {}).get("readyReplicas"):
        if time.monotonic() > deadline:
            pods = plane.call("GET", "/api/v1/namespaces/kube-system/pods")["items"]
            states = [str(p["status"].get("containerStatuses") or p["status"]) for p in pods]
            raise NotStarted(f"CoreDNS was not ready after {LIMIT:.0f} s: {'; '.join(states)[:1500] or 'no pod'}")
        time.sleep(0.1)
