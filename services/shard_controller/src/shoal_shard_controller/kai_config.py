"""The reference's Config object: what has a meaning here, and what has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shoal_shard_controller.objects import Wishes

NAME = "kai-config"
"""The only one that is read."""
_GLOBAL = ("replicaCount", "nodeSelector", "tolerations", "affinity", "priorityClassName")
_SAME = {
    "namespace": "the release's namespace", "global.schedulerName": "value global.schedulerName",
    "global.queueLabelKey": "value global.queueLabelKey", "global.nodePoolLabelKey": "value global.nodePoolLabelKey",
}  # fmt: skip
"""Fields that only repeat what the release was installed with."""
_VALUES = {
    "podGrouper": "podgrouper", "binder": "binder", "admission": "admission", "queueController": "queuecontroller",
    "scheduler": "scheduler", "global": "global",
}  # fmt: skip


def read(spec: Mapping[str, Any], installed: Mapping[str, str]) -> tuple[Wishes, list[str]]:
    """What the spec asks of shards' schedulers, and its fields that have no effect, each with the reason.

    ``installed`` holds what the fields of ``_SAME`` are in this release. Raises TypeError, ValueError for nonsense.
    """
    world, scheduler = _map(spec, "global"), _map(spec, "scheduler")
    service = _map(scheduler, "service")
    count = scheduler.get("replicas", world.get("replicaCount"))
    pod = {k: world[k] for k in ("nodeSelector", "tolerations", "priorityClassName") if world.get(k)}
    if affinity := service.get("affinity") or world.get("affinity"):
        pod["affinity"] = affinity
    wishes = Wishes(None if count is None else int(count), service.get("resources"), pod)
    return wishes, sorted(_without_effect(spec, installed))


def _map(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name) or {}
    if not isinstance(found, Mapping):
        raise TypeError(f"spec: {name} has to be an object")
    return found


def _without_effect(spec: Mapping[str, Any], installed: Mapping[str, str]) -> Iterator[str]:
    for block, given in spec.items():
        fields = {block: given} if not isinstance(given, Mapping) else {f"{block}.{k}": v for k, v in given.items()}
        for path, value in fields.items():
            _, _, name = path.partition(".")
            if path in _SAME:
                if str(value) != installed[path]:
                    yield f"spec.{path}: it is {installed[path]!r} by {_SAME[path]}"
            elif (block == "global" and name in _GLOBAL) or path == "scheduler.replicas":
                continue
            elif path == "scheduler.service" and isinstance(value, Mapping):
                for more in value:
                    if more not in ("resources", "affinity"):
                        yield f"spec.scheduler.service.{more}: set Helm's values under scheduler"
            elif block in _VALUES:
                yield f"spec.{path}: set Helm's values under {_VALUES[block]}"
            else:
                yield f"spec.{path}: there is nothing like it here"
