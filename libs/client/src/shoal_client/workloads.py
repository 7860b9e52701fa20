"""Pods of workloads that stand in a folder without theirs: as many as their controllers would make."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

MOST = 100_000
"""So many pods of one workload, no more."""
COUNT = {"Deployment": "replicas", "ReplicaSet": "replicas", "StatefulSet": "replicas", "Job": "parallelism"}


class BadWorkload(ValueError):
    """The workload can't have pods; says why."""


def with_defaults(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as the API server would store it: a resource that has only a limit is requested as much."""
    spec = pod.get("spec")
    for field in ("containers", "initContainers"):
        for container in (spec.get(field) if isinstance(spec, dict) else None) or ():
            resources = container.get("resources") if isinstance(container, dict) else None
            if isinstance(resources, dict) and isinstance(resources.get("limits"), dict):
                asked = resources.get("requests") or {}
                if isinstance(asked, dict):
                    resources["requests"] = resources["limits"] | asked
    return pod


def owned(pods: Iterable[dict[str, Any]]) -> set[str]:
    """Uids of the owners of these objects."""
    return {
        str(owner.get("uid"))
        for pod in pods
        for owner in pod["metadata"].get("ownerReferences") or ()
        if isinstance(owner, dict)
    }


def _idle(workload: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Whether its controller makes no pods at all: suspended, paused, ended, or being deleted."""
    if workload["metadata"].get("deletionTimestamp"):
        return True
    match workload["kind"]:
        case "Job":
            status = workload.get("status")
            conditions = status.get("conditions") if isinstance(status, dict) else None
            ended = any(
                isinstance(c, dict) and c.get("type") in ("Complete", "SuccessCriteriaMet", "Failed", "FailureTarget")
                and c.get("status") == "True"
                for c in (conditions if isinstance(conditions, list) else ())
            )  # fmt: skip
            return ended or spec.get("suspend") is True
        case "Deployment":
            # Without a ReplicaSet of its own there is none to scale, and a paused Deployment makes none.
            return spec.get("paused") is True
        case _:
            return False


def pods_of(workload: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of a Job, Deployment, ReplicaSet or StatefulSet, from its template. Raises BadWorkload."""
    kind, meta, spec = str(workload["kind"]), workload["metadata"], workload.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise BadWorkload("spec.template.spec is missing")
    assert isinstance(spec, dict)
    if _idle(workload, spec):
        return []
    given = spec.get(COUNT[kind])
    count = 1 if given is None else given
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST:
        raise BadWorkload(f"spec.{COUNT[kind]} is {str(count)[:32]}: write a number from 0 to {MOST}")
    if kind == "Job" and isinstance(total := spec.get("completions"), int):
        status = workload.get("status")
        done = status.get("succeeded") if isinstance(status, dict) else 0
        count = min(count, max(0, total - (done if isinstance(done, int) else 0)))
    owner = {"apiVersion": str(workload.get("apiVersion") or ""), "kind": kind, "name": meta["name"], "uid": meta["uid"]}
    found = []
    for i in range(count):
        pod = copy.deepcopy(
            {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata") or {}, "spec": template["spec"]}
        )
        if not isinstance(pod["metadata"], dict):
            raise BadWorkload("spec.template.metadata is no object")
        pod["metadata"] |= {
            "name": f"{meta['name']}-{i}", "namespace": meta["namespace"], "ownerReferences": [{**owner, "controller": True}],
            "uid": "", "creationTimestamp": meta.get("creationTimestamp"),
        }  # fmt: skip
        pod["status"] = {"phase": "Pending"}
        found.append(pod)
    return found
