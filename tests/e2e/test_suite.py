"""The suite on a real API server and a real NATS: from ``kubectl apply`` to Running, and what is told of what can't be."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from shoal_contracts import subjects
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError, gather_limited
from shoal_testkit.history import History
from shoal_testkit.waiting import until

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT.parent / "shared" / "manifests" / "docs"
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"
LIMIT = 40.0


@pytest.fixture
async def space(api: Api) -> AsyncIterator[str]:
    """A namespace, and a queue of the same name."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    await api.post(QUEUES, workload.queue(name))
    yield name
    await api.delete(f"/api/v1/namespaces/{name}")
    for kind in ("pods",):
        await api.call("DELETE", f"/api/v1/namespaces/{name}/{kind}")
    await api.delete_queue(name)


def pods_path(space: str) -> str:
    return f"/api/v1/namespaces/{space}/pods"


async def running(api: Api, space: str, count: int) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]] | None:
        found = [
            p for p in await api.items(pods_path(space)) if p["status"]["phase"] == "Running" and p["spec"].get("nodeName")
        ]
        return found if len(found) >= count else None

    return await until(look, f"{count} running pods")


async def condition(api: Api, space: str, name: str) -> str:
    async def look() -> str | None:
        pod = await api.get(f"{pods_path(space)}/{name}")
        found = [c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False"]
        return found[0]["message"] if found else None

    return await until(look, f"a reason on pod {name}")


async def test_bare_pods_and_gangs_run_and_are_accounted_for(api: Api, space: str) -> None:
    for i in range(4):
        await api.post(pods_path(space), workload.pod(f"bare-{i}", space, queue=space))
    group, members = workload.gang("gang", space, queue=space, size=6)
    await api.post(f"{GROUPS}/namespaces/{space}/podgroups", group)
    for member in members:
        await api.post(pods_path(space), member)
    found = await running(api, space, 10)
    for pod in found:
        notes = pod["metadata"]["annotations"]
        assert notes["received-resource-type"] == "Regular"
        assert notes["pod-group-name"] == "gang" or notes["pod-group-name"].startswith("pg-bare-")

    async def look() -> bool:
        status = (await api.get(f"{QUEUES}/{space}")).get("status", {})
        gang = (await api.get(f"{GROUPS}/namespaces/{space}/podgroups/gang")).get("status", {}).get("resourcesStatus", {})
        return (
            status.get("allocated", {}).get("nvidia.com/gpu") == "10" and gang.get("allocated", {}).get("nvidia.com/gpu") == "6"
        )

    await until(look, "statuses of queue and group")


async def test_workloads_are_grouped_by_their_owner(api: Api, space: str) -> None:
    def template(**labels: str) -> dict[str, Any]:
        spec = workload.pod("x", space, queue=space)["spec"]
        return {"metadata": {"labels": {"app": "a", "kai.scheduler/queue": space, **labels}}, "spec": spec}

    selector = {"matchLabels": {"app": "a", "kind": "x"}}
    job = {"metadata": {"name": "job", "annotations": {"kai.scheduler/batch-min-member": "3"}}}
    job_spec = template()
    job_spec["spec"] = job_spec["spec"] | {"restartPolicy": "Never"}
    await api.post(
        f"/apis/batch/v1/namespaces/{space}/jobs", job | {"spec": {"parallelism": 3, "completions": 3, "template": job_spec}}
    )
    for kind, name in (("deployments", "dep"), ("statefulsets", "set"), ("replicasets", "rs")):
        labels = {"kind": name}
        spec = {"replicas": 2, "selector": {"matchLabels": selector["matchLabels"] | labels}, "template": template(**labels)}
        if kind == "statefulsets":
            spec |= {"serviceName": "s", "podManagementPolicy": "Parallel"}
        await api.post(f"/apis/apps/v1/namespaces/{space}/{kind}", {"metadata": {"name": name}, "spec": spec})
    found = await running(api, space, 9)
    groups = {p["metadata"]["name"]: p["metadata"]["annotations"]["pod-group-name"] for p in found}
    by_start = {start: {g for n, g in groups.items() if n.startswith(start)} for start in ("job-", "dep-", "set-", "rs-")}
    assert {k: len(v) for k, v in by_start.items()} == {"job-": 1, "dep-": 2, "set-": 1, "rs-": 1}
    job_group = await api.get(f"{GROUPS}/namespaces/{space}/podgroups/{by_start['job-'].pop()}")
    assert job_group["spec"]["minMember"] == 3
    assert job_group["metadata"]["ownerReferences"][0]["kind"] == "Job"


async def test_a_gang_without_room_waits_whole_and_says_why(api: Api, space: str) -> None:
    group, members = workload.gang("huge", space, queue=space, size=3, gpus=9)
    await api.post(f"{GROUPS}/namespaces/{space}/podgroups", group)
    for member in members:
        await api.post(pods_path(space), member)
    told = await condition(api, space, "huge-0")
    assert "node(s) didn't have enough resources: GPUs" in told

    async def look() -> Any:
        return (await api.get(f"{GROUPS}/namespaces/{space}/podgroups/huge")).get("status", {}).get("schedulingConditions")

    conditions = await until(look, "the group's condition")
    assert conditions[0]["type"] == "UnschedulableOnNodePool"
    assert conditions[0]["reasons"][0]["reason"] == "Unschedulable"
    assert not any(p["spec"].get("nodeName") for p in await api.items(pods_path(space)))


async def test_bad_input_is_told_on_the_object_and_disturbs_nothing_else(suite: Suite, api: Api, space: str) -> None:
    lost = workload.pod("lost", space, queue="no-such-queue")
    broken = workload.pod("broken", space, queue=space, gpus=0, annotations={"gpu-fraction": "abc"})
    await api.post(f"{GROUPS}/namespaces/{space}/podgroups", workload.group("short", space, queue=space, members=5))
    short = workload.pod("short-0", space, queue=space, group="short")
    async with suite.unreviewed():
        await api.post(pods_path(space), broken)
    for pod in (lost, short, workload.pod("fine", space, queue=space)):
        await api.post(pods_path(space), pod)
    await running(api, space, 1)
    assert "queue 'no-such-queue' does not exist" in await condition(api, space, "lost")
    assert "annotation gpu-fraction is 'abc': write a number between 0 and 1" in await condition(api, space, "broken")
    assert "5 pods are needed, 1 exist" in await condition(api, space, "short-0")

    async def events() -> bool:
        found = await api.items(f"/api/v1/namespaces/{space}/events")
        return {"lost", "broken", "short-0"} <= {e["involvedObject"]["name"] for e in found if e["type"] == "Warning"}

    await until(events, "a Warning event on each of the three")
    assert {p["metadata"]["name"] for p in await api.items(pods_path(space)) if p["spec"].get("nodeName")} == {"fine"}


async def test_a_queue_without_its_parent_is_told(api: Api, space: str) -> None:
    await api.post(QUEUES, workload.queue(f"{space}-orphan", parent="nobody"))

    async def look() -> Any:
        found = (await api.get(f"{QUEUES}/{space}-orphan")).get("status", {}).get("conditions")
        return found and found[0]

    found = await until(look, "a condition on the queue")
    assert (found["type"], found["status"]) == ("Orphan", "True")
    assert "queue nobody does not exist" in found["message"]
    await api.delete_queue(f"{space}-orphan")


async def test_room_is_used_again_when_pods_go(api: Api, space: str) -> None:
    await api.patch(f"{QUEUES}/{space}", workload.queue(space, limit=1))
    for name in ("first", "second"):
        await api.post(pods_path(space), workload.pod(name, space, queue=space))
    (one,) = await running(api, space, 1)
    await api.delete(f"{pods_path(space)}/{one['metadata']['name']}")
    (other,) = await running(api, space, 1)
    assert other["metadata"]["name"] != one["metadata"]["name"]


async def test_higher_priority_takes_room_and_both_are_told(api: Api, space: str) -> None:
    await api.patch(f"{QUEUES}/{space}", workload.queue(space, limit=1))
    await api.post(pods_path(space), workload.pod("low", space, queue=space))
    await running(api, space, 1)
    high = workload.pod("high", space, queue=space)
    high["spec"]["priorityClassName"] = "build-preemptible"
    await api.post(pods_path(space), high)

    async def look() -> bool:
        found = {p["metadata"]["name"]: p for p in await api.items(pods_path(space))}
        return "low" not in found and found["high"]["status"]["phase"] == "Running"

    await until(look, "the pod of higher priority in the place of the other")

    async def told() -> bool:
        events = await api.items(f"/api/v1/namespaces/{space}/events")
        return any(e["reason"] == "Evict" and "preempted by" in e["message"] for e in events)

    await until(told, "the event of the eviction")


async def test_the_crds_refuse_what_the_references_refuse(api: Api, space: str) -> None:
    def topology(*levels: str) -> dict[str, Any]:
        spec = {"levels": [{"nodeLabel": level} for level in levels]}
        return {"apiVersion": "kai.scheduler/v1alpha1", "kind": "Topology", "metadata": {"name": space}, "spec": spec}

    path = "/apis/kai.scheduler/v1alpha1/topologies"
    for bad in (topology(), topology("a", "a"), topology("kubernetes.io/hostname", "a"), topology("not a label")):
        with pytest.raises(ApiError, match="422"):
            await api.post(path, bad)
    await api.post(path, topology("zone", "kubernetes.io/hostname"))
    with pytest.raises(ApiError, match="can't be changed"):
        await api.patch(f"{path}/{space}", topology("rack", "kubernetes.io/hostname"))
    await api.delete(f"{path}/{space}")
    with pytest.raises(ApiError, match="422"):
        await api.post(f"{GROUPS}/namespaces/{space}/podgroups", workload.group("g", space, queue=space, members=-1))
    with pytest.raises(ApiError, match="422"):
        await api.post(
            f"{GROUPS}/namespaces/{space}/podgroups", workload.group("g", space, queue=space, members=1, preemptibility="")
        )


async def test_events_tell_the_story_to_a_subscriber(suite: Suite, api: Api, space: str) -> None:
    await api.post(pods_path(space), workload.pod("told", space, queue=space))
    await running(api, space, 1)
    environment = os.environ | {
        "SHOAL_NATS_URL": suite.bus.url,
        "SHOAL_NATS_USER": "user",
        "SHOAL_NATS_PASSWORD_FILE": str(suite.bus.password_file("user")),
    }
    command = [sys.executable, str(ROOT / "examples/events/subscribe.py"), "--queue", space, "--count", "2"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dev.shoal.pod.decided.v1" in done.stdout
    assert f"dev.shoal.pod.bound.v1 {space}/told node-" in done.stdout


async def test_the_bus_lets_each_only_do_its_own(suite: Suite) -> None:
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    password = suite.bus.password_file("user").read_text()
    user = await nats.connect(suite.bus.url, user="user", password=password, inbox_prefix="_INBOX_user", error_cb=on_error)
    await user.publish(subjects.decision("x"), b"{}")
    await user.subscribe("shoal.v1.>")
    await user.flush()
    async with asyncio.timeout(5):
        while len(refused) < 2:
            await asyncio.sleep(0.05)
    await user.close()
    assert all("permissions violation" in text for text in refused)
    with pytest.raises(nats.errors.Error):
        await nats.connect(suite.bus.url, allow_reconnect=False, error_cb=on_error, max_reconnect_attempts=1)


async def test_a_message_that_does_not_decode_is_put_aside(suite: Suite, api: Api, space: str) -> None:
    password = suite.bus.password_file("cluster-state").read_text()
    bus = await nats.connect(suite.bus.url, user="cluster-state", password=password, inbox_prefix="_INBOX_cluster-state")
    await bus.jetstream().publish(subjects.state("pod", "ns", "nonsense"), b'{"kind":"pod.v1","name":5}')
    await bus.close()

    async def counted() -> bool:
        _, text = suite.services.http("scheduler-0", "/metrics")
        return 'shoal_messages_set_aside_total{plane="state"} 1.0' in text

    await until(counted, "the count of messages put aside")
    _, aside = suite.services.http("scheduler-0", "/debug/aside")
    assert json.loads(aside)[0]["subject"].endswith("nonsense")
    await api.post(pods_path(space), workload.pod("after", space, queue=space))
    await running(api, space, 1)


async def test_one_trace_covers_watch_decision_and_bind(suite: Suite, api: Api, space: str) -> None:
    await api.post(pods_path(space), workload.pod("traced", space, queue=space))
    await running(api, space, 1)
    file = suite.folder / "spans.jsonl"

    async def whole() -> list[dict[str, Any]] | None:
        spans = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        bind = [s for s in spans if s["name"] == "bind pod" and s["attributes"]["pod"] == "traced"]
        story = [s for s in spans if bind and s["trace"] == bind[0]["trace"]]
        return story if {s["name"] for s in story} == {"watch pod", "decide", "bind pod"} else None

    story = {s["name"]: s for s in await until(whole, "the trace")}
    assert story["decide"]["parent"] == story["watch pod"]["span"]
    assert story["bind pod"]["parent"] == story["decide"]["span"]
    assert {s["service"] for s in story.values()} == {"cluster-state", "scheduler", "binder"}


@pytest.mark.parametrize(
    "service",
    ["cluster-state", "pod-grouper", "queue-controller", "scheduler", "binder", "gpu-reservation", "shard-controller"],
)
async def test_each_service_answers_health_and_metrics(suite: Suite, service: str) -> None:
    name = f"{service}-0"
    assert suite.services.http(name, "/healthz") == (200, "ok\n")
    assert suite.services.http(name, "/readyz") == (200, "ok\n")
    status, text = suite.services.http(name, "/metrics")
    assert status == 200
    assert "process_resident_memory_bytes" in text
    password = suite.bus.password_file("user").read_text()
    bus = await nats.connect(suite.bus.url, user="user", password=password, inbox_prefix="_INBOX_user")
    answer = json.loads((await bus.request(subjects.query(service, "health"), b"", timeout=5)).data)
    await bus.close()
    assert answer["ready"] is True
    assert answer["service"] == service


async def test_hundreds_of_pods_at_once_without_overcommit(api: Api, space: str) -> None:
    history = History({n["metadata"]["name"]: 8 for n in await api.items("/api/v1/nodes")})
    recorder = asyncio.create_task(history.follow(api, space))
    await asyncio.sleep(0.3)
    made = [workload.gang(f"g{i}", space, queue=space, size=4) for i in range(30)]
    await gather_limited([api.post(f"{GROUPS}/namespaces/{space}/podgroups", g) for g, _ in made])
    await gather_limited([api.post(pods_path(space), p) for _, members in made for p in members])
    assert await history.until_bound(120, LIMIT), f"{history.bound} of 120 bound"
    recorder.cancel()
    assert history.problems == []
    assert history.partial_gangs() == {}


@pytest.mark.skipif(not MANIFESTS.exists(), reason="shared/manifests is not here")
async def test_the_references_manifests_unmodified(suite: Suite, api: Api) -> None:
    kubectl = [str(suite.plane.kubectl()), "--kubeconfig", str(suite.plane.kubeconfig)]

    def apply(path: str) -> None:
        done = subprocess.run([*kubectl, "apply", "-f", str(MANIFESTS / path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    files = [
        "quickstart/default-queues.yaml", "quickstart/pods/cpu-only-pod.yaml", "quickstart/pods/gpu-pod.yaml",
        "batch/batch-job.yaml", "batch/batch-job-min-member.yaml", "priority/example/limited-queue.yaml",
        "priority/example/train-priority-pod.yaml", "priority/example/build-priority-pod.yaml",
    ]  # fmt: skip
    for file in files:
        apply(file)
    # 2 quickstart pods, jobs of 2 and 6, and the train pod.
    names = {p["metadata"]["name"].rsplit("-", 1)[0] for p in await running(api, "default", 11)}
    assert {"cpu-only", "gpu", "batch-job", "batch-job-min-member", "train"} <= names
    # The build pod is not preemptible, and the queue that the quickstart gives it has a quota of 0 GPUs: it has to wait.
    assert "the quota of queue default-queue, 0 GPUs" in await condition(api, "default", "build-pod")
    for queue in ("default-parent-queue", "default-queue"):
        await api.patch(f"{QUEUES}/{queue}", {"spec": {"resources": {"gpu": {"quota": 8}}}})
    await running(api, "default", 12)
    for file in reversed(files):
        await asyncio.to_thread(
            subprocess.run,
            [*kubectl, "delete", "--wait=false", "-f", str(MANIFESTS / file)],
            capture_output=True,
            check=False,
        )
    # What still works in them keeps them: the others go when it is gone.
    for queue in ("test", "default", "default-queue", "default-parent-queue"):
        await api.delete_queue(queue)


async def test_every_cycle_of_the_scheduler_comes_to_the_same_again(suite: Suite, api: Api, space: str) -> None:
    await api.post(pods_path(space), workload.pod("logged", space, queue=space))
    await running(api, space, 1)
    where = ["--nats", suite.bus.url, "--password-file", str(suite.bus.password_file("auditor"))]

    def shoal(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "shoal_client", *arguments]
        return subprocess.run(command, input=given, capture_output=True, timeout=120, check=False)

    log = await asyncio.to_thread(shoal, "log", *where)
    assert log.returncode == 0, log.stderr
    again = await asyncio.to_thread(shoal, "replay", "-", given=log.stdout)
    assert again.returncode == 0, again.stdout
    found = re.fullmatch(rb"(\d+) of (\d+) cycles came to the same; (\d+) messages skipped\n", again.stdout)
    assert found is not None, again.stdout
    assert int(found[1]) > 0
    assert int(found[3]) == 0
