"""Objects of a shard, who serves which pool, the Config object, conditions."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shoal_model import shards
from shoal_model.shards import BadShard
from shoal_shard_controller import kai_config, objects, partitions, status

SHARD = {"metadata": {"name": "blue", "uid": "u-1"}}
LABELS = {"app": "kai-scheduler-default", "app.kubernetes.io/instance": "shoal"}


def template() -> dict[str, Any]:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": LABELS}}
    anti = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}}
    volumes = [
        {"name": "config", "configMap": {"name": "shoal-scheduler"}},
        {"name": "shard", "configMap": {"name": "shoal-shard-default", "optional": True}},
    ]
    pod = {
        "metadata": {"labels": LABELS},
        "spec": {"affinity": anti, "volumes": volumes, "containers": [{"name": "scheduler"}]},
    }
    return {
        "metadata": {
            "name": "kai-scheduler-default", "namespace": "kai-scheduler", "uid": "theirs", "resourceVersion": "5",
            "labels": LABELS | {"helm.sh/chart": "shoal-1", "app.kubernetes.io/managed-by": "Helm"},
        },
        "spec": {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": pod},
        "status": {"replicas": 2},
    }  # fmt: skip


def test_a_deployment_like_the_default_one_that_reads_the_shards_settings() -> None:
    found = objects.deployment(SHARD, template(), "pool", "text", objects.Wishes())
    assert "kai-scheduler-default" not in yaml.safe_dump(found)
    metadata = found["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("kai-scheduler-blue", "kai-scheduler")
    assert metadata["ownerReferences"] == [objects.owner(SHARD)]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "shard-controller"
    assert partitions.served({"x": found}) == {"blue": "pool"}
    spec = found["spec"]
    assert spec["replicas"] == 2
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    volumes = {v["name"]: v["configMap"] for v in spec["template"]["spec"]["volumes"]}
    # Without its settings it would be a second default scheduler.
    assert volumes["shard"] == {"name": "shoal-shard-blue", "optional": False}
    assert volumes["config"] == {"name": "shoal-scheduler"}
    assert found.keys() == {"apiVersion", "kind", "metadata", "spec"}


def test_other_settings_are_other_pods() -> None:
    one, other = (objects.deployment(SHARD, template(), "p", text, objects.Wishes())["spec"]["template"] for text in "ab")
    assert one["metadata"]["annotations"] != other["metadata"]["annotations"]


def test_the_template_is_left_alone() -> None:
    given_template = template()
    objects.deployment(SHARD, given_template, "p", "text", objects.Wishes(5, {"limits": {}}, {"tolerations": [{}]}))
    assert given_template == template()


def test_a_template_without_place_for_settings_is_refused() -> None:
    old = template()
    del old["spec"]["template"]["spec"]["volumes"][1]
    with pytest.raises(BadShard, match="upgrade the release"):
        objects.deployment(SHARD, old, "p", "text", objects.Wishes())


def test_the_overlay_names_shard_and_pool() -> None:
    text = objects.overlay(
        "blue", shards.read({"partitionLabelValue": "b", "args": {"restrict-node-scheduling": "true"}}), "key"
    )
    found = yaml.safe_load(text)
    assert found["shard"] == "blue"
    pool = {"NodePoolLabelKey": "key", "NodePoolLabelValue": "b"}
    assert found["flags"] == {"restrictNodeScheduling": True, "partitionParams": pool}


@pytest.mark.parametrize("name", ["a.b", "A", "-a", "a" * 50, "a_b", "a\n"])
def test_names_that_can_not_be_deployments(name: str) -> None:
    with pytest.raises(BadShard, match=r"metadata\.name"):
        objects.check_name(name, "kai-scheduler")


NAMES = st.sampled_from(["default", "a", "b", "c"])
POOLS = st.sampled_from(["", "x", "y"])


@given(st.dictionaries(NAMES, st.tuples(POOLS, st.sampled_from(["1", "2"]))), st.dictionaries(NAMES, POOLS))
def test_no_pool_has_two_servers(wanted: dict[str, tuple[str, str]], served: dict[str, str]) -> None:
    refused = partitions.refused(wanted, served)
    takes = [wanted[n][0] for n in wanted if n not in refused]
    assert len(takes) == len(set(takes))
    assert all(n == "default" for n in wanted if n not in refused and not wanted[n][0])
    for name in wanted.keys() - refused.keys():
        others = {pool for n, pool in served.items() if n != name and (n in wanted or n == "default") and pool}
        clash = others & {wanted[name][0]}
        assert not clash or served.get(name) == wanted[name][0], "it takes no pool from one that serves it"
    for name, (pool, _) in wanted.items():
        alone = pool and all(p != pool for n, (p, _) in wanted.items() if n != name) and pool not in served.values()
        assert not (alone and name in refused), "nobody else wants it"


def test_the_config_object() -> None:
    installed = {
        "namespace": "kai-scheduler", "global.schedulerName": "kai-scheduler", "global.queueLabelKey": "q",
        "global.nodePoolLabelKey": "n",
    }  # fmt: skip
    spec = {
        "namespace": "kai-scheduler",
        "global": {"schedulerName": "mine", "replicaCount": 3, "nodeSelector": {"a": "b"}, "openshift": True},
        "scheduler": {"replicas": 2, "service": {"resources": {"limits": {"memory": "1Gi"}}, "enabled": False}, "GOGC": 400},
        "binder": {"replicas": 4}, "nodeScaleAdjuster": {"args": {}},
    }  # fmt: skip
    wishes, ignored = kai_config.read(spec, installed)
    assert wishes == objects.Wishes(2, {"limits": {"memory": "1Gi"}}, {"nodeSelector": {"a": "b"}})
    assert [i.split(":")[0] for i in ignored] == [
        "spec.binder.replicas", "spec.global.openshift", "spec.global.schedulerName", "spec.nodeScaleAdjuster.args",
        "spec.scheduler.GOGC", "spec.scheduler.service.enabled",
    ]  # fmt: skip
    assert kai_config.read({}, installed) == (objects.Wishes(pod={}), [])
    with pytest.raises(TypeError, match="global"):
        kai_config.read({"global": [1]}, installed)


def test_conditions_keep_the_time_at_which_they_turned() -> None:
    first = status.merged([], status.conditions(1, "", "", []), 0.0)
    assert first is not None
    assert {c["type"]: c["status"] for c in first} == {
        "Deployed": "True", "Available": "True", "Ready": "True", "Ignored": "False",
    }  # fmt: skip
    assert status.merged(first, status.conditions(1, "", "", []), 50.0) is None
    then = status.merged(first, status.conditions(2, "", "no pods", ["x: y"]), 50.0)
    assert then is not None
    turned = {c["type"] for c, was in zip(then, first, strict=True) if c["lastTransitionTime"] != was["lastTransitionTime"]}
    assert turned == {"Available", "Ready", "Ignored"}
    assert {c["message"] for c in then if c["type"] in ("Available", "Ready")} == {"no pods"}
