"""The custom resources, from one definition: ``python -m shoal_model.crds FOLDER`` writes them as YAML.

They accept whatever the reference's accept (spec: kubernetes.md 1.1, 1.2, 1.4); the descriptions are ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from shoal_model import crds_config

Schema = dict[str, Any]
NAME = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
LONGEST_LABEL_KEY = 316
MOST_LEVELS = 16


def _text(description: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _number(description: str, kind: str = "number", **more: Any) -> Schema:
    return {"type": kind, "description": description, **more}


def _object(description: str, properties: dict[str, Schema], required: list[str] | None = None, **more: Any) -> Schema:
    found: Schema = {"type": "object", "description": description, "properties": properties, **more}
    return found | ({"required": required} if required else {})


def _list(description: str, items: Schema, **more: Any) -> Schema:
    return {"type": "array", "description": description, "items": items, **more}


_QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
    },
}
_CONDITION = _object(
    "One observation of the object.",
    {
        "type": _text(),
        "status": _text(),
        "reason": _text(),
        "message": _text(),
        "lastProbeTime": _text(format="date-time"),
        "lastTransitionTime": _text(format="date-time"),
    },
    ["type", "status"],
)


def _usage(description: str) -> Schema:
    return {**_QUANTITIES, "description": description}


def _queue_resource(unit: str) -> Schema:
    return _object(
        f"Shares of one resource, in {unit}.",
        {
            "quota": _number("What the queue deserves; -1 is without bound, 0 (also when left out) is nothing."),
            "limit": _number("What it may never exceed; -1 is without bound, 0 (also when left out) is nothing."),
            "overQuotaWeight": _number("Its weight when what others leave unused is divided."),
        },
    )


_QUEUE = {
    "spec": _object(
        "The queue as its administrator wants it.",
        {
            "displayName": _text("The name that people and metrics see."),
            "parentQueue": _text("The queue that this one belongs to; empty for a queue at the top."),
            "priority": _number("Queues of higher priority come first among their siblings; 100 if left out.", "integer"),
            "preemptMinRuntime": _text("How long work runs before others of its queue may preempt it, such as 10m."),
            "reclaimMinRuntime": _text("How long work runs before other queues may reclaim its resources, such as 10m."),
            "resources": _object(
                "Quota, limit and weight of each resource.",
                {
                    "gpu": _queue_resource("devices"),
                    "cpu": _queue_resource("millicores"),
                    "memory": _queue_resource("megabytes of 10^6 bytes"),
                },
            ),
        },
    ),
    "status": _object(
        "What the queue and those below it use; written by Shoal.",
        {
            "conditions": _list("Observations.", _CONDITION),
            "childQueues": _list("The queues directly below.", _text()),
            "requested": _usage("Asked for by all work of the queue."),
            "allocated": _usage("In use."),
            "allocatedNonPreemptible": _usage("In use by work that may not be preempted."),
        },
    ),
}

_TOPOLOGY_CONSTRAINT = _object(
    "Pods are to be near each other.",
    {
        "topology": _text("The Topology by whose levels nearness is measured."),
        "requiredTopologyLevel": _text("All pods go into one domain of this level (its node label or alias), or wait."),
        "preferredTopologyLevel": _text("All pods go into one domain of this level if that is possible."),
    },
)
_SUBGROUP = _object(
    "A part of the group with a minimum of its own.",
    {
        "name": _text("Unique in the group; pods name it in the label kai.scheduler/subgroup-name.", minLength=1, pattern=NAME),
        "parent": _text("The subgroup that this one is part of.", nullable=True, pattern=NAME),
        "minMember": _number("Pods that it needs; only where it has no subgroups.", "integer", format="int32", minimum=0),
        "minSubGroup": _number("Subgroups that it needs.", "integer", format="int32", minimum=0),
        "topologyConstraint": {**_TOPOLOGY_CONSTRAINT, "nullable": True},
    },
    ["name"],
)
_SCHEDULING_CONDITION = _object(
    "Why the group waits.",
    {
        "type": _text("UnschedulableOnNodePool."),
        "nodePool": _text("The node pool that was tried."),
        "status": _text(),
        "reason": _text(),
        "message": _text("In words, with the numbers."),
        "transitionID": _text("Counts up with every change."),
        "lastTransitionTime": _text(format="date-time"),
        "reasons": _list(
            "Each reason for itself.",
            _object(
                "A reason.",
                {
                    "reason": _text("A word for programs, such as OverLimit."),
                    "message": _text("In words."),
                    "details": _object("Numbers.", {}, None, **{"x-kubernetes-preserve-unknown-fields": True}),
                },
            ),
        ),
    },
)
_POD_GROUP = {
    "spec": _object(
        "Pods that are scheduled as one.",
        {
            "minMember": _number(
                "Pods that must start together; 0: none. Excludes minSubGroup.", "integer", format="int32", minimum=0,
                nullable=True,
            ),
            "minSubGroup": _number(
                "Subgroups that must start together. Excludes minMember.", "integer", format="int32", minimum=0,
                nullable=True,
            ),
            "queue": _text("The queue that pays for it."),
            "priorityClassName": _text("Its priority."),
            "preemptibility": _text(
                "Whether its pods may be evicted for others; decided by priority if left out.",
                enum=["preemptible", "non-preemptible"],
            ),
            "topologyConstraint": _TOPOLOGY_CONSTRAINT,
            "subGroups": _list("Its parts.", _SUBGROUP),
            "markUnschedulable": _number("Whether waiting pods are marked unschedulable; true if left out.", "boolean"),
            "schedulingBackoff": _number(
                "Failed attempts after which it is tried no more in its node pool; -1: never.", "integer", format="int32"
            ),
            "preemptionDelay": _text("How long it waits before others may be evicted for it, such as 5m."),
            "stalenessGracePeriod": _text("How long it may run below its minimum before the rest is evicted."),
        },
    ),
    "status": _object(
        "Where it stands; written by Shoal.",
        {
            "conditions": _list("Observations.", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
            "schedulingConditions": _list("Why it waits, by node pool.", _SCHEDULING_CONDITION),
            "resourcesStatus": _object(
                "What it uses.",
                {
                    "requested": _usage("Asked for."),
                    "allocated": _usage("In use."),
                    "allocatedNonPreemptible": _usage("In use, and not to be preempted."),
                },
            ),
        },
    ),
}  # fmt: skip

_HOSTNAME_RULE = (
    "self.all(x, x.nodeLabel != 'kubernetes.io/hostname') || "
    "self.filter(x, x.nodeLabel == 'kubernetes.io/hostname').size() == 1 && "
    "self[self.size() - 1].nodeLabel == 'kubernetes.io/hostname'"
)
_TOPOLOGY = {
    "spec": _object(
        "How nodes are near each other.",
        {
            "levels": _list(
                "From the widest to the narrowest.",
                _object(
                    "A level: nodes with the same value of the label are one domain.",
                    {
                        "nodeLabel": _text("Label of the nodes.", minLength=1, maxLength=LONGEST_LABEL_KEY, pattern=LABEL_KEY),
                        "alias": _text("Another name for the level.", maxLength=LONGEST_LABEL_KEY, pattern=LABEL_KEY),
                    },
                    ["nodeLabel"],
                ),
                minItems=1,
                maxItems=MOST_LEVELS,
                **{
                    "x-kubernetes-list-type": "atomic",
                    "x-kubernetes-validations": [
                        {
                            "rule": "size(self) == size(oldSelf) && self.all(x, oldSelf.exists(y, y.nodeLabel == x.nodeLabel))"
                            " && self.map(x, x.nodeLabel) == oldSelf.map(x, x.nodeLabel)",
                            "message": "the node labels of a topology can't be changed, only its aliases",
                        },
                        {
                            "rule": "self.all(x, self.filter(y, y.nodeLabel == x.nodeLabel).size() == 1)",
                            "message": "nodeLabel must be unique",
                        },
                        {"rule": _HOSTNAME_RULE, "message": "kubernetes.io/hostname can only be the lowest level"},
                    ],
                },
            )
        },
        ["levels"],
    )
}


def _definition(
    group: str,
    version: str,
    kind: str,
    plural: str,
    scope: str,
    description: str,
    properties: dict[str, Schema],
    **more: Any,
) -> Schema:
    columns: list[Schema] = more.get("columns", [])
    shown: Schema = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": description,
                "properties": {"apiVersion": _text(), "kind": _text(), "metadata": {"type": "object"}, **properties},
                **({"required": ["spec"]} if more.get("needs_spec") else {}),
            }
        },
    }
    if "status" in properties:
        shown["subresources"] = {"status": {}}
    if columns:
        shown["additionalPrinterColumns"] = columns
    names: Schema = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    if more.get("short"):
        names["shortNames"] = more["short"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": scope, "versions": [shown]},
    }


DEFINITIONS: list[Schema] = [
    _definition(
        "scheduling.run.ai", "v2", "Queue", "queues", "Cluster", "A share of the cluster.", _QUEUE,
        columns=[
            {"name": name, "type": "string", "jsonPath": path}
            for name, path in (
                ("Priority", ".spec.priority"), ("Parent", ".spec.parentQueue"), ("Children", ".status.childQueues"),
                ("DisplayName", ".spec.displayName"),
            )
        ],
    ),
    _definition(
        "scheduling.run.ai", "v2alpha2", "PodGroup", "podgroups", "Namespaced", "Pods that are scheduled as one.",
        _POD_GROUP, short=["pg"],
    ),
    _definition(
        "kai.scheduler", "v1alpha1", "Topology", "topologies", "Cluster", "The levels of a network.", _TOPOLOGY,
        needs_spec=True,
    ),
    _definition(
        "kai.scheduler", "v1", "SchedulingShard", "schedulingshards", "Cluster", "A node pool and its scheduler.",
        crds_config.SHARD,
        columns=[
            {"name": "Partition", "type": "string", "jsonPath": ".spec.partitionLabelValue"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
        ],
    ),
    _definition(
        "kai.scheduler", "v1", "Config", "configs", "Cluster", "Settings in the reference's form.", crds_config.CONFIG,
    ),
]  # fmt: skip
"""Queue, PodGroup, Topology, SchedulingShard, Config."""

PRIORITY_CLASSES: list[Schema] = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}
    for name, value in (("train", 50), ("build-preemptible", 75), ("build", 100), ("inference", 125))
]


def write(folder: Path) -> None:
    """Write each definition into ``folder``, and the priority classes into a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "# Generated by `make crds` from libs/model/src/shoal_model/crds.py.\n"
    for definition in DEFINITIONS:
        spec = definition["spec"]
        path = folder / f"{spec['group']}_{spec['names']['plural']}.yaml"
        path.write_text(head + yaml.safe_dump(definition, sort_keys=False, width=118))
    classes = {"apiVersion": "v1", "kind": "List", "items": PRIORITY_CLASSES}
    (folder.parent / "priorityclasses.yaml").write_text(head + yaml.safe_dump(classes, sort_keys=False))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
