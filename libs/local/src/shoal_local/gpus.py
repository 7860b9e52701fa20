"""GPUs of KWOK nodes, where nothing runs: gives each reservation pod a device of its node, as the kubelet's device plugin
and the reservation program would. It can be told to answer late, wrong, or never.

``python -m shoal_local.gpus`` with KUBECONFIG; the node annotation ``shoal.dev/simulated-gpus`` sets how its devices behave:
words ``delay=SECONDS``, ``fail=PART`` (the pod fails), ``never=PART`` (no answer), ``same=PART`` (a device that another
group holds already); a part is a probability.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from dataclasses import dataclass
from typing import Any

import aiohttp

from shoal_model import labels
from shoal_testkit.api import Api, ApiError

BEHAVIOUR = "shoal.dev/simulated-gpus"
PODS = f"/api/v1/namespaces/{labels.RESERVATION_NAMESPACE}/pods"
RETRY = 0.2


@dataclass(frozen=True)
class Behaviour:
    """How the devices of a node behave."""

    delay: float = 0.0
    fail: float = 0.0
    never: float = 0.0
    same: float = 0.0


def behaviour(text: str) -> Behaviour:
    """Read the annotation. Raises ValueError for words that it does not know."""
    found = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in Behaviour.__dataclass_fields__:
            raise ValueError(f"unknown behaviour {word!r}")
        found[name] = float(value)
    return Behaviour(**found)


def device(node: str, number: int) -> str:
    """UUID of a device."""
    return f"GPU-{node}-{number}"


class Simulator:
    """The devices of all nodes."""

    def __init__(self, api: Api, seed: int = 0) -> None:
        self._api, self._random = api, random.Random(seed)
        self._held: dict[str, dict[str, str]] = {}
        """Node -> reservation uid -> device."""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    found = await self._api.get(PODS)
                    there = {pod["metadata"]["uid"] for pod in found["items"]}
                    for held in self._held.values():
                        for uid in held.keys() - there:
                            del held[uid]
                    for pod in found["items"]:
                        self._see("ADDED", pod, tasks)
                    async for event in self._api.watch(PODS, found["metadata"]["resourceVersion"]):
                        self._see(event["type"], event["object"], tasks)
                except (ApiError, aiohttp.ClientError, OSError):
                    await asyncio.sleep(RETRY)

    def _see(self, kind: str, pod: dict[str, Any], tasks: asyncio.TaskGroup) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
        held = self._held.setdefault(node, {})
        if kind == "DELETED" or pod["status"].get("phase") in ("Failed", "Succeeded"):
            held.pop(uid, None)
            if task := self._tasks.pop(uid, None):
                task.cancel()
            return
        if known := pod["metadata"].get("annotations", {}).get(labels.DEVICE):
            held[uid] = known
        elif uid not in self._tasks:
            self._tasks[uid] = tasks.create_task(self._give(pod, node))

    async def _give(self, pod: dict[str, Any], node: str) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        while True:
            try:
                await self._try(uid, name, node)
                return
            except (ApiError, aiohttp.ClientError, OSError) as error:
                if isinstance(error, ApiError) and error.status == 404:
                    return
                await asyncio.sleep(RETRY)

    async def _try(self, uid: str, name: str, node: str) -> None:
        found = await self._api.get(f"/api/v1/nodes/{node}")
        try:
            how = behaviour(found["metadata"].get("annotations", {}).get(BEHAVIOUR, ""))
        except ValueError as error:
            print(f"{node}: {error}", file=sys.stderr)
            how = Behaviour()
        await asyncio.sleep(how.delay)
        chance = self._random.random()
        if chance < how.never:
            return
        held = self._held.setdefault(node, {})
        if chance < how.never + how.fail:
            status = {"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "told to fail"}}
            await self._api.patch(f"{PODS}/{name}/status", status)
            return
        count = int(found["status"]["allocatable"].get(labels.GPU, 0))
        if chance < how.never + how.fail + how.same and held:
            chosen = next(iter(held.values()))
        else:
            while True:
                whole = await self._whole(node)
                free = [d for i in range(count) if (d := device(node, i)) not in held.values()]
                # Whole devices are given from the end; which ones a pod has does not matter here.
                if len(free) > whole:
                    break
                await asyncio.sleep(RETRY)
            chosen = free[0]
        held[uid] = chosen
        metadata = {"uid": uid, "annotations": {labels.DEVICE: chosen}}
        await self._api.patch(f"{PODS}/{name}", {"metadata": metadata})

    async def _whole(self, node: str) -> int:
        """Devices that pods of the node have as a whole."""
        total = 0
        for pod in await self._api.items(f"/api/v1/pods?fieldSelector=spec.nodeName={node}"):
            if pod["metadata"]["namespace"] == labels.RESERVATION_NAMESPACE:
                continue
            if pod["status"].get("phase") in ("Failed", "Succeeded"):
                continue
            requests = (c.get("resources", {}).get("requests", {}) for c in pod["spec"]["containers"])
            total += sum(int(r.get(labels.GPU, 0)) for r in requests)
        return total


async def simulate(kubeconfig: str) -> None:
    """Simulate until cancelled."""
    async with Api.connect(kubeconfig, agent="shoal-gpus") as api:
        await Simulator(api).run()


if __name__ == "__main__":
    asyncio.run(simulate(os.environ["KUBECONFIG"]))
