"""SchedulingShard: what its options mean for a scheduler (spec: kubernetes.md 1.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal_model.quantity import BadQuantity, duration

PLUGINS = {
    "predicates": 1900, "proportion": 1800, "priority": 1700, "nodeavailability": 1600, "resourcetype": 1500,
    "podaffinity": 1400, "elastic": 1300, "kubeflow": 1200, "ray": 1100, "subgrouporder": 1000, "taskorder": 900,
    "nominatednode": 800, "dynamicresources": 700, "minruntime": 600, "topology": 500, "snapshot": 400,
    "sg-nodelocalgreedy": 360, "sg-multinodegang": 350, "gpupack": 300, "gpuspread": 300, "nodeplacement": 200,
    "gpusharingorder": 100,
}  # fmt: skip
"""Plugin -> priority where nothing else is said; a higher one comes first."""
ACTIONS = {"allocate": 500, "consolidation": 400, "reclaim": 300, "preempt": 200, "stalegangeviction": 100}
"""Action -> priority, likewise."""
SEARCHES = ("default", "reclaim", "preempt", "consolidation")
_BOOLEAN = {
    "restrict-node-scheduling": "restrictNodeScheduling", "use-scheduling-signatures": "useSchedulingSignatures",
    "full-hierarchy-fairness": "fullHierarchyFairness", "allow-consolidating-reclaim": "allowConsolidatingReclaim",
}  # fmt: skip
_SECONDS = {
    "default-staleness-grace-period": "globalDefaultStalenessGracePeriod",
    "stuck-in-releasing-threshold": "stuckInReleasingThreshold",
}
_MOST_MOVED = ("max-consolidation-preemptees", "maxNumberConsolidationPreemptees")
NANO = 1_000_000_000
KAI_0_17 = "0.17"
"""The ``compatibility`` that keeps what KAI-Scheduler v0.17 decides."""


class BadShard(ValueError):
    """An option can't be used; the message names it and says how to repair it."""


@dataclass(frozen=True)
class Options:
    """What a shard's scheduler is told."""

    partition: str
    """The node pool; empty: objects without the label."""
    policy: dict[str, Any]
    """The scheduler's configuration: actions, tiers, queueDepthPerAction, scenarioSearchBudgets."""
    flags: dict[str, Any]
    """Flags, named as in snapshots."""
    ignored: list[str] = field(default_factory=list)
    """Options that have no effect, each with the reason."""


def read(spec: Mapping[str, Any]) -> Options:
    """The options of a SchedulingShard's ``spec``. Raises BadShard."""
    ignored = [f"spec.{name}: the scheduler is no Go program" for name in ("goMemLimit", "goMemLimitRatio") if name in spec]
    if spec.get("usageDBConfig"):
        ignored.append("spec.usageDBConfig: the history of usage has no source yet, so kValue has nothing to weigh")
    placement = spec.get("placementStrategy") or {}
    strategy = {kind: str(placement.get(kind) or "binpack") for kind in ("gpu", "cpu")}
    for kind, value in strategy.items():
        if value not in ("binpack", "spread"):
            raise BadShard(f"spec.placementStrategy.{kind}: {value!r} is neither binpack nor spread")
    actions = _actions(spec, "spread" in strategy.values())
    depths = spec.get("queueDepthPerAction") or {}
    for name in depths:
        if name not in actions:
            raise BadShard(f"spec.queueDepthPerAction.{name}: the shard's actions are {', '.join(actions)}")
    policy = {
        "actions": ", ".join(actions), "tiers": [{"plugins": _plugins(spec, strategy)}], "queueDepthPerAction": dict(depths),
        "scenarioSearchBudgets": _budgets(spec.get("scenarioSearchBudgets") or {}),
    }  # fmt: skip
    return Options(str(spec.get("partitionLabelValue") or ""), policy, _flags(spec.get("args") or {}, ignored), ignored)


def ordered(priorities: Mapping[str, int]) -> list[str]:
    """Names by priority, highest first, ties by name."""
    return sorted(priorities, key=lambda name: (-priorities[name], name))


def _actions(spec: Mapping[str, Any], spreads: bool) -> list[str]:
    priorities = dict(ACTIONS)
    enabled = dict.fromkeys(ACTIONS, True) | {"consolidation": not spreads}
    for name, given in (spec.get("actions") or {}).items():
        if name not in ACTIONS:
            raise BadShard(f"spec.actions.{name}: it is no action; known are {', '.join(ACTIONS)}")
        enabled[name] = enabled[name] if given.get("enabled") is None else bool(given["enabled"])
        priorities[name] = priorities[name] if given.get("priority") is None else int(given["priority"])
    found = ordered({name: priority for name, priority in priorities.items() if enabled[name]})
    if not found:
        raise BadShard("spec.actions: at least one has to be enabled")
    return found


def _plugins(spec: Mapping[str, Any], strategy: Mapping[str, str]) -> list[dict[str, Any]]:
    packs = strategy["gpu"] == "binpack"
    off = {"gpuspread"} if packs else {"gpupack", "gpusharingorder"}
    priorities, enabled = dict(PLUGINS), {name: name not in off for name in PLUGINS}
    runtime = spec.get("minRuntime") or {}
    arguments: dict[str, dict[str, Any]] = {
        "nodeplacement": dict(strategy),
        "minruntime": {
            f"default{name[0].upper()}{name[1:]}": runtime[name] for name in ("preemptMinRuntime", "reclaimMinRuntime")
            if runtime.get(name) is not None
        },
        "proportion": {} if spec.get("kValue") is None else {"kValue": str(spec["kValue"])},
    }  # fmt: skip
    for name, given in (spec.get("plugins") or {}).items():
        enabled[name] = enabled.get(name, True) if given.get("enabled") is None else bool(given["enabled"])
        priorities[name] = priorities.get(name, 0) if given.get("priority") is None else int(given["priority"])
        if given.get("arguments") is not None:
            arguments[name] = dict(given["arguments"])
    names = ordered({name: priority for name, priority in priorities.items() if enabled[name]})
    return [{"name": name} | ({"arguments": arguments[name]} if arguments.get(name) else {}) for name in names]


def _budgets(given: Mapping[str, Any]) -> dict[str, Any]:
    where = "spec.scenarioSearchBudgets"
    for name in given.get("maxActionSearchDuration") or {}:
        if name not in SEARCHES:
            raise BadShard(f"{where}.maxActionSearchDuration.{name}: known are {', '.join(SEARCHES)}")
    for name, value in given.items():
        parts = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
        for path, text in parts.items():
            _duration(text, f"{where}.{path}", least=0.0)
    most = _duration(given.get("maxJobSearchDuration", "4m"), where)
    if most and _duration(given.get("minJobSearchDuration", "0s"), where) >= most:
        raise BadShard(f"{where}.minJobSearchDuration: it has to be shorter than maxJobSearchDuration")
    return dict(given)


def _duration(text: object, where: str, least: float | None = None) -> float:
    try:
        found = duration(str(text))
    except BadQuantity as error:
        raise BadShard(f"{where}: {error}") from error
    if least is not None and found < least:
        raise BadShard(f"{where}: {text} is negative")
    return found


def _flags(args: Mapping[str, str], ignored: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(args):
        text, where = str(args[name]), f"spec.args.{name}"
        if name in _BOOLEAN:
            if text not in ("true", "false"):
                raise BadShard(f"{where}: {text!r} is neither true nor false")
            found[_BOOLEAN[name]] = text == "true"
        elif name in _SECONDS:
            found[_SECONDS[name]] = int(_duration(text, where) * NANO)
        elif name == _MOST_MOVED[0]:
            try:
                found[_MOST_MOVED[1]] = int(text)
            except ValueError as error:
                raise BadShard(f"{where}: {text!r} is no whole number") from error
        elif name == "compatibility":
            if text not in ("", KAI_0_17):
                raise BadShard(f'{where}: {text!r} is not known; write "{KAI_0_17}", or leave it out')
            found[name] = text
        else:
            ignored.append(f"{where}: this scheduler has no such flag")
    return found
