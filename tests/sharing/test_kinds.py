"""Shares by fraction and by memory, MIG profiles, mixed nodes, packing and spreading, through the API server; and the
reference's own manifests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal_local import nodes
from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import shares, workload
from shoal_testkit.api import Api, gather_limited
from shoal_testkit.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
QUEUES = "/apis/scheduling.run.ai/v2/queues"
MANIFESTS = Path(__file__).resolve().parents[3] / "shared" / "manifests" / "docs" / "gpu-sharing"
SMALL, LARGE, MIG = 950, 951, 952
PROFILE = "nvidia.com/mig-1g.5gb"


@pytest.fixture(scope="module", params=["pack", "spread"])
def suite(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Suite]:
    """All services, packing or spreading."""
    environment = {"SHOAL_SPREAD": "true"} if request.param == "spread" else {}
    running = Suite(tmp_path_factory.mktemp(request.param), plane=plane, environment=environment)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
async def space(api: Api) -> AsyncIterator[str]:
    """A namespace with a queue of the same name; a node of small GPUs, one of large ones, one cut into MIG instances."""
    name = f"k-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    await api.post(QUEUES, workload.queue(name))
    for number in (SMALL, LARGE, MIG):
        body = nodes.node(number, 4)
        tags, size = body["metadata"]["labels"], body["status"]["allocatable"]
        tags["pool"] = name
        tags["nvidia.com/gpu.memory"] = "16384" if number == SMALL else "81920"
        if number == MIG:
            tags["nvidia.com/mig.strategy"] = "mixed"
            size |= {"nvidia.com/gpu": "0", PROFILE: "7"}
            body["status"]["capacity"] = size
        await api.post("/api/v1/nodes", body)
    yield name
    await api.delete(f"/api/v1/namespaces/{name}/pods")
    for number in (SMALL, LARGE, MIG):
        await api.delete(f"/api/v1/nodes/node-{number:05d}")
    await api.delete(f"/api/v1/namespaces/{name}")
    await api.delete_queue(name)


def path(space: str) -> str:
    return f"/api/v1/namespaces/{space}/pods"


def pod(name: str, space: str, **more: Any) -> dict[str, Any]:
    found = shares.pod(name, space, queue=space, **more)
    found["spec"]["nodeSelector"] = {"pool": space}
    return found


async def bound(api: Api, space: str, count: int) -> dict[str, dict[str, Any]]:
    async def look() -> dict[str, dict[str, Any]] | None:
        found = {p["metadata"]["name"]: p for p in await api.items(path(space)) if p["spec"].get("nodeName")}
        return found if len(found) >= count else None

    return await until(look, f"{count} bound pods")


async def reason(api: Api, space: str, name: str) -> str:
    async def look() -> str | None:
        one = await api.get(f"{path(space)}/{name}")
        found = [c for c in one["status"].get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False"]
        return found[0]["message"] if found and not one["spec"].get("nodeName") else None

    return await until(look, f"a reason on {name}")


async def test_memory_is_counted_by_the_nodes_own_devices(api: Api, space: str) -> None:
    wanted = {"much": 30000, "little": 8000, "too-much": 100000}
    await gather_limited([api.post(path(space), pod(name, space, mib=mib)) for name, mib in wanted.items()])
    found = await bound(api, space, 2)
    assert found["much"]["spec"]["nodeName"] == f"node-{LARGE:05d}"
    assert "too-much" not in found
    assert await reason(api, space, "too-much")
    devices = await shares.read(api)
    assert devices.problems == []


async def test_packing_fills_a_device_and_spreading_opens_another(api: Api, space: str, request: pytest.FixtureRequest) -> None:
    spreads = request.node.callspec.params["suite"] == "spread"
    for i in range(4):
        one = pod(f"p{i}", space, fraction=0.25)
        one["spec"]["nodeSelector"] = {"kubernetes.io/hostname": f"node-{LARGE:05d}"}
        await api.post(path(space), one)
        await bound(api, space, i + 1)
    found = await bound(api, space, 4)
    groups = Counter(group for one in found.values() for group in shares.groups_of(one))
    assert sorted(groups.values()) == ([1, 1, 1, 1] if spreads else [4])


async def test_mig_instances_are_counted_and_their_isolation_is_told(api: Api, space: str) -> None:
    def instance(name: str) -> dict[str, Any]:
        found = workload.pod(name, space, queue=space, gpus=0)
        for side in ("requests", "limits"):
            found["spec"]["containers"][0]["resources"][side][PROFILE] = "1"
        found["spec"]["nodeSelector"] = {"pool": space}
        return found

    await gather_limited([api.post(path(space), instance(f"m{i}")) for i in range(8)])
    found = await bound(api, space, 7)
    assert {p["spec"]["nodeName"] for p in found.values()} == {f"node-{MIG:05d}"}
    assert {p["metadata"]["labels"]["shoal.dev/gpu-isolation"] for p in found.values()} == {"mig"}
    (waiting,) = {f"m{i}" for i in range(8)} - found.keys()
    assert PROFILE in await reason(api, space, waiting)
    other = pod("other", space, fraction=0.5)
    other["spec"]["nodeSelector"] = {"kubernetes.io/hostname": f"node-{MIG:05d}"}
    await api.post(path(space), other)
    assert "kind of GPU" in await reason(api, space, "other")


@pytest.mark.skipif(not MANIFESTS.exists(), reason="shared/manifests is not here")
async def test_the_references_manifests_unmodified(suite: Suite, api: Api, space: str) -> None:
    kubectl = [str(suite.plane.kubectl()), "--kubeconfig", str(suite.plane.kubeconfig)]

    def run(verb: str, file: Path) -> None:
        command = [*kubectl, verb, "-f", str(file), *(["--wait=false"] if verb == "delete" else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    for name, parent in (("default-parent-queue", ""), ("default-queue", "default-parent-queue")):
        await api.post(QUEUES, workload.queue(name, parent=parent))
    files = sorted(MANIFESTS.rglob("*.yaml"))
    assert len(files) >= 5
    try:
        for file in files:
            await asyncio.to_thread(run, "apply", file)

            async def told() -> dict[str, Any] | None:
                found = await api.items(path("default"))
                return found[0] if found and found[0]["spec"].get("nodeName") else None

            one = await until(told, f"{file.name} bound")
            name = one["metadata"]["annotations"].get("gpu-fraction-container-name")
            inits = [c["name"] for c in one["spec"].get("initContainers", [])]
            index = (
                f"i{inits.index(name)}"
                if name in inits
                else str([c["name"] for c in one["spec"]["containers"]].index(name) if name else 0)
            )
            prefix = one["metadata"]["annotations"]["runai/shared-gpu-configmap"]
            maps = [await api.get(f"/api/v1/namespaces/default/configmaps/{prefix}-{index}{end}") for end in ("", "-evar")]
            data = maps[0]["data"] | (maps[1].get("data") or {})
            assert data["NVIDIA_VISIBLE_DEVICES"].startswith("GPU-"), json.dumps(data)
            assert float(data["GPU_PORTION"]) > 0
            isolation = "mps" if one["metadata"]["annotations"].get("mps") == "true" else "none"
            assert one["metadata"]["labels"]["shoal.dev/gpu-isolation"] == isolation
            await asyncio.to_thread(run, "delete", file)

            async def gone() -> bool:
                return not await api.items(path("default"))

            await until(gone, "the pod deleted")
    finally:
        for name in ("default-queue", "default-parent-queue"):
            await api.delete_queue(name)
