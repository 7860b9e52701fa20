"""The objects of a shard: its ConfigMap, and a Deployment in the image of the default scheduler's. Pure."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from shoal_model.shards import BadShard, Options

DEFAULT = "default"
PARTITION = "shoal.dev/partition"
"""Annotation of a shard's Deployment: the node pool that it serves."""
SHARD = "shoal.dev/shard"
"""Label of a shard's pods."""
CHECKSUM = "shoal.dev/shard-config"
"""Annotation of a scheduler's pods: they are replaced when their configuration changes."""
VOLUME = "shard"
LONGEST = 63
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
Object = dict[str, Any]


@dataclass(frozen=True)
class Wishes:
    """What the Config object asks for the schedulers of shards; None: as the default scheduler has it."""

    replicas: int | None = None
    resources: Object | None = None
    pod: Object | None = None
    """Fields of the pod's spec: nodeSelector, tolerations, affinity, priorityClassName."""


def check_name(name: str, scheduler: str) -> None:
    """Raises BadShard for a name that can't be part of a Deployment's, a label's and a subject's."""
    if not _NAME.fullmatch(name) or len(f"{scheduler}-{name}") > LONGEST:
        most = LONGEST - len(scheduler) - 1
        raise BadShard(f"metadata.name: make it a DNS label (a-z, 0-9, -) of at most {most} characters; it names a Deployment")


def overlay(name: str, options: Options, pool_label: str) -> str:
    """The settings that a shard's scheduler has of its own, as YAML."""
    flags = options.flags | {"partitionParams": {"NodePoolLabelKey": pool_label, "NodePoolLabelValue": options.partition}}
    return yaml.safe_dump({"shard": name, "policy": options.policy, "flags": flags}, sort_keys=False)


def checksum(text: str) -> str:
    """Of an overlay."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def owner(shard: Mapping[str, Any]) -> Object:
    """The reference by which what belongs to the shard ends with it."""
    return {
        "apiVersion": "kai.scheduler/v1", "kind": "SchedulingShard", "name": shard["metadata"]["name"],
        "uid": shard["metadata"]["uid"], "controller": True,
    }  # fmt: skip


def config_map(shard: Mapping[str, Any], namespace: str, text: str) -> Object:
    """The ConfigMap that the shard's scheduler reads."""
    name = shard["metadata"]["name"]
    return {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": f"shoal-shard-{name}", "namespace": namespace, "labels": {SHARD: name}, "ownerReferences": [owner(shard)],
        },
        "data": {"config.yaml": text},
    }  # fmt: skip


def deployment(shard: Mapping[str, Any], template: Mapping[str, Any], partition: str, text: str, wishes: Wishes) -> Object:
    """The shard's scheduler. Raises BadShard where ``template`` has no place for a shard's configuration."""
    name, old = shard["metadata"]["name"], template["metadata"]["name"]
    app = old.removesuffix(DEFAULT) + name
    spec = _renamed(copy.deepcopy(template["spec"]), old, app)
    labels = {k: v for k, v in template["metadata"].get("labels", {}).items() if not k.startswith("helm.sh/")}
    labels |= {"app": app, SHARD: name, "app.kubernetes.io/managed-by": "shard-controller"}
    pods = spec["template"]
    pods["metadata"].pop("creationTimestamp", None)
    pods["metadata"].setdefault("labels", {})[SHARD] = name
    pods["metadata"].setdefault("annotations", {})[CHECKSUM] = checksum(text)
    volumes = [v for v in pods["spec"].get("volumes", ()) if v["name"] == VOLUME]
    if not volumes:
        raise BadShard(f"Deployment {old} mounts no volume {VOLUME!r}: upgrade the release, then it is tried again")
    volumes[0]["configMap"] = {"name": f"shoal-shard-{name}", "optional": False}
    if wishes.replicas is not None:
        spec["replicas"] = wishes.replicas
    if wishes.resources is not None:
        pods["spec"]["containers"][0]["resources"] = wishes.resources
    pods["spec"].update(wishes.pod or {})
    metadata = {
        "name": app, "namespace": template["metadata"]["namespace"], "labels": labels, "annotations": {PARTITION: partition},
        "ownerReferences": [owner(shard)],
    }  # fmt: skip
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _renamed(found: Any, old: str, app: str) -> Any:
    """The same, with ``app: old`` (labels, selectors, affinity) turned into ``app: app``."""
    if isinstance(found, dict):
        return {k: app if k == "app" and v == old else _renamed(v, old, app) for k, v in found.items()}
    return [_renamed(v, old, app) for v in found] if isinstance(found, list) else found
