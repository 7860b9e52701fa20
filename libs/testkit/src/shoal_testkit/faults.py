"""The fault campaign's script: which part is hit, when, and what must be true afterwards. It reads only the API."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError, gather_limited
from shoal_testkit.history import History

GROUPS = "/apis/scheduling.run.ai/v2alpha2"


@dataclass
class Report:
    """What a run saw."""

    fault: str
    seed: int
    bound_at_fault: int = 0
    total: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def hit_open_work(self) -> bool:
        """Whether there was work under way when the fault struck."""
        return 0 < self.bound_at_fault < self.total


async def campaign(
    api: Api, namespace: str, fault: str, seed: int, strike: Callable[[], Any], *, gangs: int, size: int, limit: float
) -> Report:
    """Submit gangs, strike between 20 and 80 % of the bindings, wait until all is bound, and check the history."""
    rng = random.Random(seed)
    report = Report(fault, seed, total=gangs * size)
    nodes = {
        n["metadata"]["name"]: int(n["status"]["allocatable"].get("nvidia.com/gpu", 0))
        for n in await api.items("/api/v1/nodes")
    }
    history = History(nodes)
    recorder = asyncio.create_task(history.follow(api, namespace))
    await asyncio.sleep(0.5)
    began = asyncio.get_running_loop().time()
    made = [workload.gang(f"g{i}", namespace, queue=namespace, size=size) for i in range(gangs)]
    await gather_limited([api.post(f"{GROUPS}/namespaces/{namespace}/podgroups", g) for g, _ in made])
    at = int(report.total * rng.uniform(0.2, 0.8))

    async def hit() -> None:
        await history.until_bound(at, limit)
        report.bound_at_fault = history.bound
        await asyncio.to_thread(strike)

    # The pods come in little by little, so that the fault finds creation, decisions and bindings under way.
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hit())
        for _, members in made:
            for member in members:
                await persist(api, f"/api/v1/namespaces/{namespace}/pods", member)
    whole = await history.until_bound(report.total, limit)
    report.seconds = asyncio.get_running_loop().time() - began
    if not whole:
        report.problems.append(f"{history.bound} of {report.total} bound after {limit:.0f} s")
    # Whatever is still to come out must come out: late posts, double bindings.
    await asyncio.sleep(1.0)
    if recorder.done():
        report.problems.append(f"the watch history ends early: {recorder.exception()}")
    recorder.cancel()
    report.problems += history.problems
    report.problems += [f"gang {gang} is partial: {how}" for gang, how in history.partial_gangs().items()]
    for pod in await api.items(f"/api/v1/namespaces/{namespace}/pods"):
        if not pod["spec"].get("nodeName"):
            conditions = [c.get("message") for c in pod["status"].get("conditions", [])]
            report.problems.append(f"{pod['metadata']['name']} has no node: {conditions}")
    return report


async def persist(api: Api, path: str, body: dict[str, Any], limit: float = 60.0) -> None:
    """POST until the API has it, whatever happens to the API meanwhile."""
    async with asyncio.timeout(limit):
        while True:
            try:
                await api.post(path, body)
                return
            except ApiError as error:
                if error.status == 409:
                    return
                if error.status < 500 and error.status != 429:
                    raise
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.1)
