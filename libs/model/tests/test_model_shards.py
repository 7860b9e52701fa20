"""A SchedulingShard's options: defaults, changes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_model import shards
from shoal_model.shards import BadShard, read


def plugins(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (tier,) = read(spec).policy["tiers"]
    return {p["name"]: p.get("arguments", {}) for p in tier["plugins"]}


def test_nothing_said() -> None:
    found = read({})
    assert (found.partition, found.flags, found.ignored) == ("", {}, [])
    assert found.policy["actions"] == "allocate, consolidation, reclaim, preempt, stalegangeviction"
    assert list(plugins({})) == [p for p in shards.PLUGINS if p != "gpuspread"]
    assert plugins({})["nodeplacement"] == {"gpu": "binpack", "cpu": "binpack"}


def test_spreading_turns_consolidation_off_unless_it_is_asked_for() -> None:
    spread = {"placementStrategy": {"gpu": "spread"}}
    assert "consolidation" not in read(spread).policy["actions"]
    assert {"gpupack", "gpusharingorder"}.isdisjoint(plugins(spread))
    assert "gpuspread" in plugins(spread)
    assert plugins(spread)["nodeplacement"] == {"gpu": "spread", "cpu": "binpack"}
    asked = spread | {"actions": {"consolidation": {"enabled": True, "priority": 900}}}
    assert read(asked).policy["actions"].startswith("consolidation, allocate")


def test_options_become_arguments() -> None:
    found = plugins({
        "kValue": 0.5, "minRuntime": {"preemptMinRuntime": "5m", "reclaimMinRuntime": "1h"},
        "plugins": {"elastic": {"enabled": False}, "numa": {"arguments": {"ignoreList": "x"}}, "ray": {"priority": 5000}},
    })  # fmt: skip
    assert found["proportion"] == {"kValue": "0.5"}
    assert found["minruntime"] == {"defaultPreemptMinRuntime": "5m", "defaultReclaimMinRuntime": "1h"}
    assert "elastic" not in found
    assert next(iter(found)) == "ray"
    assert list(found)[-1] == "numa"
    assert found["numa"] == {"ignoreList": "x"}


def test_arguments_replace_those_of_an_option() -> None:
    assert plugins({"kValue": 2, "plugins": {"proportion": {"arguments": {"other": "1"}}}})["proportion"] == {"other": "1"}


def test_flags() -> None:
    found = read({"args": {
        "max-consolidation-preemptees": "3", "use-scheduling-signatures": "false", "default-staleness-grace-period": "90s",
        "schedule-period": "5s",
    }})  # fmt: skip
    assert found.flags == {
        "maxNumberConsolidationPreemptees": 3, "useSchedulingSignatures": False,
        "globalDefaultStalenessGracePeriod": 90 * 10**9,
    }  # fmt: skip
    assert [i.split(":")[0] for i in found.ignored] == ["spec.args.schedule-period"]


def test_what_has_no_meaning_is_told() -> None:
    spec = {"goMemLimitRatio": 0.9, "usageDBConfig": {"clientType": "prometheus"}}
    assert [i.split(":")[0] for i in read(spec).ignored] == ["spec.goMemLimitRatio", "spec.usageDBConfig"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"placementStrategy": {"gpu": "pack"}}, "placementStrategy.gpu: 'pack'"),
        ({"actions": {"alocate": {}}}, "spec.actions.alocate"),
        ({"actions": {a: {"enabled": False} for a in shards.ACTIONS}}, "at least one"),
        ({"queueDepthPerAction": {"borrow": 1}}, "queueDepthPerAction.borrow"),
        ({"actions": {"reclaim": {"enabled": False}}, "queueDepthPerAction": {"reclaim": 1}}, "queueDepthPerAction.reclaim"),
        ({"scenarioSearchBudgets": {"maxActionSearchDuration": {"allocate": "1m"}}}, "maxActionSearchDuration.allocate"),
        ({"scenarioSearchBudgets": {"maxJobSearchDuration": "-1s"}}, "negative"),
        ({"scenarioSearchBudgets": {"maxJobSearchDuration": "soon"}}, "maxJobSearchDuration"),
        ({"scenarioSearchBudgets": {"minJobSearchDuration": "5m"}}, "shorter than maxJobSearchDuration"),
        ({"args": {"use-scheduling-signatures": "yes"}}, "neither true nor false"),
        ({"args": {"max-consolidation-preemptees": "many"}}, "no whole number"),
        ({"args": {"compatibility": "0.16"}}, "spec.args.compatibility: '0.16' is not known"),
    ],
)
def test_it_is_refused_with_its_name(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(BadShard, match=told):
        read(spec)


def test_a_shard_can_keep_what_an_earlier_release_of_kai_decides() -> None:
    assert read({"args": {"compatibility": "0.17"}}).flags == {"compatibility": "0.17"}
    assert read({}).flags == {}
