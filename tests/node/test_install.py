"""The chart on the real node: installed, used by real containers, upgraded, rolled back, removed and installed again.

The tests of this file follow one release through its life, in the order in which they stand.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal_local.node import kubelet, place
from shoal_local.node.gpus import device_ids
from shoal_model.labels import NODE_POOL, RESERVATION_NAMESPACE
from shoal_testkit import workload
from shoal_testkit.api import Api

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "shoal"
SPACE, RELEASE = "kai-scheduler", "shoal"
VALUES = (
    f"global.registry={place.REGISTRY}", f"global.tag={place.TAG}", f"nats.image.tag={place.TAG}",
    "nats.persistence.enabled=false", "global.gpuSharing=true",
)  # fmt: skip
LIMIT = 90.0
SHOW = "import os, signal; print(os.environ.get('NVIDIA_VISIBLE_DEVICES', 'none'), flush=True); signal.pause()"


class Helm:
    """Helm on the real node."""

    def __init__(self, node: Any) -> None:
        access = ["--kubeconfig", str(node.kubeconfig), "--namespace", SPACE]
        self._command, self._kubectl = [str(node.helm), *access], [str(node.kubectl), *access]

    def run(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False, timeout=400)
        if done.returncode:
            pytest.fail(f"helm {' '.join(arguments[:2])}: {done.stderr[-2000:]}\n{self.state()}")
        return done.stdout

    def state(self) -> str:
        """The release's pods, and the last words of those that are not ready."""
        text = subprocess.run([*self._kubectl, "get", "pods", "-o", "wide"], capture_output=True, text=True, check=False).stdout
        for line in text.splitlines()[1:]:
            name, ready = line.split()[:2]
            if ready.split("/")[0] != ready.split("/")[1]:
                for command in (
                    ["describe", "pod", name],
                    ["logs", name, "--tail=15"],
                    ["logs", name, "--previous", "--tail=15"],
                ):
                    done = subprocess.run([*self._kubectl, *command], capture_output=True, text=True, check=False)
                    text += f"\n--- {' '.join(command)}\n{done.stdout[-1800:]}{done.stderr[-300:]}"
        return text

    def scale(self, replicas: int, *deployments: str) -> None:
        """``kubectl scale``."""
        command = [*self._kubectl, "scale", f"--replicas={replicas}", *(f"deployment/{d}" for d in deployments)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def put(self, verb: str, *settings: str) -> float:
        """Install or upgrade with the test's values; gives the seconds until all was ready."""
        began = time.monotonic()
        given = [part for value in (*VALUES, *settings) for part in ("--set", value)]
        extra = ["--create-namespace"] if verb == "install" else []
        self.run(verb, RELEASE, str(CHART), *extra, *given, "--wait", "--timeout", "240s")
        return time.monotonic() - began


@pytest.fixture(scope="module")
def helm(real_node: Any, suite_images: None) -> Iterator[Helm]:
    """Helm; afterwards the release and the pods are gone, and all devices free."""
    helm = Helm(real_node)
    yield helm
    helm.run("uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout", "120s")
    kubectl = [str(real_node.kubectl), "--kubeconfig", str(real_node.kubeconfig)]
    for space in ("default", RESERVATION_NAMESPACE):
        subprocess.run([*kubectl, "delete", "pods", "--all", "--now", "-n", space], check=True, timeout=120)


@pytest.fixture
def pods() -> str:
    return "/api/v1/namespaces/default/pods"


def real(found: dict[str, Any]) -> dict[str, Any]:
    """The pod with an image of this node that prints its device and stays; the node is small, so its CPU is too."""
    for container in found["spec"]["containers"]:
        container |= {"image": place.image("base"), "command": ["python3", "-c", SHOW], "args": []}
        for kind in container.get("resources", {}).values():
            kind |= {name: size for name, size in (("cpu", "20m"), ("memory", "32Mi")) if name in kind}
    found["spec"]["terminationGracePeriodSeconds"] = 0
    return found


async def running(api: Api, path: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """The pods by name once they all run; fails with the state of those that don't."""
    found: dict[str, dict[str, Any]] = {}
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                found = {p["metadata"]["name"]: p for p in await api.items(path) if p["metadata"]["name"] in names}
                if len(found) == len(names) and all(p["status"]["phase"] == "Running" for p in found.values()):
                    return found
                await asyncio.sleep(0.1)
    except TimeoutError:
        late = {n: p["status"] for n, p in found.items() if p["status"]["phase"] != "Running"}
        pytest.fail(f"not running: {late or set(names) - set(found)}")


async def until(look: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(LIMIT):
            while not await look():
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"not seen in {LIMIT:.0f} s: {what}")


async def device(api: Api, path: str, name: str) -> str:
    """What the container printed."""
    async with asyncio.timeout(LIMIT):
        while not (text := await api.get(f"{path}/{name}/log")):
            await asyncio.sleep(0.1)
    return text.strip()


def lives(found: dict[str, dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """What must stay as it is while a pod is left alone: its UID, its container and how often that was started."""
    return {
        name: (p["metadata"]["uid"], c["containerID"], c["restartCount"])
        for name, p in found.items() for c in p["status"]["containerStatuses"]
    }  # fmt: skip


async def test_install_and_the_quickstart_runs(helm: Helm, api: Api, pods: str) -> None:
    began = time.monotonic()
    ready = helm.put("install")
    names = []
    for found in yaml.safe_load_all((ROOT / "examples/quickstart/pods.yaml").read_text()):
        names.append(found["metadata"]["name"])
        await api.post(pods, real(found))
    await running(api, pods, names)
    whole = time.monotonic() - began
    print(f"\ninstalled and ready in {ready:.1f} s; the quickstart's containers run {whole:.1f} s after the start")
    assert await device(api, pods, "cpu-only") == "none"
    assert await device(api, pods, "one-gpu") in device_ids(kubelet.GPUS)


async def test_a_gang_runs_with_devices_of_its_own(helm: Helm, api: Api, pods: str) -> None:
    group, members = workload.gang("train", "default", queue="default-queue", size=4, gpus=1)
    await api.post("/apis/scheduling.run.ai/v2alpha2/namespaces/default/podgroups", group)
    for member in members:
        await api.post(pods, real(member))
    names = [m["metadata"]["name"] for m in members]
    await running(api, pods, names)
    given = [await device(api, pods, n) for n in [*names, "one-gpu"]]
    assert len(set(given)) == 5
    assert set(given) <= set(device_ids(kubelet.GPUS))


async def test_two_halves_share_one_device(helm: Helm, api: Api, pods: str) -> None:
    for name in ("half-a", "half-b"):
        found = workload.pod(name, "default", queue="default-queue", gpus=0)
        found["metadata"].setdefault("annotations", {})["gpu-fraction"] = "0.5"
        await api.post(pods, real(found))
    await running(api, pods, ["half-a", "half-b"])
    shared = {await device(api, pods, n) for n in ("half-a", "half-b")}
    assert len(shared) == 1, "both are packed onto one device"
    others = {await device(api, pods, n) for n in ("one-gpu", *(f"train-{i}" for i in range(4)))}
    assert shared <= set(device_ids(kubelet.GPUS)) - others


async def test_upgrade_rollback_and_a_new_install_leave_running_pods_alone(helm: Helm, api: Api, pods: str) -> None:
    names = [p["metadata"]["name"] for p in await api.items(pods)]
    assert len(names) == 8
    before = lives(await running(api, pods, names))

    async def still_schedules(name: str) -> None:
        await api.post(pods, real(workload.pod(name, "default", queue="default-queue", gpus=0)))
        await running(api, pods, [name])
        assert lives(await running(api, pods, names)) == before

    helm.put("upgrade", "global.logLevel=debug")
    await still_schedules("after-upgrade")
    helm.run("rollback", RELEASE, "1", "--wait", "--timeout", "240s")
    await still_schedules("after-rollback")
    queues = {q["metadata"]["name"]: q["metadata"]["uid"] for q in await api.items("/apis/scheduling.run.ai/v2/queues")}
    helm.run("uninstall", RELEASE, "--wait", "--timeout", "240s")
    assert lives(await running(api, pods, names)) == before
    kept = {q["metadata"]["name"]: q["metadata"]["uid"] for q in await api.items("/apis/scheduling.run.ai/v2/queues")}
    assert kept == queues, "CRDs and queues survive"
    helm.put("install")
    await still_schedules("after-install")
    half = workload.pod("half-c", "default", queue="default-queue", gpus=0)
    half["metadata"].setdefault("annotations", {})["gpu-fraction"] = "0.5"
    await api.post(pods, real(half))
    await running(api, pods, ["half-c"])
    assert await device(api, pods, "half-c") != await device(api, pods, "half-a"), "what is shared is known again"


async def test_binders_and_managers_are_scaled_while_pods_are_bound(helm: Helm, api: Api, pods: str) -> None:
    names = [f"burst-{i}" for i in range(24)]
    for i, name in enumerate(names):
        found = workload.pod(name, "default", queue="default-queue", gpus=0)
        if i % 12 == 0:
            found["metadata"].setdefault("annotations", {})["gpu-fraction"] = "0.2"
        await api.post(pods, real(found))
        if i in (6, 12, 18):
            replicas = {6: 3, 12: 2, 18: 1}[i]
            helm.scale(replicas, "binder", "gpu-reservation")
    await running(api, pods, names)
    for name in names:
        await api.delete(f"{pods}/{name}")


async def test_a_shard_gets_a_scheduler_that_places_its_pods(helm: Helm, api: Api, pods: str) -> None:
    shards = "/apis/kai.scheduler/v1/schedulingshards"
    (node,) = [n["metadata"]["name"] for n in await api.items("/api/v1/nodes")]
    spec = {"partitionLabelValue": "blue"}
    body = {"apiVersion": "kai.scheduler/v1", "kind": "SchedulingShard", "metadata": {"name": "blue"}, "spec": spec}
    began = time.monotonic()
    await api.post(shards, body)

    async def ready() -> bool:
        status = (await api.get(f"{shards}/blue")).get("status", {})
        return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))

    async def schedulers() -> list[str]:
        found = await api.items(f"/api/v1/namespaces/{SPACE}/pods")
        return [p["metadata"]["name"] for p in found if p["metadata"]["labels"].get("app") == "kai-scheduler-blue"]

    await until(ready, f"the shard ready\n{helm.state()}")
    print(f"\nthe shard's scheduler is ready {time.monotonic() - began:.1f} s after the shard was made")
    queue = workload.queue("blue-queue")
    queue["metadata"]["labels"] = {NODE_POOL: "blue"}
    await api.post("/apis/scheduling.run.ai/v2/queues", queue)
    await api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {NODE_POOL: "blue"}}})
    try:
        await api.post(pods, real(workload.pod("plain", "default", queue="default-queue", gpus=0)))
        blue = real(workload.pod("blue", "default", queue="blue-queue", gpus=1))
        blue["metadata"]["labels"][NODE_POOL] = "blue"
        await api.post(pods, blue)
        await running(api, pods, ["blue"])
        assert await device(api, pods, "blue") in device_ids(kubelet.GPUS)
        assert not (await api.get(f"{pods}/plain"))["spec"].get("nodeName"), "the default scheduler has no node now"
    finally:
        await api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {NODE_POOL: None}}})
    await running(api, pods, ["plain"])
    await api.delete(f"{shards}/blue")

    async def none() -> bool:
        return not await schedulers()

    await until(none, "the end of the shard's scheduler")
    assert await running(api, pods, ["blue"])
    for path in (f"{pods}/blue", f"{pods}/plain"):
        await api.delete(path)
    await api.delete_queue("blue-queue")
