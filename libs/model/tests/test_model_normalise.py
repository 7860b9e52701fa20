"""Objects to records: what is counted, what is told of bad input, and the reference's own objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.state import GroupRecord, NamespaceRecord, PodRecord, QueueRecord, Selector
from shoal_model import normalise
from shoal_model.membership import Membership

SCENARIOS = Path(__file__).resolve().parents[4] / "shared" / "conformance" / "scenarios"


def pod(**more: Any) -> dict[str, Any]:
    spec = {
        "schedulerName": "kai-scheduler",
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": "1"}}}],
    }
    return {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", **more.pop("metadata", {})},
        "spec": {**spec, **more.pop("spec", {})},
        "status": more.pop("status", {}),
    }


def pod_of(**more: Any) -> PodRecord:
    found = normalise.from_dict(pod(**more))
    assert isinstance(found, PodRecord)
    return found


def test_the_container_is_named_that_may_get_devices_for_extended_resources() -> None:
    assert pod_of().container == "a"
    plain = {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}
    assert pod_of(spec=plain).container == ""
    two = {"containers": [{"name": n, "resources": {"requests": {"nvidia.com/gpu": "1"}}} for n in "ab"]}
    found = pod_of(spec=two)
    assert (found.container, [c.name for c in found.container_requests]) == ("", ["a", "b"])


def test_requests_count_containers_sidecars_init_and_overhead() -> None:
    def container(cpu: str, **more: str) -> dict[str, Any]:
        return {"name": f"c{cpu}", "resources": {"requests": {"cpu": cpu}}, **more}

    found = pod_of(
        spec={
            "containers": [container("1"), container("2")],
            "initContainers": [container("4"), container("500m", restartPolicy="Always"), container("3800m")],
            "overhead": {"cpu": "100m"},
        }
    )
    # Running: 1 + 2 + 0.5. Starting: 4, then 3.8 beside the sidecar: 4.3. Overhead comes on top.
    assert found.requests == {"cpu": 4400.0}


def test_group_subgroup_and_condition() -> None:
    found = pod_of(
        metadata={"annotations": {"pod-group-name": "g", "other": "x"}, "labels": {"kai.scheduler/subgroup-name": "s"}},
        status={
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            ]
        },
    )
    assert (found.group, found.subgroup, found.condition_message, found.scheduled) == ("g", "s", "why", False)
    assert "other" not in found.annotations


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ({"gpu-fraction": "abc"}, "gpu-fraction is 'abc': write a number between 0 and 1"),
        ({"gpu-fraction": "1.5"}, "between 0 and 1"),
        ({"gpu-fraction": "-1"}, "between 0 and 1"),
        ({"gpu-fraction": "0.5", "gpu-memory": "100"}, "exclude each other"),
        ({"gpu-memory": "0"}, "positive number of MiB"),
        ({"gpu-memory": "²"}, "positive number of MiB"),
        ({"gpu-fraction": "0.5", "gpu-fraction-num-devices": "0"}, "from 1 to"),
        ({"gpu-fraction-num-devices": "2"}, "needs gpu-fraction"),
        ({"gpu-fraction": "500m"}, "between 0 and 1"),
        ({"gpu-fraction": " 0.5"}, "between 0 and 1"),
        ({"gpu-fraction": "NaN"}, "between 0 and 1"),
        ({"gpu-memory": "1" * 13}, "positive number of MiB"),
        ({"mps": "true"}, "is for shared GPUs"),
        ({"gpu-fraction": "0.5", "gpu-fraction-container-name": "b"}, "no container of that name; it has a"),
        ({"gpu-fraction": "0.5", "runai/shared-gpu-configmap": "../x"}, "no ConfigMap can have that name"),
    ],
)
def test_a_malformed_annotation_is_told(notes: dict[str, str], told: str) -> None:
    found = pod_of(metadata={"annotations": notes}, spec={"containers": [{"name": "a"}]})
    assert told in found.error
    assert found.share is None


def test_a_share_beside_whole_gpus_is_told() -> None:
    assert "whole GPUs" in pod_of(metadata={"annotations": {"gpu-fraction": "0.5"}}).error


def test_a_bad_quantity_is_told_with_its_place() -> None:
    found = pod_of(spec={"containers": [{"name": "a", "resources": {"requests": {"cpu": "-2"}}}]})
    assert found.error == "spec.containers[0].resources.requests.cpu: -2 is negative"


def test_a_heartbeat_of_a_node_is_no_news() -> None:
    node = {"kind": "Node", "metadata": {"name": "n", "resourceVersion": "1"}, "status": {"allocatable": {"cpu": "4"}}}
    again = json.loads(json.dumps(node))
    again["metadata"]["resourceVersion"] = "2"
    assert normalise.from_dict(node) == normalise.from_dict(again)


def test_a_queue_without_resources_is_told() -> None:
    found = normalise.from_dict({"kind": "Queue", "metadata": {"name": "q"}, "spec": {}})
    assert isinstance(found, QueueRecord)
    assert "spec.resources: missing" in found.error


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"minMember": -1}, "negative"),
        ({"minMember": 1, "minSubGroup": 1}, "mutually exclusive"),
        ({"subGroups": [{"name": "a"}, {"name": "a"}]}, "duplicate subgroup name"),
        ({"subGroups": [{"name": "a", "parent": "b"}]}, "was not found among the subgroups"),
        ({"subGroups": [{"name": "a", "parent": "b"}, {"name": "b", "parent": "a"}]}, "its own ancestor"),
        ({"preemptionDelay": "soon"}, "spec.preemptionDelay: not a duration"),
    ],
)
def test_an_impossible_group_is_told(spec: dict[str, Any], told: str) -> None:
    found = normalise.from_dict({"kind": "PodGroup", "metadata": {"name": "g", "namespace": "n"}, "spec": spec})
    assert isinstance(found, GroupRecord)
    assert told in found.error


@given(
    st.dictionaries(
        st.sampled_from(["gpu-fraction", "gpu-memory", "gpu-fraction-num-devices", "pod-group-name"]),
        st.text(max_size=80),
        max_size=4,
    ),
    st.text(max_size=20),
)
def test_hostile_text_never_raises(notes: dict[str, str], cpu: str) -> None:
    found = pod_of(
        metadata={"annotations": notes}, spec={"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}
    )
    assert msgspec.json.decode(msgspec.json.encode(found), type=PodRecord) == found


def test_the_objects_of_the_conformance_scenarios_are_sound() -> None:
    if not SCENARIOS.exists():
        pytest.skip("shared/conformance is not here")
    count = 0
    for path in sorted(SCENARIOS.rglob("*.json")):
        objects = json.loads(path.read_text())["objects"]
        for kind in ("pods", "nodes", "queues", "podGroups", "priorityClasses", "topologies"):
            for found in objects.get(kind, []):
                record = normalise.from_dict(found)
                assert getattr(record, "error", "") == "", path
                count += 1
    assert count > 3000


def test_membership_by_ownership_in_either_order() -> None:
    bare = PodRecord(namespace="ns", name="p", uid="u")
    group = normalise.from_dict(
        {
            "kind": "PodGroup",
            "metadata": {"name": "pg", "namespace": "ns", "ownerReferences": [{"kind": "Pod", "uid": "u", "name": "p"}]},
        }
    )
    assert isinstance(group, GroupRecord)
    first = Membership()
    assert first.pod(bare).group == ""
    later = first.group(group)
    assert later is not None
    assert later.group == "pg"
    second = Membership()
    assert second.group(group) is None
    assert second.pod(bare).group == "pg"
    second.group_gone("ns", "pg")
    assert second.pod(bare).group == ""


def test_claims_are_those_that_the_pod_names_and_those_that_are_made_for_it() -> None:
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "shared"}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        {"name": "settings", "configMap": {"name": "x"}},
    ]
    found = normalise.from_dict(pod(spec={"volumes": volumes}))
    assert isinstance(found, PodRecord)
    assert found.volumes == ["shared", "p-scratch"]


def test_spread_constraints_get_the_defaults_of_the_api() -> None:
    given = [
        {
            "topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"a": "b"}},
        },
        {
            "topologyKey": "host", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 3,
            "nodeAffinityPolicy": "Ignore", "nodeTaintsPolicy": "Honor", "matchLabelKeys": ["rev"], "labelSelector": {},
        },
    ]  # fmt: skip
    soft, hard = pod_of(spec={"topologySpreadConstraints": given}).spread
    assert (soft.max_skew, soft.min_domains, soft.node_affinity_policy, soft.node_taints_policy) == (2, 1, "Honor", "Ignore")
    assert soft.selector is not None
    assert [r.values for r in soft.selector.requirements] == [["b"]]
    assert (hard.min_domains, hard.node_affinity_policy, hard.node_taints_policy) == (3, "Ignore", "Honor")
    assert hard.selector == Selector()
    assert hard.match_label_keys == ["rev"]
    assert pod_of(spec={"topologySpreadConstraints": None}).spread == []


def test_a_namespace_has_its_name_as_a_label() -> None:
    bare = normalise.from_dict({"kind": "Namespace", "metadata": {"name": "a"}})
    assert bare == NamespaceRecord(name="a", labels={"kubernetes.io/metadata.name": "a"})
    labelled = normalise.from_dict({"kind": "Namespace", "metadata": {"name": "a", "labels": {"team": "db"}}})
    assert labelled == NamespaceRecord(name="a", labels={"kubernetes.io/metadata.name": "a", "team": "db"})


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"tolerations": [{"key": "sla", "operator": "Gt", "value": "900", "effect": "NoSchedule"}]},
            "operator Gt of key 'sla'",
        ),
        ({"schedulingGroup": {"podGroupName": "g"}}, "spec.schedulingGroup"),
        ({"workloadRef": {"name": "w"}}, "spec.workloadRef"),
        ({"volumes": [{"name": "d", "iscsi": {"iqn": "x"}}]}, "spec.volumes 'd'"),
        ({"volumes": [{"name": "d", "gcePersistentDisk": {"pdName": "x"}}]}, "spec.volumes 'd'"),
    ],
)
def test_fields_that_are_not_honoured_are_named(spec: dict[str, Any], told: str) -> None:
    (text,) = pod_of(spec=spec).unheeded
    assert told in text


def test_fields_that_are_honoured_are_not() -> None:
    spec = {
        "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "emptyDir": {}}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}],
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    assert pod_of(spec=spec).unheeded == []
