"""Pods with claims: bound ones, volumes that are made for the node, local volumes, gangs of them. The tests do what the volume
controller and a CSI driver do elsewhere: neither runs here."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shoal_testkit import volumes, workload
from shoal_testkit.api import Api
from shoal_testkit.waiting import until

pytestmark = pytest.mark.e2e
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"


class Space:
    """A namespace with a queue, a class of volumes that are made for the node, and one of volumes that are there."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.path = f"/api/v1/namespaces/{name}"

    async def make(self) -> None:
        await self.api.post("/api/v1/namespaces", {"metadata": {"name": self.name}})
        await self.api.post(QUEUES, workload.queue(self.name))
        await self.api.post(volumes.CLASSES, volumes.storage_class(f"{self.name}-made", "disks.example.com"))
        await self.api.post(volumes.CLASSES, volumes.storage_class(f"{self.name}-local"))

    async def end(self) -> None:
        await self.api.delete(self.path)
        await self.api.call("DELETE", f"{self.path}/pods")
        await volumes.remove(self.api, self.name, self.name)
        await self.api.delete_queue(self.name)

    async def claim(self, name: str, kind: str) -> None:
        await self.api.post(f"{self.path}/persistentvolumeclaims", volumes.claim(name, f"{self.name}-{kind}"))

    async def local(self, name: str, node: str) -> str:
        """A volume that is there."""
        name = f"{self.name}-{name}"
        await volumes.make(self.api, volumes.volume(name, f"{self.name}-local", node))
        return name

    async def provide(self, claim: str, node: str) -> None:
        """What a provisioner does, and then the volume controller."""
        name = f"{self.name}-{claim}"
        body = volumes.volume(name, f"{self.name}-made", node, claim=claim, namespace=self.name)
        await self.api.post(volumes.VOLUMES, body)
        await volumes.bind(self.api, self.name, claim, name)

    async def pod(self, name: str, claim: str, group: str = "") -> None:
        await self.api.post(f"{self.path}/pods", volumes.pod(name, self.name, queue=self.name, claim=claim, group=group))

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        return await self.api.get(f"{self.path}/{kind}/{name}")

    async def node_of(self, name: str) -> str:
        async def look() -> str:
            return (await self.get("pods", name))["spec"].get("nodeName", "")

        return await until(look, f"pod {name} bound")

    async def selected(self, claim: str) -> str:
        async def look() -> str:
            return ((await self.get("persistentvolumeclaims", claim))["metadata"].get("annotations") or {}).get(
                volumes.SELECTED, ""
            )

        return await until(look, f"a node for claim {claim}")


@pytest.fixture
async def space(api: Api) -> AsyncIterator[Space]:
    made = Space(api, f"v-{uuid.uuid4().hex[:8]}")
    await made.make()
    yield made
    await made.end()


async def nodes(api: Api) -> list[str]:
    return sorted(n["metadata"]["name"] for n in await api.items("/api/v1/nodes"))


async def test_a_bound_volume_draws_its_pod_to_its_node(api: Api, space: Space) -> None:
    node = (await nodes(api))[-1]
    await space.claim("data", "made")
    await space.provide("data", node)
    await space.pod("trains", "data")
    assert await space.node_of("trains") == node


async def test_a_claim_that_is_missing_is_named_until_it_is_made(space: Space) -> None:
    await space.pod("trains", "data")

    async def told() -> bool:
        return "'data' not found" in str((await space.get("pods", "trains"))["status"].get("conditions"))

    await until(told, "the claim that is missing, by name")
    await space.claim("data", "made")
    node = await space.selected("data")
    await space.provide("data", node)
    assert await space.node_of("trains") == node


async def test_a_volume_is_made_for_the_node_before_the_pod_is_bound(space: Space) -> None:
    await space.claim("data", "made")
    await space.pod("trains", "data")
    node = await space.selected("data")
    assert "nodeName" not in (await space.get("pods", "trains"))["spec"]
    await space.provide("data", node)
    assert await space.node_of("trains") == node


async def test_a_volume_that_can_not_be_made_is_told_and_tried_again(api: Api, space: Space) -> None:
    await space.claim("data", "made")
    await space.pod("trains", "data")
    await space.selected("data")
    # A CSI provisioner that fails for good takes the node off, so that the pod is scheduled anew.
    gone = {"metadata": {"annotations": {volumes.SELECTED: None}}}
    await api.call("PATCH", f"{space.path}/persistentvolumeclaims/data", gone, content=volumes.MERGE)

    async def told() -> bool:
        events = await api.items(f"{space.path}/events")
        return any(e["reason"] == "BindingError" and "no volume could be made for claim 'data'" in e["message"] for e in events)

    await until(told, "an event on the pod")
    node = await space.selected("data")
    await space.provide("data", node)
    assert await space.node_of("trains") == node


async def test_local_volumes_are_kept_for_one_claim_each(api: Api, space: Space) -> None:
    where = {await space.local(name, node): node for name, node in zip("ab", await nodes(api), strict=False)}
    for i in range(3):
        await space.claim(f"data-{i}", "local")
        await space.pod(f"pod-{i}", f"data-{i}")

    async def kept() -> dict[str, str]:
        refs = {v: (await api.get(f"{volumes.VOLUMES}/{v}"))["spec"].get("claimRef") for v in where}
        return {v: ref["name"] for v, ref in refs.items()} if all(refs.values()) else {}

    found = await until(kept, "both volumes kept for a claim")
    assert len(set(found.values())) == 2
    for name, claim in found.items():
        await volumes.bind(api, space.name, claim, name)
        assert await space.node_of(claim.replace("data", "pod")) == where[name]
    left = ({f"data-{i}" for i in range(3)} - set(found.values())).pop().replace("data", "pod")

    async def told() -> bool:
        return "persistent volumes to bind" in str((await space.get("pods", left))["status"].get("conditions"))

    await until(told, "why the third waits")


async def test_a_gang_is_bound_when_all_its_volumes_are_there(api: Api, space: Space) -> None:
    group = workload.group("gang", space.name, queue=space.name, members=2)
    await api.post(f"{GROUPS}/namespaces/{space.name}/podgroups", group)
    for i in range(2):
        await space.claim(f"data-{i}", "made")
        await space.pod(f"gang-{i}", f"data-{i}", group="gang")
    first, second = await space.selected("data-0"), await space.selected("data-1")
    await space.provide("data-0", first)
    await asyncio.sleep(1.0)
    assert "nodeName" not in (await space.get("pods", "gang-0"))["spec"]
    await space.provide("data-1", second)
    assert await space.node_of("gang-0") == first
    assert await space.node_of("gang-1") == second
