"""Schemas of SchedulingShard and Config (spec: kubernetes.md 1.5, 1.6); the descriptions are ours."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _map(description: str, items: Schema) -> Schema:
    return {"type": "object", "description": description, "additionalProperties": items}


def _object(description: str, properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "description": description, "properties": properties}


def _of(kind: str, description: str, **more: Any) -> Schema:
    return {"type": kind, "description": description, **more}


_CONDITIONS: Schema = {
    "type": "array",
    "description": "Observations.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status"],
        "properties": {
            "type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"},
            "message": {"type": "string"}, "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    },
}  # fmt: skip
_STATUS = _object("Where it stands; written by Shoal.", {"conditions": _CONDITIONS})
_ENABLED, _PRIORITY = _of("boolean", "Use it."), _of("integer", "Higher comes first.")
_DURATION = {"type": "string"}
SHARD: dict[str, Schema] = {
    "spec": _object(
        "A node pool with a scheduler of its own.",
        {
            "partitionLabelValue": _of(
                "string", "Value of the node-pool label of its nodes, queues and pod groups; empty: those without the label.",
                maxLength=63, pattern="^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
            ),
            "args": _map("Flags of the scheduler.", {"type": "string"}),
            "placementStrategy": _object(
                "Pack pods on few nodes (binpack) or spread them over many (spread).",
                {kind: {"type": "string"} for kind in ("gpu", "cpu")},
            ),
            "queueDepthPerAction": _map("Jobs of a queue that an action looks at.", {"type": "integer"}),
            "minRuntime": _object(
                "How long pods run undisturbed where their queues don't say.",
                {"preemptMinRuntime": _DURATION, "reclaimMinRuntime": _DURATION},
            ),
            "kValue": _of("number", "How much the past use of a queue counts."),
            "scenarioSearchBudgets": _object(
                "Bounds of the search for victims; 0: none.",
                {
                    "maxActionSearchDuration": _map("By action.", _DURATION), "maxJobSearchDuration": _DURATION,
                    "minJobSearchDuration": _DURATION, "maxGeneratorSearchDuration": _map("By generator.", _DURATION),
                },
            ),
            "plugins": _map(
                "Changes of the plugins, by name.",
                _object("", {
                    "enabled": _ENABLED, "priority": _PRIORITY, "arguments": _map("In place of its own.", {"type": "string"}),
                }),
            ),
            "actions": _map("Changes of the actions, by name.", _object("", {"enabled": _ENABLED, "priority": _PRIORITY})),
            "usageDBConfig": _of(
                "object", "Where past use is read; has no effect yet.", **{"x-kubernetes-preserve-unknown-fields": True}
            ),
            "goMemLimitRatio": _of("number", "Has no meaning here."),
            "goMemLimit": {
                "anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True,
                "description": "Has no meaning here.",
            },
        },
    ),
    "status": _STATUS,
}  # fmt: skip
CONFIG: dict[str, Schema] = {
    "spec": _of(
        "object", "Settings in the reference's form; the status tells which of them have no effect here.",
        **{"x-kubernetes-preserve-unknown-fields": True},
    ),
    "status": _STATUS,
}  # fmt: skip
