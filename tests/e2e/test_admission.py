"""Admission on a real API server: what users see refused, warned of and patched, and what happens without it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal_admission import webhooks
from shoal_admission.webhooks import Settings
from shoal_local.suite import Suite
from shoal_model import labels, sharing
from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError
from shoal_testkit.nats import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MANIFESTS = Path(__file__).resolve().parents[3] / "shared" / "manifests" / "docs"
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"
HALF = {labels.GPU_FRACTION: "0.5"}


@pytest.fixture
async def space(api: Api) -> AsyncIterator[str]:
    name = f"a-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": {"dead": name}}})
    yield name
    await api.delete(f"/api/v1/namespaces/{name}/pods")
    await api.delete(f"/api/v1/namespaces/{name}")


def pods(space: str) -> str:
    return f"/api/v1/namespaces/{space}/pods"


def pod(name: str, space: str, notes: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    # Gated: nothing is scheduled here, this is about what may be created.
    found = workload.pod(name, space, queue="none", gpus=0, annotations=notes, **more)
    found["spec"]["schedulingGates"] = [{"name": "test/waits"}]
    return found


async def refusal(api: Api, path: str, body: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        await api.post(path, body)
    assert caught.value.status == 403
    return str(caught.value)


def reviews(suite: Suite) -> dict[str, float]:
    """Hook -> reviews so far."""
    found: dict[str, float] = {}
    for name in suite.services.names:
        if name.startswith("admission-"):
            _, text = suite.services.http(name, "/metrics")
            for hook, count in re.findall(r'shoal_admission_reviews_total{hook="([^"]+)",result="\w+"} ([0-9.e+]+)', text):
                found[hook] = found.get(hook, 0) + float(count)
    return found


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ({"gpu-fraction": "abc"}, "write a number between 0 and 1"),
        ({"gpu-fraction": "1.5"}, "write a number between 0 and 1"),
        ({"gpu-fraction": "-1"}, "write a number between 0 and 1"),
        ({"gpu-fraction": "0.5", "gpu-memory": "100"}, "exclude each other: remove one"),
        ({"gpu-fraction": "0.5", "gpu-fraction-num-devices": "0"}, "write a number from 1 to"),
        ({"gpu-fraction": "0.5", "gpu-fraction-container-name": "none"}, "no container of that name; it has main"),
        ({"gpu-fraction-num-devices": "2"}, "needs gpu-fraction or gpu-memory"),
        ({"mps": "true"}, "add gpu-fraction or gpu-memory, or remove it"),
    ],
)
async def test_a_bad_share_is_refused(api: Api, space: str, notes: dict[str, str], told: str) -> None:
    assert told in await refusal(api, pods(space), pod("p", space, notes))
    assert (await api.post(pods(space), pod("p", space, notes, scheduler="other")))["metadata"]["name"] == "p"


async def test_a_share_and_whole_gpus_given_by_a_limit_alone(api: Api, space: str) -> None:
    found = pod("p", space, HALF)
    found["spec"]["containers"][0]["resources"] = {"limits": {labels.GPU: "1"}}
    assert "whole GPUs and for a share" in await refusal(api, pods(space), found)


@pytest.mark.parametrize("name", ["", "init-container", "non-default-container"])
async def test_the_references_manifests_are_patched(api: Api, space: str, name: str) -> None:
    file = MANIFESTS / "gpu-sharing" / f"gpu-sharing{'-' if name else ''}{name}.yaml"
    if not file.exists():
        pytest.skip("shared/manifests is not here")
    found = await api.post(pods(space), yaml.safe_load(file.read_text()))
    spec, notes = found["spec"], found["metadata"]["annotations"]
    at = sharing.target([c["name"] for c in spec["containers"]], [c["name"] for c in spec.get("initContainers", [])], notes)
    assert at is not None
    names = sharing.config_names(sharing.prefix(notes), at)
    assert names.values.startswith(found["metadata"]["name"][:10])
    container = spec["initContainers" if at.init else "containers"][at.index]
    refs = {e["name"]: e["valueFrom"]["configMapKeyRef"] for e in container["env"]}
    assert refs == {key: {"name": names.values, "key": key} for key in sharing.ENVIRONMENT}
    assert container["envFrom"] == [{"configMapRef": {"name": names.direct, "optional": False}}]
    assert any(v.get("configMap", {}).get("name") == names.values for v in spec["volumes"])
    assert spec["runtimeClassName"] == "nvidia"


async def test_pods_of_a_deployment_and_generated_names_have_a_prefix_each(api: Api, space: str) -> None:
    template = pod("x", space, HALF)
    template["metadata"] = {"labels": {"app": "d", "kai.scheduler/queue": "none"}, "annotations": HALF}
    await api.post(f"/apis/apps/v1/namespaces/{space}/deployments", {
        "metadata": {"name": "many"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": template["metadata"], "spec": {k: v for k, v in template["spec"].items()},
        }},
    })  # fmt: skip
    bare = pod("", space, HALF)
    bare["metadata"] = {"generateName": "bare-", "annotations": HALF}
    made = await api.post(pods(space), bare)
    assert made["metadata"]["annotations"][labels.SHARED_GPU_CONFIG].startswith("bare-")
    async with asyncio.timeout(30):
        while len(found := await api.items(pods(space))) < 4:
            await asyncio.sleep(0.2)
    prefixes = [p["metadata"]["annotations"][labels.SHARED_GPU_CONFIG] for p in found]
    assert len(set(prefixes)) == 4
    assert sum(p.startswith("many-") for p in prefixes) == 3
    await api.delete(f"/apis/apps/v1/namespaces/{space}/deployments/many")


async def test_a_share_can_be_lowered_while_it_waits_and_not_be_moved(api: Api, space: str) -> None:
    await api.post(pods(space), pod("p", space, HALF))
    await api.post(pods(space), pod("plain", space))

    async def annotate(name: str, notes: dict[str, str | None]) -> str:
        try:
            await api.patch(f"{pods(space)}/{name}", {"metadata": {"annotations": notes}})
        except ApiError as error:
            return str(error)
        return ""

    assert await annotate("p", {labels.GPU_FRACTION: "0.25"}) == ""
    assert "between 0 and 1" in await annotate("p", {labels.GPU_FRACTION: "abc"})
    assert "create it anew" in await annotate("p", {labels.GPU_FRACTION: None})
    assert "create it anew" in await annotate("p", {labels.SHARED_GPU_CONFIG: "others"})
    assert "create it anew" in await annotate("plain", HALF)


async def test_plain_work_is_never_reviewed(suite: Suite, api: Api, space: str) -> None:
    await api.post(pods(space), pod("share", space, HALF))
    before = reviews(suite)
    assert before["mutate--v1-pod"] > 0
    for i in range(5):
        await api.post(pods(space), pod(f"p{i}", space))
        await api.patch(f"{pods(space)}/p{i}", {"metadata": {"annotations": {"a": "b"}}})
        await api.post(f"{GROUPS}/namespaces/{space}/podgroups", workload.group(f"g{i}", space, queue="none", members=2))
    await api.patch(f"{pods(space)}/share", {"metadata": {"labels": {"a": "b"}}})
    await api.post(pods(space), pod("other", space, HALF, scheduler="other"))
    assert reviews(suite) == before


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"minSubGroup": 1, "minMember": 1}, "mutually exclusive"),
        ({"subGroups": [{"name": "a"}]}, "minMember is required"),
        ({"subGroups": [{"name": "a", "minMember": 1}, {"name": "b", "parent": "a", "minMember": 1}]}, "mid-level SubGroup"),
        ({"preemptionDelay": "soon"}, "write 30s, 5m or 1h30m"),
    ],
)
async def test_pod_groups_are_refused(api: Api, space: str, spec: dict[str, Any], told: str) -> None:
    body = {"apiVersion": "scheduling.run.ai/v2alpha2", "kind": "PodGroup", "metadata": {"name": "g"}, "spec": spec}
    assert told in await refusal(api, f"{GROUPS}/namespaces/{space}/podgroups", body)


def kubectl(suite: Suite, *arguments: str, body: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(suite.plane.kubectl()), "--kubeconfig", str(suite.plane.kubeconfig), *arguments]
    text = json.dumps(body) if body else None
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


async def test_users_are_warned(suite: Suite, space: str) -> None:
    parts = [{"name": f"s{i}", "minMember": 1} for i in range(4)]
    group = {
        "apiVersion": "scheduling.run.ai/v2alpha2", "kind": "PodGroup", "metadata": {"name": "g", "namespace": space},
        "spec": {"minSubGroup": 5, "subGroups": parts},
    }  # fmt: skip
    told = await asyncio.to_thread(kubectl, suite, "apply", "-f", "-", body=group)
    assert told.returncode == 0, told.stderr
    assert "Warning: spec: minSubGroup (5) exceeds the number of direct child SubGroups (4)" in told.stderr

    async def warned(name: str, parent: str, text: str) -> None:
        body = workload.queue(name, parent=parent)
        async with asyncio.timeout(30):  # admission learns of queues by the bus: a moment later than the API server
            while text not in (told := await asyncio.to_thread(kubectl, suite, "apply", "-f", "-", body=body)).stderr:
                assert told.returncode == 0, told.stderr
                await asyncio.to_thread(kubectl, suite, "delete", "queue", name)
        assert told.returncode == 0

    try:
        child = await asyncio.to_thread(
            kubectl, suite, "apply", "-f", "-", body=workload.queue(f"{space}-a", parent=f"{space}-b")
        )
        assert "Warning" not in child.stderr, "its parent may be the next object of the same apply"
        await warned(f"{space}-b", f"{space}-a", f"queue {space}-b is its own ancestor")
    finally:
        await asyncio.to_thread(kubectl, suite, "delete", "queue", f"{space}-a", f"{space}-b", "--ignore-not-found")


async def test_queues_and_topologies_are_refused(api: Api, space: str) -> None:
    queue = workload.queue(space)
    del queue["spec"]["resources"]
    assert "resources must be specified" in await refusal(api, QUEUES, queue)
    assert "gpu.quota: -3 is negative" in await refusal(api, QUEUES, workload.queue(space, gpu=-3))
    levels = [{"nodeLabel": "a", "alias": "b"}, {"nodeLabel": "b"}]
    topology = {
        "apiVersion": "kai.scheduler/v1alpha1", "kind": "Topology", "metadata": {"name": space}, "spec": {"levels": levels}
    }  # fmt: skip
    told = await refusal(api, "/apis/kai.scheduler/v1alpha1/topologies", topology)
    assert "invalid topology aliases: an alias must not equal a nodeLabel; conflicting: [b]" in told


async def test_admission_is_killed_while_pods_are_created(suite: Suite, api: Api, space: str) -> None:
    """Plain pods are created all the time; a pod with a share is refused with the cause, or made with all that it needs."""
    refused: list[str] = []
    made = 0
    for i in range(60):
        if i % 20 == 10:
            suite.services.signal("admission-0", signal.SIGKILL)
        await api.post(pods(space), pod(f"plain-{i}", space))
        try:
            found = await api.post(pods(space), pod(f"share-{i}", space, HALF))
        except ApiError as error:
            refused.append(str(error))
            await asyncio.sleep(0.05)
            continue
        made += 1
        assert sharing.prefix(found["metadata"]["annotations"])
        assert {e["name"] for e in found["spec"]["containers"][0]["env"]} == set(sharing.ENVIRONMENT)
    assert made
    assert all("failed calling webhook" in text for text in refused), refused
    async with asyncio.timeout(60):
        while True:
            try:
                await api.post(pods(space), pod("after", space, HALF))
                break
            except ApiError:
                await asyncio.sleep(0.2)


async def test_with_all_of_it_gone_others_notice_nothing(api: Api, space: str) -> None:
    """Hooks like ours for one namespace whose address refuses connections, as when no pod of the suite is left."""
    settings = Settings(url=f"https://127.0.0.1:{free_port()}", namespace_labels={"dead": space})
    made = []
    try:
        for found in webhooks.configurations(settings):
            found["metadata"]["name"] = f"dead-{space}-{found['metadata']['name']}"
            path = f"/apis/admissionregistration.k8s.io/v1/{found['kind'].lower()}s"
            await api.post(path, found)
            made.append(f"{path}/{found['metadata']['name']}")
        async with asyncio.timeout(30):  # until the API server goes by the new hooks
            while True:
                try:
                    await api.post(pods(space), pod(f"s{uuid.uuid4().hex[:6]}", space, HALF))
                    await asyncio.sleep(0.2)
                except ApiError as error:
                    told = str(error)
                    break
        assert "failed calling webhook" in told
        assert "admission.kai-scheduler.svc" in told
        await api.post(pods(space), pod("unrelated", space, HALF, scheduler="default-scheduler"))
        await api.post(pods(space), pod("plain", space))
        await api.patch(f"{pods(space)}/plain", {"metadata": {"labels": {"a": "b"}}})
        await api.post(f"{GROUPS}/namespaces/{space}/podgroups", {
            "apiVersion": "scheduling.run.ai/v2alpha2", "kind": "PodGroup", "metadata": {"name": "g"},
            "spec": {"subGroups": [{"name": "a", "minMember": 1}]},
        })  # fmt: skip
        await api.post(QUEUES, workload.queue(space))
        await api.delete_queue(space)
    finally:
        for path in made:
            await api.delete(path)
