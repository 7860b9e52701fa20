"""shoal simulate on YAML and snapshots, good and bad."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from shoal_client.__main__ import main

CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {nvidia.com/gpu.count: "2", nvidia.com/gpu.memory: "81920"}}
status: {allocatable: {cpu: "8", memory: 64Gi, nvidia.com/gpu: "2", pods: "110"}}
---
apiVersion: scheduling.run.ai/v2
kind: Queue
metadata: {name: team}
spec:
  resources:
    gpu: {quota: 2, limit: -1, overQuotaWeight: 1}
    cpu: {quota: -1, limit: -1, overQuotaWeight: 1}
    memory: {quota: -1, limit: -1, overQuotaWeight: 1}
"""
POD = """
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {kai.scheduler/queue: team}, annotations: {%s}}
spec:
  schedulerName: kai-scheduler
  containers: [{name: main, resources: {requests: {%s}}}]
status: {phase: Pending}
"""


def run(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    assert main(["simulate", str(path), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_of_yaml_is_grouped_and_scheduled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(CLUSTER)
    (tmp_path / "b.yaml").write_text(
        POD % ("whole", "", 'nvidia.com/gpu: "1"')
        + POD % ("half", 'gpu-fraction: "0.5"', 'cpu: "1"')
        + POD % ("big", "", 'nvidia.com/gpu: "4"')
    )
    found = run(tmp_path, capsys)
    (cycle,) = found["cycles"]
    assert {p["pod"]: p["node"] for g in cycle["starts"] for p in g["pods"]} == {"whole": "n1", "half": "n1"}
    half = next(p for g in cycle["starts"] for p in g["pods"] if p["pod"] == "half")
    assert half["portion"] == 0.5
    assert len(half["gpu_groups"]) == 1
    (waiting,) = cycle["waiting"]
    assert "GPUs" in waiting["message"]
    assert main(["simulate", str(tmp_path)]) == 0
    assert "starts (2)" in capsys.readouterr().out


DEVICES = """
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {allocatable: {cpu: "8", memory: 64Gi, pods: "110"}}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu.example.com}
spec: {extendedResourceName: nvidia.com/gpu}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: n2-gpu}
spec:
  driver: gpu.example.com
  nodeName: n2
  pool: {name: n2, generation: 1, resourceSliceCount: 1}
  devices: [{name: d0}, {name: d1}, {name: d2}]
"""


def test_extended_resources_get_devices_where_a_node_does_not_list_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(
        CLUSTER + DEVICES + POD % ("three", "", 'nvidia.com/gpu: "3"') + POD % ("two", "", 'nvidia.com/gpu: "2"')
    )
    found = run(tmp_path, capsys, "--until-stable")
    assert found["stable"]
    pods = {p["pod"]: p for g in found["cycles"][0]["starts"] for p in g["pods"]}
    assert {name: p["node"] for name, p in pods.items()} == {"three": "n2", "two": "n1"}
    assert pods["two"]["extended"] is None
    chosen = pods["three"]["extended"]
    assert [r["device"] for r in chosen["allocation"]["devices"]["results"]] == ["d0", "d1", "d2"]
    name = chosen["deviceRequests"][0]["name"]
    assert chosen["containerMappings"] == [{"containerName": "main", "requestName": name, "resourceName": "nvidia.com/gpu"}]


def test_until_stable_moves_the_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(CLUSTER + POD % ("one", "", 'nvidia.com/gpu: "1"'))
    found = run(tmp_path, capsys, "--until-stable")
    assert found["stable"]
    assert len(found["cycles"]) == 2


def test_a_snapshot_and_its_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.zip"
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "pods": "9"}}}
    bad = {"metadata": {"name": "b"}, "spec": {"containers": "none"}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("snapshot.json", json.dumps({"config": {}, "rawObjects": {"nodes": [node], "pods": [bad]}}))
    found = run(path, capsys)
    assert "Pod b was left out" in found["problems"][0]
    config = tmp_path / "c.yaml"
    config.write_text("actions: dance")
    assert main(["simulate", str(path), "--config", str(config)]) == 2
    assert "'dance' is no action" in capsys.readouterr().err


WORKLOADS = """
apiVersion: batch/v1
kind: Job
metadata: {name: train, labels: {kai.scheduler/queue: team}}
spec:
  parallelism: 2
  template:
    spec:
      schedulerName: kai-scheduler
      containers: [{name: main, resources: {limits: {nvidia.com/gpu: "1"}}}]
---
apiVersion: apps/v1
kind: ReplicaSet
metadata:
  name: web-1
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: w}]
spec:
  replicas: 1
  template:
    metadata: {labels: {kai.scheduler/queue: team}}
    spec: {schedulerName: kai-scheduler, containers: [{name: main, resources: {requests: {cpu: "1"}}}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: odd}
spec: {replicas: -1, template: {spec: {containers: []}}}
---
only text
"""


def test_workloads_get_the_pods_that_their_controllers_would_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(CLUSTER)
    (tmp_path / "w.yaml").write_text(WORKLOADS)
    found = run(tmp_path, capsys)
    (cycle,) = found["cycles"]
    assert {p["pod"] for g in cycle["starts"] for p in g["pods"]} == {"train-0", "train-1", "web-1-0"}
    (team,) = cycle["queues"]
    assert team["allocated"][2] == 2, "a limit without a request is a request"
    told = " ".join(found["problems"])
    assert "a str was left out" in told
    assert "Deployment odd was left out: spec.replicas is -1" in told


def test_numbers_that_no_machine_has_are_told_on_the_pod(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pods = POD % ("huge", "", 'cpu: "1e400"') + POD % ("less", "", 'nvidia.com/gpu: "-3"') + POD % ("fine", "", 'cpu: "1"')
    (tmp_path / "a.yaml").write_text(CLUSTER + pods)
    (cycle,) = run(tmp_path, capsys)["cycles"]
    assert [p["pod"] for g in cycle["starts"] for p in g["pods"]] == ["fine"]
    told = {w["group"]: w["message"] for w in cycle["waiting"]}
    assert "1e400" in next(text for group, text in told.items() if "huge" in group)


@pytest.mark.parametrize("packed", ["gzip", "zip"])
def test_a_snapshot_is_known_by_its_content(packed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "pods": "9"}}}
    text = json.dumps({"config": {}, "rawObjects": {"nodes": [node], "podGroups": 3}})
    path = tmp_path / "snapshot.gzip"
    if packed == "gzip":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("snapshot.json", text)
    assert "podGroups was left out" in run(path, capsys)["problems"][0]
    path.write_bytes(b"\x1f\x8b broken")
    assert main(["simulate", str(path)]) == 2


@pytest.mark.parametrize(
    ("name", "text", "told"), [("x.zip", "no zip", "no snapshot"), ("x.yaml", "a: [", "no object"), ("x.json", "{", "x.json")]
)
def test_what_can_not_be_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["simulate", str(tmp_path / name)]) == 2
    assert told in capsys.readouterr().err
    assert main(["simulate", str(tmp_path / "missing")]) == 2


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(Path(__file__).parents[3] / "examples" / "simulate", capsys)
    (cycle,) = found["cycles"]
    assert {p["pod"]: p["node"] for g in cycle["starts"] for p in g["pods"]} == {"notebook": "gpu-1", "prepare": "cpu-1"}
    assert [(w["code"], w["details"]["queue"]) for w in cycle["waiting"]] == [("OverLimit", "vision")]


NEAR = """
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: a, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: main}]}
status: {phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: b, labels: {kai.scheduler/queue: team}}
spec:
  schedulerName: kai-scheduler
  containers: [{name: main}]
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {app: db}}
        namespaceSelector: {matchLabels: {%s}}
status: {phase: Pending}
"""


@pytest.mark.parametrize(
    ("label", "starts"), [("team: db", True), ("team: web", False), ("kubernetes.io/metadata.name: a", True)]
)
@pytest.mark.parametrize("known", [True, False])
def test_namespaces_are_read_with_their_labels(
    label: str, starts: bool, known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {team: db}}\n" if known else ""
    host = CLUSTER.replace("labels: {", "labels: {kubernetes.io/hostname: n1, ")
    (tmp_path / "a.yaml").write_text(host + named + NEAR % label)
    found = run(tmp_path, capsys)
    pods = [p["pod"] for g in found["cycles"][0]["starts"] for p in g["pods"]]
    # A namespace that no file shows has its name and nothing else.
    assert pods == (["p"] if starts and (known or "name" in label) else [])


def starting(path: Path, capsys: pytest.CaptureFixture[str]) -> set[str]:
    (cycle,) = run(path, capsys)["cycles"]
    return {p["pod"] for g in cycle["starts"] for p in g["pods"]}


NULLS = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: null, annotations: null, creationTimestamp: null}
spec: {taints: null, unschedulable: null}
status: {allocatable: {cpu: 4, memory: 8Gi, example.com/x: null}, conditions: null}
---
apiVersion: scheduling.run.ai/v2
kind: Queue
metadata: {name: team}
spec: {parentQueue: null, priority: null, resources: {gpu: {quota: null, limit: -1}, cpu: {quota: -1, limit: -1}, memory: null}}
---
apiVersion: scheduling.run.ai/v2alpha2
kind: PodGroup
metadata: {name: pg, namespace: null}
spec: {queue: team, minMember: null, subGroups: null, topologyConstraint: null, priorityClassName: null}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {kai.scheduler/queue: team, odd: null}, annotations: {pod-group-name: pg, gpu-fraction: null}}
spec:
  schedulerName: kai-scheduler
  nodeName: null
  affinity: {nodeAffinity: null, podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: null}}
  tolerations: [null, {key: k, value: null, operator: Exists}]
  nodeSelector: null
  volumes: [{name: v, emptyDir: null, persistentVolumeClaim: null}]
  containers: [{name: m, image: null, resources: {requests: {cpu: 1, memory: null}, limits: null}, ports: null}]
status: null
"""


def test_a_null_is_a_field_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(NULLS)
    assert starting(tmp_path, capsys) == {"p"}
    import yaml

    items = list(yaml.safe_load_all(NULLS))
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.json").write_text(json.dumps({"kind": "List", "items": [*items, None]}))
    assert starting(tmp_path, capsys) == {"p"}


JOB = """
---
apiVersion: {api}
kind: {kind}
metadata: {{name: {name}{meta}, namespace: default, labels: {{kai.scheduler/queue: team}}}}
spec:
  {spec}
  template:
    metadata: {{labels: {{kai.scheduler/queue: team}}}}
    spec:
      schedulerName: kai-scheduler
      containers: [{{name: m, resources: {{requests: {{cpu: "1"}}}}}}]
status: {{{status}}}
"""


def workload(name: str, kind: str = "Job", spec: str = "parallelism: 1", status: str = "", meta: str = "") -> str:
    api = "batch/v1" if kind == "Job" else "apps/v1"
    return JOB.format(api=api, kind=kind, name=name, spec=spec, status=status, meta=meta)


def test_workloads_at_rest_have_no_pods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cron = """
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron, namespace: default, labels: {kai.scheduler/queue: team}}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec: {schedulerName: kai-scheduler, containers: [{name: m, resources: {requests: {cpu: "1"}}}]}
"""
    done = 'conditions: [{type: Complete, status: "True"}], succeeded: 1'
    (tmp_path / "a.yaml").write_text(
        CLUSTER
        + workload("awake", spec="suspend: false\n  parallelism: 2\n  completions: 3", status="succeeded: 2")
        + workload("asleep", spec="suspend: true\n  parallelism: 2")
        + workload("none", spec="parallelism: 0")
        + workload("done", status=done)
        + workload("failed", status='conditions: [{type: Failed, status: "True"}]')
        + workload("not-yet", status='conditions: [{type: Failed, status: "False"}, {type: Suspended, status: "False"}]')
        + workload("going", meta=", deletionTimestamp: '2026-01-01T00:00:00Z'")
        + workload("zero", "Deployment", "replicas: 0")
        + workload("paused", "Deployment", "replicas: 2\n  paused: true")
        + workload("set", "StatefulSet", "replicas: 1")
        + cron
    )
    assert starting(tmp_path, capsys) == {"awake-0", "not-yet-0", "set-0"}


def test_a_name_that_two_subgroups_have_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = """
---
apiVersion: scheduling.run.ai/v2alpha2
kind: PodGroup
metadata: {name: pg, namespace: default}
spec: {queue: team, subGroups: [{name: w, minMember: 1}, {name: x, minMember: 0}, {name: w, minMember: 1}]}
"""
    member = POD.replace("kai.scheduler/queue: team", "kai.scheduler/queue: team, kai.scheduler/subgroup-name: w")
    pods = member % ("w-0", "pod-group-name: pg", 'cpu: "1"') + POD % ("w-1", "pod-group-name: pg", 'cpu: "1"')
    (tmp_path / "a.yaml").write_text(CLUSTER + group + pods + POD % ("other", "", 'cpu: "1"'))
    (cycle,) = run(tmp_path, capsys)["cycles"]
    assert {p["pod"] for g in cycle["starts"] for p in g["pods"]} == {"other"}
    assert all("duplicate subgroup name w" in w["message"] for w in cycle["waiting"])
    assert {uid for w in cycle["waiting"] for uid in w["pods"]} == {"default/w-0", "default/w-1"}


GROUP = """
---
apiVersion: scheduling.run.ai/v2alpha2
kind: PodGroup
metadata: {name: %s, creationTimestamp: "2026-01-01T00:00:00Z"%s}
spec: {queue: team, minMember: %d%s}
"""
MEMBER = """
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {kai.scheduler/queue: team}, annotations: {pod-group-name: %s}}
spec: {schedulerName: kai-scheduler, %s containers: [{name: main, resources: {requests: {nvidia.com/gpu: "%d"}}}]}
status: {phase: %s}
"""
HIGH = """
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 75
"""
START = "2026-01-01T00:00:10Z"


def _until_stable(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> list[tuple[float, list[str], list[str]]]:
    """(seconds, pods that start, pods that go) of each cycle; the end is stable."""
    (tmp_path / "a.yaml").write_text(text)
    found = run(tmp_path, capsys, "--until-stable", "--now", START)
    assert found["stable"]
    return [
        (c["seconds"], [p["pod"] for s in c["starts"] for p in s["pods"]], [e["pod"] for e in c["evicted"]])
        for c in found["cycles"]
    ]


def test_until_stable_waits_out_a_grace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CLUSTER + GROUP % ("g", "", 2, "") + MEMBER % ("one", "g", "nodeName: n1,", 1, "Running")
    assert _until_stable(tmp_path, capsys, text) == [(60, [], ["one"]), (61, [], [])]


def test_until_stable_waits_out_a_preemption_delay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CLUSTER + HIGH + GROUP % ("old", "", 1, "") + MEMBER % ("old", "old", "nodeName: n1,", 2, "Running")
    text += GROUP % ("new", "", 1, ", priorityClassName: high, preemptionDelay: 5m")
    text += MEMBER % ("new", "new", "", 2, "Pending")
    assert _until_stable(tmp_path, capsys, text) == [(290, [], ["old"]), (291, ["new"], []), (292, [], [])]


def test_until_stable_waits_out_minimum_runtimes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CLUSTER.replace("spec:\n  resources", "spec:\n  preemptMinRuntime: 1h\n  resources")
    assert text != CLUSTER
    note = ', annotations: {kai.scheduler/last-start-timestamp: "2025-12-31T23:30:10Z"}'
    text += GROUP % ("old", note, 1, "") + MEMBER % ("old", "old", "nodeName: n1,", 1, "Running")
    text += GROUP % ("late", "", 1, "") + MEMBER % ("late", "late", "", 1, "Pending")
    text += HIGH + GROUP % ("new", "", 1, ", priorityClassName: high") + MEMBER % ("new", "new", "", 2, "Pending")
    got = _until_stable(tmp_path, capsys, text)
    # After half an hour the old one may go, but not the one that started in the first cycle.
    assert got[0] == (0, ["late"], [])
    assert got[1:] == [(3600, [], ["old", "late"]), (3601, ["new"], []), (7201, [], [])]
