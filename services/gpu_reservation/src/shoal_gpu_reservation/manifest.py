"""The reservation pod of a group (spec: kubernetes.md 5.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal_contracts.state import Toleration
from shoal_model import labels

TERM = "shoal.dev/owner-term"
"""gpu-reservation: under which ownership of its node the reservation was last given out."""


class PodSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How reservation pods are made."""

    image: str = "shoal/reservation:dev"
    pull_policy: str = "IfNotPresent"
    service_account: str = "kai-resource-reservation"
    runtime_class: str = ""
    requests: dict[str, str] = msgspec.field(default_factory=lambda: {"cpu": "1m", "memory": "32Mi"})
    limits: dict[str, str] = msgspec.field(default_factory=lambda: {"cpu": "50m", "memory": "128Mi"})


def pod_name(node: str, group: str) -> str:
    """The same for the same node and group, whoever asks: a second one can't be made beside it."""
    return f"gpu-reservation-{hashlib.sha256(f'{node}/{group}'.encode()).hexdigest()[:16]}"


def _toleration(found: Toleration) -> dict[str, str]:
    given = {"key": found.key, "operator": found.operator, "value": found.value, "effect": found.effect}
    return {k: v for k, v in given.items() if v}


def pod(node: str, group: str, term: str, tolerations: Sequence[Toleration], settings: PodSettings) -> dict[str, Any]:
    """The pod that holds one GPU of ``node`` for ``group``."""
    gpu = {labels.GPU: "1"}
    spec: dict[str, Any] = {
        "nodeName": node,
        "serviceAccountName": settings.service_account,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [_toleration(t) for t in tolerations],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "resource-reservation",
                "image": settings.image,
                "imagePullPolicy": settings.pull_policy,
                "resources": {"requests": settings.requests | gpu, "limits": settings.limits | gpu},
                "env": [
                    {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                    for name, path in (("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"))
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    if settings.runtime_class:
        spec["runtimeClassName"] = settings.runtime_class
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(node, group),
            "namespace": labels.RESERVATION_NAMESPACE,
            "labels": {labels.APP: labels.RESERVATION_APP, labels.GPU_GROUP: group},
            "annotations": {TERM: term, "karpenter.sh/do-not-disrupt": "true"},
        },
        "spec": spec,
    }
