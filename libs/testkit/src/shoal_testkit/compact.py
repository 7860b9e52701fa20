"""Scenarios in a few lines of YAML, written out as Kubernetes objects in the form of ``shoal_testkit.scenario``.

A file is a list of scenarios. Of each only ``name`` and ``groups`` are needed:

    - name: what it shows
      nodes: {n: {gpus: 8}}                # cpu, gpuMemory, labels, taints, mig: {"1g.10gb": 7}; or a number of GPUs
      queues: {q: {gpu: [2, 4, 1]}}        # quota, limit, weight of gpu, cpu, memory; parent, priority, spec
      groups:                              # in the order of their creation, a minute apart
        old: {queue: q, gpus: 1, at: [n, n]}          # running on these nodes; gpuGroups beside it for shared devices
        new: {queue: q, pods: 2, gpus: 0.5, min: 1}   # waiting; cpu, gpuMemory, devices, mig, priority, age (seconds)
      objects: {topologies: [...]}         # anything else, as in Kubernetes
      config, flags, actions, cycles, usage, now, compatibility   # what differs from the default
      expect: {new: Binding}               # group or pod -> status, or {status, node, message}
      shares: {q: 2}                       # queue -> fair share of GPUs
      waits: {new: OverLimit}              # group -> code of the reason
      goes: {old-1: reclaim}               # every eviction: pod -> action
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

NOW = "2026-01-01T12:00:00Z"
CLASSES = {"train": 50, "mid": 75, "build": 100, "inference": 125}
RESOURCES = ("gpu", "cpu", "memory")


def load(path: Path) -> list[dict[str, Any]]:
    """The scenarios of a file, written out."""
    return [expand(found) for found in yaml.safe_load(path.read_text())]


def _time(ago: float) -> str:
    whole = 12 * 3600 - int(ago)
    return f"2026-01-01T{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}Z"


def _node(name: str, given: Any) -> dict[str, Any]:
    given = given if isinstance(given, dict) else {"gpus": given}
    gpus = given.get("gpus", 0)
    size = {"cpu": str(given.get("cpu", 64)), "memory": "256Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    size |= {f"nvidia.com/mig-{profile}": str(count) for profile, count in (given.get("mig") or {}).items()}
    tags = {"nvidia.com/gpu.count": str(gpus), "nvidia.com/gpu.memory": str(given.get("gpuMemory", 80000))}
    tags["kubernetes.io/hostname"] = name
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": tags | (given.get("labels") or {})},
        "spec": {"taints": given.get("taints") or []} | (given.get("spec") or {}),
        "status": {"allocatable": size, "capacity": size} | (given.get("status") or {}),
    }  # fmt: skip


def _queue(name: str, given: dict[str, Any], number: int) -> dict[str, Any]:
    resources = {}
    for kind in RESOURCES:
        quota, limit, weight = [*given.get(kind, [-1]), *[-1, -1, 1][len(given.get(kind, [-1])) :]]
        resources[kind] = {"quota": quota, "limit": limit, "overQuotaWeight": weight}
    spec: dict[str, Any] = {"resources": resources} | (given.get("spec") or {})
    for key, field in (("parent", "parentQueue"), ("priority", "priority")):
        if key in given:
            spec[field] = given[key]
    return {
        "apiVersion": "scheduling.run.ai/v2", "kind": "Queue",
        "metadata": {"name": name, "creationTimestamp": _time(36000 - number), "labels": given.get("labels") or {}},
        "spec": spec,
    }  # fmt: skip


def _merge(into: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    for key, value in more.items():
        into[key] = _merge(dict(into[key]), value) if isinstance(value, dict) and isinstance(into.get(key), dict) else value
    return into


def _group(name: str, given: dict[str, Any], ago: float) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    at = given.get("at") or []
    count = given.get("pods", len(at) or 1)
    names = count if isinstance(count, list) else [""] * count
    spec: dict[str, Any] = {"queue": given.get("queue", "q"), "priorityClassName": given.get("priority", "train")}
    if "min" in given or "subGroups" not in (given.get("spec") or {}):
        spec["minMember"] = given.get("min", len(names))
    group = {
        "apiVersion": "scheduling.run.ai/v2alpha2", "kind": "PodGroup",
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": _time(given.get("age", ago))},
        "spec": spec | (given.get("spec") or {}),
    }  # fmt: skip
    group["metadata"] |= {key: given[key] for key in ("annotations", "labels") if key in given}
    pods, state = [], {}
    for i, subgroup in enumerate(names):
        requests = {"cpu": str(given.get("cpu", 1))}
        notes = {"pod-group-name": name}
        gpus = given.get("gpus", 0)
        if gpus and gpus < 1:
            notes["gpu-fraction"] = str(gpus)
        elif gpus:
            requests["nvidia.com/gpu"] = str(gpus)
        if "gpuMemory" in given:
            notes["gpu-memory"] = str(given["gpuMemory"])
        if "devices" in given:
            notes["gpu-fraction-num-devices"] = str(given["devices"])
        requests |= {f"nvidia.com/mig-{profile}": str(n) for profile, n in (given.get("mig") or {}).items()}
        tags = {"kai.scheduler/subgroup-name": subgroup} if subgroup else {}
        running = i < len(at) and bool(at[i])
        pod = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": f"{name}-{i}", "namespace": "ns", "uid": f"{name}-{i}", "annotations": notes, "labels": tags},
            "spec": {"schedulerName": "kai-scheduler", "containers": [{"name": "main", "resources": {"requests": requests}}]},
            "status": {"phase": "Running" if running else "Pending"},
        }  # fmt: skip
        if running:
            pod["spec"]["nodeName"] = at[i]
        pods.append(_merge(pod, given.get("pod") or {}))
        status = given.get("status", "Running" if running else "Pending")
        state[f"{name}-{i}"] = {"status": status[i] if isinstance(status, list) else status}
        if running:
            state[f"{name}-{i}"] |= {"node": at[i], "gpuGroups": (given.get("gpuGroups") or {}).get(i, [])}
    return group, pods, state


def expand(given: dict[str, Any]) -> dict[str, Any]:
    """One scenario with all its objects."""
    objects: dict[str, list[Any]] = {"priorityClasses": [], "podGroups": [], "pods": []}
    objects["nodes"] = [_node(name, node) for name, node in (given.get("nodes") or {}).items()]
    objects["queues"] = [_queue(n, q or {}, i) for i, (n, q) in enumerate((given.get("queues") or {"q": {}}).items())]
    for name, value in CLASSES.items():
        objects["priorityClasses"].append({"kind": "PriorityClass", "metadata": {"name": name}, "value": value})
    state: dict[str, Any] = {}
    for i, (name, group) in enumerate(given["groups"].items()):
        made, pods, found = _group(name, group or {}, 60 * (len(given["groups"]) - i))
        objects["podGroups"].append(made)
        objects["pods"] += pods
        state |= found
    for kind, more in (given.get("objects") or {}).items():
        objects[kind] = objects.get(kind, []) + more
    run: dict[str, Any] = {
        "actions": given.get("actions") or ["allocate", "consolidation", "reclaim", "preempt", "stalegangeviction"]
    }
    if "cycles" in given:
        run |= {"cyclesUntilMatch": given["cycles"], "cyclesAfterMatch": 2}
    expect: dict[str, Any] = {"podGroups": {}, "pods": {}, "nodes": given.get("left") or {}}
    for name, want in (given.get("expect") or {}).items():
        wanted = want if isinstance(want, dict) else {"status": want}
        expect["podGroups" if name in given["groups"] else "pods"][name] = wanted
    expect |= {key: given[key] for key in ("shares", "waits", "goes") if key in given}
    return {
        "name": given["name"], "now": given.get("now", NOW), "run": run, "objects": objects, "state": state, "expect": expect,
        "config": given.get("config"), "flags": given.get("flags"), "usage": given.get("usage"),
        "compatibility": given.get("compatibility", ""),
    }  # fmt: skip
