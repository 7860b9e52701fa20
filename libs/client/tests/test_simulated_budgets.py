"""PodDisruptionBudgets in files: with and without a status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from shoal_client.__main__ import main

FREE = {"quota": -1, "limit": -1, "overQuotaWeight": 1}


def queue(name: str, gpus: int, **more: str) -> dict:
    resources = {"gpu": {"quota": gpus, "limit": -1, "overQuotaWeight": 1}, "cpu": FREE, "memory": FREE}
    return {
        "apiVersion": "scheduling.run.ai/v2",
        "kind": "Queue",
        "metadata": {"name": name, **more},
        "spec": {"resources": resources},
    }


def pod(name: str, queue: str, running: bool, ready: str = "True", gpus: int = 1) -> dict:
    spec = {
        "schedulerName": "kai-scheduler",
        "containers": [{"name": "main", "resources": {"requests": {"nvidia.com/gpu": gpus}}}],
    }
    status: dict = {"phase": "Pending"}
    if running:
        spec["nodeName"] = "n"
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
    tags = {"app": "web" if running else "job", "kai.scheduler/queue": queue}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": tags}, "spec": spec, "status": status}


def budget(spec: dict, status: dict | None = None) -> dict:
    found = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }  # fmt: skip
    return found | ({"status": status} if status else {})


def evicted(tmp_path: Path, capsys: pytest.CaptureFixture[str], *objects: dict, more: tuple[str, ...] = ()) -> tuple[int, str]:
    """(pods that go in all cycles, what the last waiting group is told)."""
    status = {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "4"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": status}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([node, queue("mine", 4), queue("theirs", 0), *objects]))
    assert main(["simulate", str(tmp_path), "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    waiting = found["cycles"][-1]["waiting"]
    return sum(len(c["evicted"]) for c in found["cycles"]), waiting[-1]["message"] if waiting else ""


@pytest.mark.parametrize(
    ("spec", "ready", "goes"),
    [
        ({"minAvailable": 4}, 4, 0),
        ({"minAvailable": 3}, 4, 1),
        ({"minAvailable": "60%"}, 4, 1),
        ({"maxUnavailable": 0}, 4, 0),
        ({"maxUnavailable": 2}, 4, 2),
        ({"maxUnavailable": "30%"}, 4, 2),
        ({"maxUnavailable": 1}, 3, 1),
        ({"minAvailable": 0}, 4, 4),
        ({}, 4, 0),
        ({"minAvailable": "many"}, 4, 0),
        ({"minAvailable": 3, "unhealthyPodEvictionPolicy": "AlwaysAllow"}, 2, 2),
        ({"selector": None, "minAvailable": 4}, 4, 4),
        # It means the four that wait as well.
        ({"selector": {}, "minAvailable": 3}, 4, 1),
        ({"selector": {}, "maxUnavailable": 4}, 4, 0),
    ],
)
def test_without_a_status_the_spec_and_the_pods_decide(
    spec: dict, ready: int, goes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = [pod(f"r{i}", "theirs", True, "True" if i < ready else "False") for i in range(4)]
    waiting = [pod(f"w{i}", "mine", False) for i in range(4)]
    count, message = evicted(tmp_path, capsys, *running, *waiting, budget(spec))
    assert count == goes
    assert ("PodDisruptionBudget default/web" in message) == (goes < 4)


def test_a_status_in_the_file_is_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = [pod(f"r{i}", "theirs", True) for i in range(4)]
    status = {"disruptionsAllowed": 2, "currentHealthy": 6, "desiredHealthy": 4, "expectedPods": 6}
    given = budget({"minAvailable": 4}, status)
    assert evicted(tmp_path, capsys, *running, pod("w", "mine", False, gpus=2), given)[0] == 2
    # A status of an older spec is not.
    given["metadata"]["generation"], status["observedGeneration"] = 2, 1
    assert evicted(tmp_path, capsys, *running, pod("w", "mine", False, gpus=2), given)[0] == 0


def test_from_cycle_to_cycle_the_budget_knows_what_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = [pod(f"r{i}", "theirs", True) for i in range(4)]
    waiting = [pod(f"w{i}", "mine", False) for i in range(4)]
    for given in (
        budget({"minAvailable": 2}),
        budget({"minAvailable": 2}, {"disruptionsAllowed": 2, "currentHealthy": 4, "desiredHealthy": 2, "expectedPods": 4}),
    ):
        count, message = evicted(tmp_path, capsys, *running, *waiting, given, more=("--until-stable",))
        assert count == 2
        assert "PodDisruptionBudget default/web allowed 1 more" in message


def test_a_queue_that_ignores_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = queue("rude", 0)
    other["metadata"]["annotations"] = {"shoal.dev/ignore-budgets": "true"}
    running = [pod(f"r{i}", "rude", True) for i in range(4)]
    assert evicted(tmp_path, capsys, other, *running, pod("w", "mine", False), budget({"maxUnavailable": 0}))[0] == 1
