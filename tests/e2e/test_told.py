"""What users are told, and what of their word stands, on a real API server."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError
from shoal_testkit.waiting import until

pytestmark = pytest.mark.e2e
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Space:
    """A namespace, and a queue of the same name."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.path = f"/api/v1/namespaces/{name}"
        self.groups = f"{GROUPS}/namespaces/{name}/podgroups"

    async def pods(self) -> list[dict[str, Any]]:
        return await self.api.items(f"{self.path}/pods")

    async def running(self, count: int) -> list[dict[str, Any]]:
        async def look() -> list[dict[str, Any]] | None:
            found = [p for p in await self.pods() if p["status"]["phase"] == "Running"]
            return found if len(found) >= count else None

        return await until(look, f"{count} running pods")

    async def events(self, kind: str, reason: str) -> list[dict[str, Any]]:
        found = await self.api.items(f"{self.path}/events")
        return [e for e in found if e["involvedObject"]["kind"] == kind and e["reason"] == reason]

    async def job(self, name: str, size: int, annotations: dict[str, str], **labels: str) -> None:
        template = workload.pod("x", self.name, queue=self.name)
        body = {
            "metadata": {"labels": template["metadata"]["labels"] | labels, "annotations": annotations},
            "spec": template["spec"] | {"restartPolicy": "Never"},
        }
        spec = {"parallelism": size, "completions": size, "template": body}
        await self.api.post(f"/apis/batch/v1/namespaces/{self.name}/jobs", {"metadata": {"name": name}, "spec": spec})


@pytest.fixture
async def space(api: Api) -> AsyncIterator[Space]:
    name = f"t-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    await api.post(QUEUES, workload.queue(name))
    yield Space(api, name)
    await api.delete(f"/api/v1/namespaces/{name}")
    await api.delete(f"/apis/batch/v1/namespaces/{name}/jobs")
    await api.delete(f"/api/v1/namespaces/{name}/pods")
    await api.delete_queue(name)


def scheduled(pod: dict[str, Any]) -> dict[str, Any]:
    return next((c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled"), {})


async def test_a_reason_is_told_to_each_pod_once_and_taken_back_when_the_group_starts(api: Api, space: Space) -> None:
    await api.patch(f"{QUEUES}/{space.name}", workload.queue(space.name, limit=1))
    group, members = workload.gang("gang", space.name, queue=space.name, size=3)
    await api.post(space.groups, group)
    for member in members:
        await api.post(f"{space.path}/pods", member)

    async def told() -> bool:
        conditions = (await api.get(f"{space.groups}/gang")).get("status", {}).get("schedulingConditions")
        return bool(conditions) and all(scheduled(p).get("status") == "False" for p in await space.pods())

    await until(told, "a reason on the group and each pod")
    pods = await space.pods()
    assert all(scheduled(p)["lastTransitionTime"] for p in pods)
    await api.patch(f"{QUEUES}/{space.name}", workload.queue(space.name, limit=8))
    await space.running(3)

    async def taken_back() -> bool:
        status = (await api.get(f"{space.groups}/gang")).get("status", {})
        return not status.get("schedulingConditions")

    await until(taken_back, "the group's condition gone")
    assert all(scheduled(p)["status"] == "True" for p in await space.pods())
    about = [e["involvedObject"]["name"] for e in await space.events("Pod", "Unschedulable")]
    assert len(about) == len(set(about)) <= 3
    assert len(await space.events("PodGroup", "OverLimit")) == 1


async def test_every_waiting_pod_of_a_big_job_is_told(api: Api, space: Space) -> None:
    await api.patch(f"{QUEUES}/{space.name}", workload.queue(space.name, limit=1))
    await space.job("big", 120, {})

    async def told() -> bool:
        return sum(scheduled(p).get("status") == "False" for p in await space.pods()) == 119

    await until(told, "a reason on each pod that waits", limit=90.0)


async def test_a_group_that_the_template_names_is_kept_though_it_comes_later(api: Api, space: Space) -> None:
    await space.job("named", 4, {"pod-group-name": "mine"})

    async def there() -> bool:
        return len(await space.pods()) == 4

    await until(there, "the pods of the Job")
    await api.post(space.groups, workload.group("mine", space.name, queue=space.name, members=4))
    pods = await space.running(4)
    assert {p["metadata"]["annotations"]["pod-group-name"] for p in pods} == {"mine"}
    assert [g["metadata"]["name"] for g in await api.items(space.groups)] == ["mine"]


async def test_a_group_that_somebody_deletes_is_made_again(api: Api, space: Space) -> None:
    await space.job("work", 2, {})
    await space.running(2)
    (group,) = await api.items(space.groups)
    await api.delete(f"{space.groups}/{group['metadata']['name']}")

    async def again() -> bool:
        found = await api.items(space.groups)
        uids = [g["metadata"]["uid"] for g in found if g.get("status", {}).get("resourcesStatus", {}).get("allocated")]
        return bool(uids) and group["metadata"]["uid"] not in uids

    await until(again, "the group once more, with its status")


async def _kind(api: Api, group: str, kind: str) -> str:
    """Install a kind without a controller; its plural."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    await api.post(CRDS, {
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    })  # fmt: skip

    async def served() -> bool:
        try:
            await api.get(f"/apis/{group}/v1/{plural}")
        except ApiError:
            return False
        return True

    await until(served, f"{kind} served")
    return plural


async def test_owners_of_other_kinds_give_queue_and_priority_or_it_is_told(api: Api, space: Space) -> None:
    made = []
    try:
        for group, kind in (("kubeflow.org", "PyTorchJob"), ("example.com", "Widget")):
            plural = await _kind(api, group, kind)
            made.append(f"{plural}.{group}")
            tags = {"kai.scheduler/queue": space.name, "priorityClassName": "build-preemptible"}
            body = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": "owner", "labels": tags}}
            owner = await api.post(f"/apis/{group}/v1/namespaces/{space.name}/{plural}", body)
            pod = workload.pod(kind.lower(), space.name, queue=space.name)
            pod["metadata"]["labels"].pop("kai.scheduler/queue")
            pod["metadata"]["ownerReferences"] = [
                {"apiVersion": f"{group}/v1", "kind": kind, "name": "owner", "uid": owner["metadata"]["uid"]}
            ]
            await api.post(f"{space.path}/pods", pod)

        async def grouped() -> dict[str, Any] | None:
            found = {g["metadata"]["ownerReferences"][0]["kind"]: g["spec"] for g in await api.items(space.groups)}
            return found if {"PyTorchJob", "Pod"} <= found.keys() else None

        found = await until(grouped, "a group for each")
        assert (found["PyTorchJob"]["queue"], found["PyTorchJob"]["priorityClassName"]) == (space.name, "build-preemptible")
        assert found["Pod"]["queue"] == "default-queue"

        async def told() -> list[dict[str, Any]]:
            return await space.events("Pod", "OwnerForbidden")

        (event,) = await until(told, "the owner that may not be read")
        assert "get widgets.example.com" in event["message"]
    finally:
        for name in made:
            await api.delete(f"{CRDS}/{name}")


async def test_the_short_name_lists_our_groups(suite: Suite, api: Api, space: Space) -> None:
    await api.post(space.groups, workload.group("mine", space.name, queue=space.name, members=4))
    command = [str(suite.plane.kubectl()), "--kubeconfig", str(suite.plane.kubeconfig), "-n", space.name, "get"]
    for name in ("pg", "podgroups.scheduling.run.ai"):
        told = await asyncio.to_thread(
            subprocess.run, [*command, name], capture_output=True, text=True, check=False, timeout=60
        )
        assert "mine" in told.stdout, name


async def test_a_queue_in_use_is_not_deleted(api: Api, space: Space) -> None:
    await api.post(QUEUES, workload.queue(f"{space.name}-child", parent=space.name))
    await api.post(f"{space.path}/pods", workload.pod("p", space.name, queue=f"{space.name}-child"))
    await space.running(1)

    async def refusal(name: str, text: str) -> bool:
        try:
            await api.call("DELETE", f"{QUEUES}/{name}?dryRun=All")
        except ApiError as error:
            return text in str(error)
        return False

    await until(lambda: refusal(space.name, f"it has child queues [{space.name}-child]"), "the parent refused")
    await until(lambda: refusal(f"{space.name}-child", "its workloads request"), "the child refused")
    await api.delete(f"{space.path}/pods/p")
    await api.delete_queue(f"{space.name}-child")
    with pytest.raises(ApiError, match="404"):
        await api.get(f"{QUEUES}/{space.name}-child")
