"""The webhook configurations, as data: ``python -m shoal_admission.webhooks`` prints them as YAML.

Names, paths and selectors are the reference's (spec: kubernetes.md 1.2, 4.3, 6.2); what is matched is narrower: only what
a rule could refuse or change comes here. docs/decisions/0012 argues that and each failurePolicy.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

import msgspec
import yaml

from shoal_model import gpu, labels

MUTATING, VALIDATING = "mutating-kai-admission", "validating-kai-admission"
QUEUES, GROUPS = "kai-queue-validation-v2", "kai-podgroup-validation-v2alpha2"
NAMES = (
    ("mutatingwebhookconfigurations", MUTATING),
    ("validatingwebhookconfigurations", VALIDATING),
    ("validatingwebhookconfigurations", QUEUES),
    ("validatingwebhookconfigurations", GROUPS),
)
"""(resource, name) of each configuration."""

MUTATE_POD, VALIDATE_POD = "/mutate--v1-pod", "/validate--v1-pod"
VALIDATE_TOPOLOGY = "/validate-kai-scheduler-v1alpha1-topology"
VALIDATE_QUEUE = "/validate-scheduling-run-ai-v2-queue"
VALIDATE_GROUP = "/validate-scheduling-run-ai-v2alpha2-podgroup"


class Settings(msgspec.Struct, kw_only=True):
    """What differs between clusters."""

    scheduler_name: str = labels.SCHEDULER_NAME
    namespace: str = labels.NAMESPACE
    """Of the service; its pods are never reviewed."""
    service: str = "admission"
    url: str = ""
    """Where admission is, for a cluster that can't reach it by a Service: https://HOST:PORT."""
    port: int = 443
    """Of the Service."""
    namespace_labels: dict[str, str] = {}
    """Only pods of namespaces with these labels (namespaceLabelSelector)."""
    pod_labels: dict[str, str] = {}
    """Only pods with these labels (podLabelSelector)."""
    queue_label_selector: bool = False
    """Only pods of namespaces that have the queue label."""
    queue_label_key: str = labels.QUEUE
    every_pod: bool = False
    """Review all pods of the scheduler, not only those with a share: for the device access rules."""
    cert_manager: str = ""
    """``namespace/name`` of the cert-manager Certificate whose CA is to be injected; empty: the service does it."""
    timeout_seconds: int = 5


def _any_note() -> str:
    keys = "[" + ", ".join(f"'{key}'" for key in gpu.SHARING) + "]"
    return f"{keys}.exists(k, k in object.metadata.?annotations.orValue({{}}))"


def _notes_changed() -> str:
    keys = "[" + ", ".join(f"'{key}'" for key in gpu.SHARING) + "]"
    return f"{keys}.exists(k, object.metadata.?annotations[?k].orValue('') != oldObject.metadata.?annotations[?k].orValue(''))"


def _spec_changed(more: str = "") -> dict[str, str]:
    expression = "(request.operation != 'UPDATE' || object.spec != oldObject.spec)"
    return {"name": "spec-is-new", "expression": expression + (f" && {more}" if more else "")}


def configurations(settings: Settings) -> list[dict[str, Any]]:
    """The four configurations, without a CA: the service, or cert-manager, puts it in."""

    def client(path: str) -> dict[str, Any]:
        if settings.url:
            return {"url": settings.url.rstrip("/") + path}
        where = {"namespace": settings.namespace, "name": settings.service, "path": path, "port": settings.port}
        return {"service": where}

    def hook(
        name: str, path: str, group: str, version: str, resource: str, operations: list[str], policy: str, scope: str
    ) -> dict[str, Any]:
        rule = {"apiGroups": [group], "apiVersions": [version], "resources": [resource], "operations": list(operations)}
        return {
            "name": name,
            "admissionReviewVersions": ["v1"],
            "clientConfig": client(path),
            "rules": [{**rule, "scope": scope}],
            "failurePolicy": policy,
            "sideEffects": "None",
            "timeoutSeconds": settings.timeout_seconds,
        }

    def configuration(kind: str, name: str, hooks: list[dict[str, Any]]) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": name, "labels": {labels.APP: settings.service}}
        if settings.cert_manager:
            metadata["annotations"] = {"cert-manager.io/inject-ca-from": settings.cert_manager}
        return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "webhooks": hooks}

    where = [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": sorted({"kube-system", settings.namespace})}]
    if settings.queue_label_selector:
        where.append({"key": settings.queue_label_key, "operator": "Exists"})
    selector: dict[str, Any] = {"matchExpressions": where}
    if settings.namespace_labels:
        selector["matchLabels"] = dict(settings.namespace_labels)
    ours = {"name": "scheduler-name-match", "expression": f"object.spec.schedulerName == '{settings.scheduler_name}'"}

    def pods(path: str, operations: list[str], narrower: str) -> dict[str, Any]:
        name = f"{settings.service}.{settings.namespace}.svc"
        found = hook(name, path, "", "v1", "pods", operations, "Fail", "Namespaced")
        found["namespaceSelector"] = selector
        if settings.pod_labels:
            found["objectSelector"] = {"matchLabels": dict(settings.pod_labels)}
        found["matchConditions"] = [ours] + ([{"name": "asks-for-a-share", "expression": narrower}] if narrower else [])
        return found

    update = _notes_changed()
    if settings.every_pod:
        # Only the rules of device access look at what is added to a pod that runs.
        update = f"request.?subResource.orValue('') == 'ephemeralcontainers' || {update}"
    create = "request.operation == 'CREATE'" + ("" if settings.every_pod else f" && {_any_note()}")
    both = ["CREATE", "UPDATE"]
    mutate = pods(MUTATE_POD, ["CREATE"], "" if settings.every_pod else _any_note())
    validate = pods(VALIDATE_POD, both, f"request.operation == 'UPDATE' ? ({update}) : ({create})")
    if settings.every_pod:
        debugging = {"resources": ["pods/ephemeralcontainers"], "operations": ["UPDATE"]}
        validate["rules"].append(copy.deepcopy(validate["rules"][0]) | debugging)
    mutate["reinvocationPolicy"] = "IfNeeded"
    topologies = hook(
        f"topology.{settings.service}.{settings.namespace}.svc", VALIDATE_TOPOLOGY, "kai.scheduler", "v1alpha1",
        "topologies", both, "Ignore", "Cluster",
    )  # fmt: skip
    topologies["matchConditions"] = [_spec_changed()]
    queues = hook(
        "queue-validation.kai.scheduler",
        VALIDATE_QUEUE,
        "scheduling.run.ai",
        "v2",
        "queues",
        [*both, "DELETE"],
        "Ignore",
        "Cluster",
    )
    queues["matchConditions"] = [_spec_changed()]
    groups = hook(
        "podgroup-validation.kai.scheduler", VALIDATE_GROUP, "scheduling.run.ai", "v2alpha2", "podgroups", both, "Ignore",
        "Namespaced",
    )  # fmt: skip
    # Most groups have a minMember and no more: the schema alone says all about it.
    told = "has(object.spec.minSubGroup) || has(object.spec.preemptionDelay) || has(object.spec.stalenessGracePeriod)"
    parts = "(has(object.spec.subGroups) && object.spec.subGroups.size() > 0)"
    groups["matchConditions"] = [_spec_changed(f"has(object.spec) && ({told} || {parts})")]
    return [
        configuration("MutatingWebhookConfiguration", MUTATING, [mutate]),
        configuration(
            "ValidatingWebhookConfiguration",
            VALIDATING,
            [validate, topologies],
        ),
        configuration("ValidatingWebhookConfiguration", QUEUES, [queues]),
        configuration("ValidatingWebhookConfiguration", GROUPS, [groups]),
    ]


def _pairs(texts: list[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts)


def main(arguments: list[str] | None = None) -> int:
    """Print the configurations; the options are the Settings."""
    options = argparse.ArgumentParser(prog="shoal_admission.webhooks", description="Print the webhook configurations as YAML.")
    default = Settings()
    for name in ("scheduler_name", "namespace", "service", "url", "queue_label_key", "cert_manager"):
        options.add_argument(f"--{name.replace('_', '-')}", default=getattr(default, name))
    for name in ("port", "timeout_seconds"):
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    for name in ("queue_label_selector", "every_pod"):
        options.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    for name in ("namespace_labels", "pod_labels"):
        options.add_argument(f"--{name.replace('_', '-')}", nargs="*", default=[], metavar="KEY=VALUE")
    given = vars(options.parse_args(arguments))
    for name in ("namespace_labels", "pod_labels"):
        if bad := [text for text in given[name] if "=" not in text]:
            options.error(f"--{name.replace('_', '-')}: {bad[0]!r} is no KEY=VALUE")
        given[name] = _pairs(given[name])
    yaml.safe_dump_all(configurations(Settings(**given)), sys.stdout, sort_keys=False, width=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
