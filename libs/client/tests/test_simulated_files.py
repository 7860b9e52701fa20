"""What a file holds beside sound objects: kinds of other groups, broken documents, lists in lists, pods without a group."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal_client.__main__ import main

CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {allocatable: {cpu: "8", memory: 64Gi, nvidia.com/gpu: "4", pods: "110"}}
---
apiVersion: scheduling.run.ai/v2
kind: Queue
metadata: {name: q}
spec: {resources: {gpu: {quota: -1, limit: -1}, cpu: {quota: -1, limit: -1}, memory: {quota: -1, limit: -1}}}
---
apiVersion: scheduling.run.ai/v2alpha2
kind: PodGroup
metadata: {name: g}
spec: {queue: q, minMember: 1}
"""
POD = """
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {kai.scheduler/queue: q}, annotations: {pod-group-name: g}}
spec: {schedulerName: kai-scheduler, containers: [{name: main, resources: {requests: {nvidia.com/gpu: 1}}}]}
"""
STRANGERS = {
    "the PodGroup of Kubernetes": "{apiVersion: scheduling.k8s.io/v1alpha2, kind: PodGroup, metadata: {name: g}}",
    "the PodGroup of Volcano": "{apiVersion: scheduling.volcano.sh/v1beta1, kind: PodGroup, metadata: {name: g}}",
    "the Queue of Volcano": "{apiVersion: scheduling.volcano.sh/v1beta1, kind: Queue, metadata: {name: q}}",
    "a Node of another group": "{apiVersion: example.com/v1, kind: Node, metadata: {name: n1}}",
}
BROKEN = {
    "not closed": "a: [b",
    "two colons": "a: {b: c: d}",
    "a tab": "a:\n\tb: 1",
}


def run(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> dict:
    (path / "a.yaml").write_text(text)
    assert main(["simulate", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def started(found: dict) -> list[str]:
    return [p["pod"] for g in found["cycles"][0]["starts"] for p in g["pods"]]


@pytest.mark.parametrize("other", STRANGERS)
def test_kinds_of_other_groups_are_not_taken_for_ours(other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert started(run(tmp_path, f"{CLUSTER}---\n{STRANGERS[other]}{POD}", capsys)) == ["a"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_document_does_not_take_the_others_with_it(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, f"{CLUSTER}---\n{BROKEN[broken]}{POD}", capsys)
    assert started(found) == ["a"]
    assert len(found["problems"]) == 1


def test_lists_in_lists_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: b, annotations: {pod-group-name: g}}, "
    pod += "spec: {schedulerName: kai-scheduler, containers: [{name: main}]}}"
    inner = f"{{apiVersion: v1, kind: List, items: [{pod}]}}"
    assert started(run(tmp_path, f"{CLUSTER}---\napiVersion: v1\nkind: List\nitems: [{inner}]", capsys)) == ["b"]


@pytest.mark.parametrize("phase", ["", "Pending"])
def test_a_pod_without_a_phase_waits(phase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert started(run(tmp_path, f"{CLUSTER}{POD}status: {{phase: '{phase}'}}", capsys)) == ["a"]


def test_a_pod_that_cannot_be_grouped_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = """
---
apiVersion: batch/v1
kind: Job
metadata: {name: j, labels: {kai.scheduler/queue: q}, annotations: {kai.scheduler/batch-min-member: four}}
spec: {template: {spec: {schedulerName: kai-scheduler, containers: [{name: main}]}}}
"""
    (problem,) = run(tmp_path, CLUSTER + job, capsys)["problems"]
    assert "Pod default/j-0 waits" in problem
    assert "four" in problem
    skipped = POD.replace("pod-group-name: g", 'kai.scheduler/skip-podgrouper: "true"')
    (problem,) = run(tmp_path, CLUSTER + skipped, capsys)["problems"]
    assert "Pod default/a waits" in problem


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("minSubGroup: 1, subGroups: [{name: x, minMember: 2}, {name: y, minMember: 1}]", "2 pods are needed, 1 exist"),
        ("subGroups: [{minMember: 1}, {name: x, minMember: 1}]", "a subgroup has no name"),
    ],
)
def test_why_a_subgroup_waits_is_true(spec: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CLUSTER.replace("minMember: 1", spec)
    for name in "xy":
        text += POD.replace("name: a", f"name: {name}").replace("queue: q}", f"queue: q, kai.scheduler/subgroup-name: {name}}}")
    assert all(words in w["message"] for w in run(tmp_path, text, capsys)["cycles"][0]["waiting"])
