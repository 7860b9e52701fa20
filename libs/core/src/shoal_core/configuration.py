"""Reads the reference's scheduler configuration (actions, plugins, depths, budgets) and flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal_core.settings import ACTIONS, MULTI_NODE_GANG, NODE_LOCAL_GREEDY, PLUGINS, Budgets, Settings
from shoal_model.quantity import BadQuantity, duration

UNITS_PER_SECOND = 1_000.0
"""What the reference simulates in a second, about: searches are bounded as its own are."""
ACTION_SECONDS, JOB_SECONDS = 300.0, 240.0
PATIENCE = 1_000
"""What one probe may cost without a result where nothing is configured; about a second of the reference."""
GENERATOR_SECONDS = {NODE_LOCAL_GREEDY: 30.0, MULTI_NODE_GANG: 120.0, "default": 120.0}
NANO = 1e9


class BadConfiguration(ValueError):
    """The configuration can't be used; says where and how to repair it."""


def read(
    config: Mapping[str, Any], params: Mapping[str, Any] | None = None, *, units_per_second: float = UNITS_PER_SECOND
) -> Settings:
    """The settings of a configuration file and of flags (in the names of the snapshot's schedulerParams).

    ``units_per_second`` turns configured durations of searches into units of work. Raises BadConfiguration.
    """
    params = params or {}
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
            found[name] = plugin.get("arguments") or {}
    arguments = found or {name: {} for name in PLUGINS}
    placement, proportion = arguments.get("nodeplacement", {}), arguments.get("proportion", {})
    runtime, numa = arguments.get("minruntime", {}), arguments.get("numa", {})
    partition = params.get("partitionParams") or {}
    grace = params.get("globalDefaultStalenessGracePeriod")
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
        queue_depth={str(k): int(v) for k, v in (config.get("queueDepthPerAction") or {}).items() if int(v) > 0},
        budgets=_budgets(config.get("scenarioSearchBudgets") or {}, units_per_second),
        scheduler_name=params.get("schedulerName") or Settings.scheduler_name,
        queue_label=params.get("queueLabelKey") or Settings.queue_label,
        pool_label=partition.get("NodePoolLabelKey") or "",
        pool=partition.get("NodePoolLabelValue") or "",
        most_moved=int(params.get("maxNumberConsolidationPreemptees", Settings.most_moved)),
        signatures=bool(params.get("useSchedulingSignatures", True)),
        full_hierarchy=bool(params.get("fullHierarchyFairness", True)),
        consolidating_reclaim=bool(params.get("allowConsolidatingReclaim", True)),
        staleness_grace=float(grace) / NANO if grace is not None else Settings.staleness_grace,
        stuck_after=float(params.get("stuckInReleasingThreshold") or Settings.stuck_after * NANO) / NANO,
        restrict_nodes=bool(params.get("restrictNodeScheduling", False)),
    )


def _list(config: Mapping[str, Any], path: str, key: str = "") -> list[Mapping[str, Any]]:
    found = config.get(key or path) or []
    if not isinstance(found, list) or not all(isinstance(x, Mapping) for x in found):
        raise BadConfiguration(f"{path}: write a list of objects")
    return found


def _number(value: object, default: float) -> float:
    try:
        return float(str(value))
    except ValueError:
        return default


def _seconds(value: object) -> float:
    """A Go duration, or with d and w; nothing, nonsense and negative ones are 0."""
    if not value:
        return 0.0
    try:
        return max(0.0, duration(str(value)))
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

    per_action = config.get("maxActionSearchDuration") or {}
    action = {name: units(value, 0, f"maxActionSearchDuration.{name}") for name, value in per_action.items()}
    action.setdefault("default", units(None, ACTION_SECONDS, ""))
    job = units(config.get("maxJobSearchDuration"), JOB_SECONDS, "maxJobSearchDuration")
    least = units(config.get("minJobSearchDuration"), 0.0, "minJobSearchDuration")
    if job and least >= job:
        raise BadConfiguration("scenarioSearchBudgets.minJobSearchDuration: it has to be shorter than maxJobSearchDuration")
    given = config.get("maxGeneratorSearchDuration") or {}
    for name in given:
        if name not in GENERATOR_SECONDS:
            raise BadConfiguration(f"scenarioSearchBudgets.maxGeneratorSearchDuration: {name!r} is no generator")
    default = given.get("default")
    generator = {
        name: units(given.get(name, default), seconds, f"maxGeneratorSearchDuration.{name}")
        for name, seconds in GENERATOR_SECONDS.items()
    }
    return Budgets(action, job, least, generator, 0 if config else PATIENCE)
