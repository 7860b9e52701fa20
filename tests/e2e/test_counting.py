"""What counts as in use on a node, and what a pod may not do to another, on a real API server: each on a node of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shoal_local import nodes
from shoal_testkit import shares, workload
from shoal_testkit.api import Api
from shoal_testkit.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"


class Space:
    """A namespace, a queue and a node, all of one name."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.path = f"/api/v1/namespaces/{name}"

    async def node(self, gpus: int = 0, cpus: int = 96) -> None:
        body = nodes.node(0, gpus)
        body["metadata"]["name"] = self.name
        body["metadata"]["labels"] |= {"kubernetes.io/hostname": self.name, "run": self.name}
        body["status"]["allocatable"]["cpu"] = body["status"]["capacity"]["cpu"] = str(cpus)
        await self.api.post("/api/v1/nodes", body)

    async def healthy(self, gpus: int) -> None:
        """So many GPUs of the node work now; its labels and its capacity say what they said."""
        status = {"status": {"allocatable": {"nvidia.com/gpu": str(gpus)}}}
        await self.api.patch(f"/api/v1/nodes/{self.name}/status", status)

    async def make(self, name: str, cpu: str = "1", share: float = 0.0, gpus: int = 0, **spec: Any) -> None:
        """A pod that may run on the space's node alone."""
        if share:
            pod = shares.admitted(shares.pod(name, self.name, queue=self.name, fraction=share))
        else:
            pod = workload.pod(name, self.name, queue=self.name, gpus=gpus)
            resources = {k: v | {"cpu": cpu} for k, v in pod["spec"]["containers"][0]["resources"].items()}
            pod["spec"]["containers"][0]["resources"] = resources
        pod["metadata"]["labels"]["app"] = name
        containers = spec.pop("containers", None)
        if containers:
            pod["spec"]["containers"][0] |= containers
        pod["spec"] |= {"nodeSelector": {"run": self.name}} | spec
        await self.api.post(f"{self.path}/pods", pod)

    async def running(self, *names: str) -> None:
        async def look() -> bool:
            pods = [await self.api.get(f"{self.path}/pods/{name}") for name in names]
            return all(p["status"].get("phase") == "Running" for p in pods)

        await until(look, f"{', '.join(names)} run")

    async def waits(self, name: str, text: str = "") -> None:
        """Waits until the pod is told why it waits; it has no node then."""

        async def look() -> bool:
            pod = await self.api.get(f"{self.path}/pods/{name}")
            assert not pod["spec"].get("nodeName"), f"{name} was bound"
            told = [c["message"] for c in pod["status"].get("conditions", ()) if c["type"] == "PodScheduled"]
            return any(text in message for message in told)

        await until(look, f"{name} is told: {text}")


@pytest.fixture
async def space(api: Api) -> AsyncIterator[Space]:
    made = Space(api, f"c-{uuid.uuid4().hex[:8]}")
    await api.post("/api/v1/namespaces", {"metadata": {"name": made.name}})
    await api.post(QUEUES, workload.queue(made.name))
    yield made
    await api.delete(f"{made.path}/pods")
    await api.delete(made.path)
    await api.delete_queue(made.name)
    await api.delete(f"/api/v1/nodes/{made.name}")


async def test_a_namespace_selector_that_selects_no_other_namespace_keeps_nobody_away(space: Space) -> None:
    await space.node()
    await space.make("runs")
    await space.running("runs")
    terms = [
        {
            "labelSelector": {}, "topologyKey": "kubernetes.io/hostname",
            "namespaceSelector": {"matchLabels": {"team": "another"}},
        }
    ]  # fmt: skip
    await space.make("comes", affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
    await space.running("comes")
    await space.api.patch(space.path, {"metadata": {"labels": {"team": "another"}}})
    # From now on the namespace is selected.
    await space.make("late", affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
    await space.waits("late")


async def test_no_more_devices_are_shared_than_work(space: Space) -> None:
    await space.node(gpus=8)
    await space.healthy(2)
    for i in range(6):
        await space.make(f"p{i}", share=0.9)

    async def two() -> bool:
        pods = await space.api.items(f"{space.path}/pods")
        told = sum(
            c["type"] == "PodScheduled" and c["status"] == "False" for p in pods for c in p["status"].get("conditions", ())
        )
        return sum(p["status"].get("phase") == "Running" for p in pods) == 2 and told == 4

    await until(two, "two start, four are told why they wait")
    held = [p for p in await space.api.items(shares.RESERVATIONS) if p["spec"].get("nodeName") == space.name]
    assert len(held) == 2


async def test_a_lost_device_keeps_no_pod_away_that_needs_none(space: Space) -> None:
    await space.node(gpus=4)
    await space.make("uses", gpus=4)
    await space.running("uses")
    await space.healthy(3)
    await space.make("plain")
    await space.running("plain")
    await space.make("more", gpus=1)
    await space.waits("more")


async def test_resources_of_the_whole_pod_count(space: Space) -> None:
    await space.node(cpus=4)
    three = {"requests": {"cpu": "3", "memory": "1Gi"}, "limits": {"cpu": "3", "memory": "1Gi"}}
    for name in ("one", "two"):
        await space.make(name, resources=three, containers={"resources": {}})
        if name == "one":
            await space.running(name)
    await space.waits("two")


async def test_a_resize_under_way_holds_what_it_held(space: Space) -> None:
    await space.node(cpus=8)
    await space.make("shrinks", cpu="6")
    await space.running("shrinks")
    held = {"cpu": "6", "memory": "1Gi"}
    status = {"name": "main", "allocatedResources": held, "resources": {"requests": held, "limits": held}}
    rest = {"image": "example.local/train", "imageID": "x", "ready": True, "restartCount": 0}
    await space.api.patch(f"{space.path}/pods/shrinks/status", {"status": {"containerStatuses": [status | rest]}})
    small = {"cpu": "1", "memory": "1Gi"}
    spec = {"containers": [{"name": "main", "resources": {"requests": small, "limits": small}}]}
    await space.api.call(
        "PATCH", f"{space.path}/pods/shrinks/resize", {"spec": spec}, content="application/strategic-merge-patch+json"
    )
    pod = await space.api.get(f"{space.path}/pods/shrinks")
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "1"
    assert pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"] == "6"
    await space.make("comes", cpu="5")
    await space.waits("comes")


async def test_host_ports_of_sidecars_count(space: Space) -> None:
    await space.node()
    port = [{"containerPort": 8081, "hostPort": 8081}]
    sidecar = {"name": "side", "image": "example.local/side", "restartPolicy": "Always", "ports": port}
    await space.make("first", initContainers=[sidecar])
    await space.running("first")
    await space.make("second", containers={"ports": port})
    await space.waits("second")


async def test_neither_of_two_victims_goes_if_one_must_stay(space: Space) -> None:
    await space.node(gpus=2)
    for name in ("free", "kept"):
        await space.make(name, gpus=1)
    await space.running("free", "kept")
    budget = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "kept"}}}}
    await space.api.post(f"/apis/policy/v1/namespaces/{space.name}/poddisruptionbudgets", budget)
    high = f"{space.name}-high"
    await space.api.post("/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": high}, "value": 90})
    try:
        await space.make("comes", gpus=2, priorityClassName=high)
        await space.waits("comes", f"PodDisruptionBudget {space.name}/b")
        pods = {p["metadata"]["name"]: p for p in await space.api.items(f"{space.path}/pods")}
        assert not any("deletionTimestamp" in p["metadata"] for p in pods.values())
        assert {"free", "kept"} <= pods.keys()
    finally:
        await space.api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{high}")
        await space.api.delete(f"/apis/policy/v1/namespaces/{space.name}/poddisruptionbudgets/b")


async def test_a_gang_waits_whole_whose_member_can_not_be_prepared(space: Space) -> None:
    await space.node(gpus=2)
    await space.api.post(f"{space.path}/configmaps", {"metadata": {"name": "clash-0"}, "data": {"not": "ours"}})
    await space.api.post(
        f"{GROUPS}/namespaces/{space.name}/podgroups", workload.group("pair", space.name, queue=space.name, members=2)
    )
    for name, prefix in (("clash", "clash"), ("fine", "")):
        pod = shares.pod(name, space.name, queue=space.name, fraction=0.5, group="pair")
        if prefix:
            pod["metadata"]["annotations"]["runai/shared-gpu-configmap"] = prefix
        pod["spec"]["nodeSelector"] = {"run": space.name}
        await space.api.post(f"{space.path}/pods", pod)
    await space.waits("fine", "refused binding")
    await space.waits("clash")
    assert not (await space.api.get(f"{space.path}/pods/fine"))["spec"].get("nodeName")
