"""SchedulingShards on a real API server: each gets its own scheduler, which places what is in its node pool alone.

Nothing runs Deployments here, so the test runs the shard's scheduler as its pod would: with the chart's settings and those
of the shard's ConfigMap.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shoal_local import binaries
from shoal_local.suite import Suite
from shoal_model.labels import NAMESPACE, NODE_POOL
from shoal_testkit import chart, waiting, workload
from shoal_testkit.api import Api, ApiError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"
SHARDS, CONFIGS = "/apis/kai.scheduler/v1/schedulingshards", "/apis/kai.scheduler/v1/configs"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
SPACE = "pools"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
BLUE = {NODE_POOL: "blue"}


until = partial(waiting.until, limit=60.0)


async def there(api: Api, path: str) -> Any:
    try:
        return await api.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


async def gone(api: Api, path: str) -> bool:
    return await there(api, path) is None


async def condition(api: Api, path: str, kind: str, status: str, text: str) -> None:
    """Wait until a condition has that status, and a message with that text."""

    async def look() -> bool:
        found = (await api.get(path)).get("status", {}).get("conditions", [])
        return any(c["type"] == kind and c["status"] == status and text in c["message"] for c in found)

    await until(look, f"{path}: {kind} {status}: {text}")


def shard(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "kai.scheduler/v1", "kind": "SchedulingShard", "metadata": {"name": name}, "spec": spec}


def labelled(pod: dict[str, Any]) -> dict[str, Any]:
    pod["metadata"]["labels"].update(BLUE)
    return pod


@pytest.fixture
async def pool(api: Api) -> AsyncIterator[set[str]]:
    """The chart's default scheduler as an object, four nodes of the pool blue, a queue in the pool and one in none."""
    template = chart.render(binaries.tools()["helm"]).one("Deployment", "kai-scheduler-default")
    await api.post(DEPLOYMENTS, template)
    names = sorted(n["metadata"]["name"] for n in await api.items("/api/v1/nodes"))[:4]
    for name in names:
        await api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": BLUE}})
    await api.post("/api/v1/namespaces", {"metadata": {"name": SPACE}})
    blue = workload.queue("blue-queue")
    blue["metadata"]["labels"] = BLUE
    for queue in (workload.queue("plain-queue"), blue):
        await api.post(QUEUES, queue)
    yield set(names)
    for name in names:
        await api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {NODE_POOL: None}}})
    for path in (PODS, SHARDS, CONFIGS):
        await api.delete(path)
    await api.delete(f"{DEPLOYMENTS}/kai-scheduler-default")
    for queue in ("plain-queue", "blue-queue"):
        await api.delete_queue(queue)
    await api.delete(f"/api/v1/namespaces/{SPACE}")
    await until(lambda: gone(api, f"/api/v1/namespaces/{SPACE}"), "the end of the namespace")

    async def no_deployments() -> bool:
        return not await api.items(DEPLOYMENTS)

    await until(no_deployments, "the end of the shards' Deployments")


async def placed(api: Api, *names: str) -> dict[str, str]:
    async def look() -> dict[str, str] | None:
        found = {p["metadata"]["name"]: p["spec"].get("nodeName", "") for p in await api.items(PODS)}
        return found if all(found.get(n) for n in names) else None

    return await until(look, f"nodes of {', '.join(names)}")


async def test_a_shard_from_its_object_to_its_end(suite: Suite, api: Api, pool: set[str], tmp_path: Path) -> None:
    await api.post(SHARDS, shard("blue", partitionLabelValue="blue", kValue=0.5, queueDepthPerAction={"reclaim": 7}))
    made = await until(lambda: there(api, f"{DEPLOYMENTS}/kai-scheduler-blue"), "the shard's Deployment")
    settings = (await api.get(f"{CONFIG_MAPS}/shoal-shard-blue"))["data"]["config.yaml"]
    volumes = {v["name"]: v.get("configMap", {}).get("name") for v in made["spec"]["template"]["spec"]["volumes"]}
    assert (volumes["shard"], volumes["config"]) == ("shoal-shard-blue", "shoal-scheduler")
    await condition(api, f"{SHARDS}/blue", "Ready", "False", "not available")

    # Nobody serves the pool yet.
    await api.post(PODS, labelled(workload.pod("blue-0", SPACE, queue="blue-queue")))
    await api.post(PODS, workload.pod("plain-0", SPACE, queue="plain-queue"))
    assert (await placed(api, "plain-0"))["plain-0"] not in pool
    assert not (await api.get(f"{PODS}/blue-0"))["spec"].get("nodeName")

    overlay = tmp_path / "shard.yaml"
    overlay.write_text(settings)
    suite.services.spawn("scheduler-1", SHOAL_OVERLAY=str(overlay))
    try:
        await asyncio.to_thread(suite.services.wait_ready, "scheduler-1")
        group, members = workload.gang("gang", SPACE, queue="blue-queue", size=4)
        group["metadata"]["labels"].update(BLUE)
        await api.post(f"{GROUPS}/namespaces/{SPACE}/podgroups", group)
        for member in members:
            await api.post(PODS, labelled(member))
        names = [m["metadata"]["name"] for m in members]
        found = await placed(api, "blue-0", *names)
        assert {found[n] for n in ("blue-0", *names)} <= pool

        # Its reasons name its pool, and the default scheduler says nothing of them.
        await api.post(PODS, labelled(workload.pod("blue-large", SPACE, queue="blue-queue", gpus=99)))

        async def told() -> Any:
            groups = await api.items(f"{GROUPS}/namespaces/{SPACE}/podgroups")
            return [c for g in groups for c in g.get("status", {}).get("schedulingConditions", [])]

        conditions = await until(told, "why the large pod waits")
        assert {c["nodePool"] for c in conditions} == {"blue"}

        # Neither disturbs the other: with the default one dead, the shard goes on.
        suite.services.signal("scheduler-0", signal.SIGSTOP)
        await api.post(PODS, labelled(workload.pod("blue-1", SPACE, queue="blue-queue")))
        assert (await placed(api, "blue-1"))["blue-1"] in pool
        suite.services.signal("scheduler-0", signal.SIGCONT)
        await api.post(PODS, workload.pod("plain-1", SPACE, queue="plain-queue"))
        assert (await placed(api, "plain-1"))["plain-1"] not in pool
    finally:
        suite.services.signal("scheduler-0", signal.SIGCONT)
        suite.services.children.pop("scheduler-1").stop(5)

    await api.delete(f"{SHARDS}/blue")
    for path in (f"{DEPLOYMENTS}/kai-scheduler-blue", f"{CONFIG_MAPS}/shoal-shard-blue"):
        await until(lambda path=path: gone(api, path), f"the end of {path}")
    assert await there(api, f"{DEPLOYMENTS}/kai-scheduler-default")


async def test_what_can_not_be_is_told_and_disturbs_no_other(api: Api, pool: set[str]) -> None:
    await api.post(SHARDS, shard("one", partitionLabelValue="green", args={"schedule-period": "1s"}))
    await until(lambda: there(api, f"{DEPLOYMENTS}/kai-scheduler-one"), "its Deployment")
    await condition(api, f"{SHARDS}/one", "Ignored", "True", "schedule-period")
    cases = {
        "two": ({"partitionLabelValue": "green"}, "served by shard one"),
        "none": ({}, "what is in no node pool is served by shard default"),
        "wrong": ({"partitionLabelValue": "red", "actions": {"alocate": {}}}, "spec.actions.alocate"),
        "a.b": ({"partitionLabelValue": "red"}, "metadata.name"),
    }
    for name, (spec, _) in cases.items():
        await api.post(SHARDS, shard(name, **spec))
    for name, (_, text) in cases.items():
        await condition(api, f"{SHARDS}/{name}", "Deployed", "False", text)
    names = {d["metadata"]["name"] for d in await api.items(DEPLOYMENTS)}
    assert names == {"kai-scheduler-default", "kai-scheduler-one"}
    # Once the pool is free the next one has it.
    await api.delete(f"{SHARDS}/one")
    await until(lambda: there(api, f"{DEPLOYMENTS}/kai-scheduler-two"), "the Deployment of the one that waited")


async def test_options_of_the_default_shard_and_the_config_object(api: Api, pool: set[str]) -> None:
    default = f"{DEPLOYMENTS}/kai-scheduler-default"
    before = (await api.get(default))["spec"]["template"]
    await api.post(SHARDS, shard("default", placementStrategy={"gpu": "spread"}))

    async def marked() -> bool:
        return (await api.get(default))["spec"]["template"] != before

    await until(marked, "the default scheduler's restart")
    assert "gpuspread" in (await api.get(f"{CONFIG_MAPS}/shoal-shard-default"))["data"]["config.yaml"]
    await api.delete(f"{SHARDS}/default")

    async def restored() -> bool:
        return (await api.get(default))["spec"]["template"] == before

    await until(restored, "the chart's own configuration")

    config = {"apiVersion": "kai.scheduler/v1", "kind": "Config", "metadata": {"name": "kai-config"}}
    await api.post(CONFIGS, config | {"spec": {"scheduler": {"replicas": 3}, "binder": {"cdiEnabled": True}}})
    await api.post(SHARDS, shard("blue", partitionLabelValue="blue"))

    async def replicas() -> bool:
        found = await there(api, f"{DEPLOYMENTS}/kai-scheduler-blue")
        return found is not None and found["spec"]["replicas"] == 3

    await until(replicas, "three replicas")
    await condition(api, f"{CONFIGS}/kai-config", "Ignored", "True", "spec.binder.cdiEnabled")
