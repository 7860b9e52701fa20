"""Reads the reference's scheduler configuration (actions, plugins, depths, budgets) and flags."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from shoal_core.settings import ACTIONS, MULTI_NODE_GANG, NODE_LOCAL_GREEDY, PLUGINS, Budgets, Settings
from shoal_model.quantity import LIMIT, BadQuantity, duration
from shoal_model.shards import KAI_0_17

UNITS_PER_SECOND = 1_000.0
"""What the reference simulates in a second, about: searches are bounded as its own are."""
ACTION_SECONDS, JOB_SECONDS = 300.0, 240.0
PATIENCE = 1_000
"""What one probe may cost without a result where nothing is configured; about a second of the reference."""
FRUITLESS = 2_500
"""What all probes of a job, or all jobs of an action, may cost without a result where nothing is configured."""
GENERATOR_SECONDS = {NODE_LOCAL_GREEDY: 30.0, MULTI_NODE_GANG: 120.0, "default": 120.0}
NANO = 1e9
_LONG = re.compile(r"(\d+\.?\d*|\.\d+)([dw])", re.ASCII)
_HOURS = {"d": 24.0, "w": 168.0}


class BadConfiguration(ValueError):
    """The configuration can't be used; says where and how to repair it."""


def read(
    config: Mapping[str, Any], params: Mapping[str, Any] | None = None, *, units_per_second: float = UNITS_PER_SECOND
) -> Settings:
    """The settings of a configuration file and of flags (in the names of the snapshot's schedulerParams).

    ``units_per_second`` turns configured durations of searches into units of work. Raises BadConfiguration.
    """
    config, params = _map(config, "the configuration"), _map(params, "schedulerParams")
    actions = tuple(a.strip() for a in str(config.get("actions") or "").split(",") if a.strip()) or ACTIONS
    for action in actions:
        if action not in ACTIONS:
            raise BadConfiguration(f"actions: {action!r} is no action; known are {', '.join(ACTIONS)}")
    found: dict[str, Mapping[str, Any]] = {}
    for i, tier in enumerate(_list(config, "tiers")):
        for j, plugin in enumerate(_list(tier, f"tiers[{i}].plugins", "plugins")):
            name = plugin.get("name")
            if not isinstance(name, str):
                raise BadConfiguration(f"tiers[{i}].plugins[{j}].name: give the plugin's name")
            found[name] = _map(plugin.get("arguments"), f"tiers[{i}].plugins[{j}].arguments")
    arguments = found or {name: {} for name in PLUGINS}
    placement, proportion = arguments.get("nodeplacement", {}), arguments.get("proportion", {})
    runtime, numa = arguments.get("minruntime", {}), arguments.get("numa", {})
    partition = _map(params.get("partitionParams"), "schedulerParams.partitionParams")
    depths = _map(config.get("queueDepthPerAction"), "queueDepthPerAction")
    depth = {str(k): int(_count(v, f"queueDepthPerAction.{k}")) for k, v in depths.items()}
    compatibility = _compatibility(config.get("compatibility", params.get("compatibility")))
    old = compatibility == KAI_0_17
    part, most = (0.0, 0) if old else (Settings.evictions_per_owner, Settings.evictions_per_cycle)
    most = config.get("evictionsPerCycle", most)
    return Settings(
        actions=actions,
        plugins=tuple(arguments),
        spread_gpu=placement.get("gpu") == "spread",
        spread_cpu=placement.get("cpu") == "spread",
        saturation=max(1.0, _number(proportion.get("relcaimerSaturationMultiplier"), 1.0)),
        k_value=max(0.0, _number(proportion.get("kValue"), 1.0)),
        preempt_min_runtime=_seconds(runtime.get("defaultPreemptMinRuntime")),
        reclaim_min_runtime=_seconds(runtime.get("defaultReclaimMinRuntime")),
        reclaim_by_lca=runtime.get("reclaimResolveMethod") != "queue",
        numa_ignored=frozenset(r.strip() for r in str(numa.get("ignoreList") or "").split(",") if r.strip()),
        numa_reconstruct=str(numa.get("reconstructAvailable", "true")).lower() != "false",
        queue_depth={action: most for action, most in depth.items() if most > 0},
        budgets=_budgets(_map(config.get("scenarioSearchBudgets"), "scenarioSearchBudgets"), units_per_second),
        scheduler_name=str(params.get("schedulerName") or Settings.scheduler_name),
        queue_label=str(params.get("queueLabelKey") or Settings.queue_label),
        pool_label=str(partition.get("NodePoolLabelKey") or ""),
        pool=str(partition.get("NodePoolLabelValue") or ""),
        most_moved=int(_flag(params, "maxNumberConsolidationPreemptees", Settings.most_moved)),
        signatures=bool(params.get("useSchedulingSignatures", True)),
        full_hierarchy=bool(params.get("fullHierarchyFairness", True)),
        consolidating_reclaim=bool(params.get("allowConsolidatingReclaim", True)),
        staleness_grace=_flag(params, "globalDefaultStalenessGracePeriod", Settings.staleness_grace * NANO) / NANO,
        stuck_after=(_flag(params, "stuckInReleasingThreshold", 0.0) or Settings.stuck_after * NANO) / NANO,
        evictions_per_owner=_part(config.get("evictionsPerOwner"), "evictionsPerOwner", part),
        evictions_per_cycle=max(0, int(_count(most or 0, "evictionsPerCycle"))),
        evictions_per_minute=max(0, int(_count(config.get("evictionsPerMinute") or 0, "evictionsPerMinute"))),
        restrict_nodes=bool(params.get("restrictNodeScheduling", False)),
        csi_storage=bool(params.get("scheduleCSIStorage", False)),
        compatibility=compatibility,
    )


def _map(value: Any, path: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise BadConfiguration(f"{path}: write an object (key: value), not a {type(value).__name__}")
    return value or {}


def _compatibility(value: object) -> str:
    if value not in (None, "", KAI_0_17):
        raise BadConfiguration(
            f"compatibility: {str(value)[:64]!r} is not known; write {KAI_0_17!r} (in quotes), or leave it out"
        )
    return str(value or "")


def _count(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadConfiguration(f"{path}: {str(value)[:64]!r} is no number")
    return value


def _part(value: object, path: str, default: float) -> float:
    """A part as a percentage (``25%``) or a number from 0 to 1."""
    if value is None:
        return default
    text = str(value)
    found = _number(text.removesuffix("%"), math.nan) / (100.0 if text.endswith("%") else 1.0)
    if isinstance(value, bool) or not 0.0 <= found <= 1.0:
        raise BadConfiguration(f"{path}: {text[:64]!r} is no part: write a percentage such as 25%, or 0 for no bound")
    return found


def _flag(params: Mapping[str, Any], name: str, default: float) -> float:
    """A number of schedulerParams; durations are nanoseconds there."""
    value = params.get(name)
    return default if value is None else _count(value, f"schedulerParams.{name}")


def _list(config: Mapping[str, Any], path: str, key: str = "") -> list[Mapping[str, Any]]:
    found = config.get(key or path) or []
    if not isinstance(found, list) or not all(isinstance(x, Mapping) for x in found):
        raise BadConfiguration(f"{path}: write a list of objects")
    return found


def _number(value: object, default: float) -> float:
    try:
        found = float(str(value))
    except ValueError:
        return default
    return found if math.isfinite(found) else default


def _seconds(value: object) -> float:
    """A Go duration, or with d and w; nothing, nonsense and negative ones are 0."""
    if not value:
        return 0.0
    try:
        return max(0.0, duration(_LONG.sub(lambda m: f"{float(m[1]) * _HOURS[m[2]]:f}h", str(value)[:LIMIT])))
    except BadQuantity:
        return 0.0


def _budgets(config: Mapping[str, Any], rate: float) -> Budgets:
    def units(value: object, default: float, path: str) -> int:
        if value is None:
            return int(default * rate)
        try:
            seconds = duration(str(value))
        except BadQuantity as error:
            raise BadConfiguration(f"scenarioSearchBudgets.{path}: {error}") from error
        if seconds < 0:
            raise BadConfiguration(f"scenarioSearchBudgets.{path}: {value} is negative")
        return int(seconds * rate)

    per_action = _map(config.get("maxActionSearchDuration"), "scenarioSearchBudgets.maxActionSearchDuration")
    action = {name: units(value, 0, f"maxActionSearchDuration.{name}") for name, value in per_action.items()}
    action.setdefault("default", units(None, ACTION_SECONDS, ""))
    job = units(config.get("maxJobSearchDuration"), JOB_SECONDS, "maxJobSearchDuration")
    least = units(config.get("minJobSearchDuration"), 0.0, "minJobSearchDuration")
    if job and least >= job:
        raise BadConfiguration("scenarioSearchBudgets.minJobSearchDuration: it has to be shorter than maxJobSearchDuration")
    given = _map(config.get("maxGeneratorSearchDuration"), "scenarioSearchBudgets.maxGeneratorSearchDuration")
    for name in given:
        if name not in GENERATOR_SECONDS:
            raise BadConfiguration(f"scenarioSearchBudgets.maxGeneratorSearchDuration: {name!r} is no generator")
    default = given.get("default")
    generator = {
        name: units(given.get(name, default), seconds, f"maxGeneratorSearchDuration.{name}")
        for name, seconds in GENERATOR_SECONDS.items()
    }
    return Budgets(action, job, least, generator, *((0, 0) if config else (PATIENCE, FRUITLESS)))
