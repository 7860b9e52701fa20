"""PodDisruptionBudgets on the real API server with the real disruption controller: nobody goes below one.

A service under a budget runs on nodes of its own, and work comes that wants its room, by each action that evicts. ``make test``
does so a few times, ``make budgets`` 300 times.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from shoal_local import nodes
from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError, gather_limited
from shoal_testkit.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(7200)]
AT_A_TIME = 4
FEWEST = 6
QUEUES = "/apis/scheduling.run.ai/v2/queues"
ACTIONS = ("reclaim", "preempt", "consolidation")
HIGH = "budget-high"
SIZE = 4
"""GPUs of a node, pods of the service."""


@dataclass
class Watched:
    """What the API's history says of the service's pods."""

    ready: dict[str, str] = field(default_factory=dict)
    """Uid -> name of those that are Ready and not being deleted."""
    least: int = SIZE
    steady: bool = False
    """All were ready once: from then on ``least`` is kept."""
    problems: list[str] = field(default_factory=list)

    def see(self, event: dict[str, Any]) -> bool:
        """Take in a watch event; True if a pod of the service is gone."""
        pod = event["object"]
        meta = pod["metadata"]
        if meta.get("labels", {}).get("app") != "web":
            return False
        conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", ())}
        if event["type"] != "DELETED" and conditions.get("Ready") == "True" and "deletionTimestamp" not in meta:
            self.ready[meta["uid"]] = meta["name"]
        else:
            self.ready.pop(meta["uid"], None)
        if self.steady:
            self.least = min(self.least, len(self.ready))
        return event["type"] == "DELETED"


class Run:
    """One run: ``seed`` chooses the action, who is in the way, and what waits."""

    def __init__(self, api: Api, seed: int) -> None:
        self.api, self.random = api, random.Random(seed)
        self.name = f"budget-{seed}"
        self.action = ACTIONS[seed % len(ACTIONS)]
        self.watched = Watched()
        self.path = f"/api/v1/namespaces/{self.name}/pods"
        self.state = ""
        """What was seen last, for the report of a run that failed."""
        self._nodes = [f"{self.name}-{i}" for i in range(2)]

    async def run(self) -> None:
        """Set up, let the work come, wait for what has to happen. Raises AssertionError."""
        await self._prepare()
        try:
            async with asyncio.TaskGroup() as tasks:
                # From before the first pod: one that is Ready at once is not missed.
                version = (await self.api.get(self.path))["metadata"]["resourceVersion"]
                watching = tasks.create_task(self._watch(version))
                await self._fill()
                self.watched.steady = True
                await self._want()
                watching.cancel()
        finally:
            await self._clean()
        assert self.watched.least >= SIZE - 1, f"{self.name} ({self.action}): {self.watched.least} of {SIZE} were ready"

    # parts

    async def _prepare(self) -> None:
        api = self.api
        await api.post("/api/v1/namespaces", {"metadata": {"name": self.name}})
        with contextlib.suppress(ApiError):
            await api.post("/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": HIGH}, "value": 80})
        await api.post(QUEUES, workload.queue(f"{self.name}-theirs", gpu=2 * SIZE if self.action == "consolidation" else 0))
        await api.post(QUEUES, workload.queue(f"{self.name}-mine", gpu=2 * SIZE))
        for i, name in enumerate(self._nodes):
            node = nodes.node(i, SIZE)
            node["metadata"]["name"] = name
            node["metadata"]["labels"] |= {"kubernetes.io/hostname": name, "run": self.name}
            await api.post("/api/v1/nodes", node)

    def _pod(self, name: str, queue: str, gpus: int = 1, on: str = "", app: str = "", priority: str = "") -> dict[str, Any]:
        pod = workload.pod(name, self.name, queue=f"{self.name}-{queue}", gpus=gpus)
        pod["metadata"]["labels"] |= {"app": app} if app else {}
        pod["spec"]["nodeSelector"] = {"run": self.name} | ({"kubernetes.io/hostname": on} if on else {})
        if priority:
            pod["spec"]["priorityClassName"] = priority
        return pod

    async def _fill(self) -> None:
        """The service, its budget, and, but for consolidation, others beside it until the nodes are full."""
        api, spread = self.api, self.action == "consolidation"
        made = [(f"web-{i}", "web", self._nodes[i % 2] if spread else "") for i in range(SIZE)]
        if not spread:
            made += [(f"other-{i}", "", "") for i in range(SIZE)]
            self.random.shuffle(made)
        budget = {
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
            "spec": {"minAvailable": SIZE - 1, "selector": {"matchLabels": {"app": "web"}}},
        }  # fmt: skip
        await api.post(f"/apis/policy/v1/namespaces/{self.name}/poddisruptionbudgets", budget)
        for name, app, on in made:
            pod = self._pod(name, "theirs", on=on, app=app)
            if on:
                # Only at first: it may be moved.
                pod["spec"].pop("nodeSelector")
                pod["spec"]["nodeName"] = on
            await api.post(self.path, pod)

        async def full() -> bool:
            status = (await api.get(f"/apis/policy/v1/namespaces/{self.name}/poddisruptionbudgets/web")).get("status", {})
            running = sum(p["status"]["phase"] == "Running" for p in await api.items(self.path))
            self.state = f"{running} of {len(made)} run, {sorted(self.watched.ready.values())} ready, budget {status}"
            return running == len(made) and status.get("disruptionsAllowed") == 1 and len(self.watched.ready) == SIZE

        await until(full, f"{self.name}: the service runs", 120.0)

    async def _want(self) -> None:
        """Work comes; as much of it starts as the budget lets, and the rest is told of the budget."""
        priority = HIGH if self.action == "preempt" else ""
        queue = {"reclaim": "mine"}.get(self.action, "theirs")
        if self.action == "consolidation":
            gpus = self.random.choice((3, 4))
            await self.api.post(self.path, self._pod("want-0", queue, gpus=gpus))
            starts, count = int(gpus == 3), 1
        else:
            count = self.random.randint(1, SIZE + 3)
            for i in range(count):
                await self.api.post(self.path, self._pod(f"want-{i}", queue, priority=priority))
            # The others make room for so many, and the service for one more.
            starts = min(count, SIZE + 1)

        async def settled() -> bool:
            pods = [p for p in await self.api.items(self.path) if p["metadata"]["name"].startswith("want-")]
            running = sum(p["status"]["phase"] == "Running" for p in pods)
            told = sum(
                c["type"] == "PodScheduled"
                and c["status"] == "False"
                and f"PodDisruptionBudget {self.name}/web" in c["message"]
                for p in pods
                for c in p["status"].get("conditions", ())
            )
            self.state = f"{running} run, {told} told, {len(self.watched.ready)} ready"
            return running == starts and told == count - starts

        await until(settled, f"{self.name} ({self.action}): {starts} of {count} start, the rest is told of the budget", 120.0)

    async def _watch(self, version: str) -> None:
        """Follow the pods; what goes of the service is made again under its name."""
        async for event in self.api.watch(self.path, version):
            gone = self.watched.see(event)
            if gone and self.watched.steady:
                await self.api.post(self.path, self._pod(event["object"]["metadata"]["name"], "theirs", app="web"))

    async def _clean(self) -> None:
        for path in (
            f"/apis/policy/v1/namespaces/{self.name}/poddisruptionbudgets/web", *(f"/api/v1/nodes/{n}" for n in self._nodes),
        ):  # fmt: skip
            with contextlib.suppress(ApiError):
                await self.api.delete(path)
        with contextlib.suppress(ApiError):
            await self.api.call("DELETE", self.path)
            await self.api.delete(f"/api/v1/namespaces/{self.name}")
        for queue in ("theirs", "mine"):
            with contextlib.suppress(ApiError):
                await self.api.delete_queue(f"{self.name}-{queue}")


async def test_no_budget_is_ever_broken(api: Api, request: pytest.FixtureRequest) -> None:
    first, failed = request.config.getoption("--first"), []
    seeds = range(first, first + max(FEWEST, request.config.getoption("--seeds")))
    moving = [seed for seed in seeds if ACTIONS[seed % len(ACTIONS)] == "consolidation"]

    async def one(seed: int) -> None:
        run = Run(api, seed)
        try:
            await run.run()
        except Exception as error:  # the other runs go on
            failed.append((seed, repr(error), run.state))

    await gather_limited([one(seed) for seed in seeds if seed not in moving], AT_A_TIME)
    # Consolidation looks at 16 jobs, of whatever run.
    await gather_limited([one(seed) for seed in moving], AT_A_TIME - 1)
    assert not failed, f"of {len(seeds)} runs: {failed}"


@pytest.mark.parametrize("budgets", [1, 2])
async def test_a_queue_that_ignores_budgets_says_so_on_pod_and_budget(api: Api, budgets: int) -> None:
    name = f"ignoring-{budgets}"
    run = Run(api, 0)
    run.name, run.path, run._nodes = name, f"/api/v1/namespaces/{name}/pods", [f"{name}-0"]
    await run._prepare()
    try:
        await api.patch(f"{QUEUES}/{name}-theirs", {"metadata": {"annotations": {"shoal.dev/ignore-budgets": "true"}}})
        paths = f"/apis/policy/v1/namespaces/{name}/poddisruptionbudgets"
        for i in range(budgets):
            spec = {"maxUnavailable": 0, "selector": {}}
            await api.post(paths, {"metadata": {"name": f"b{i}"}, "spec": spec})
        await api.post(run.path, run._pod("old", "theirs", gpus=SIZE))
        await until(lambda: _running(api, f"{run.path}/old"), "the old pod runs")
        await api.post(run.path, run._pod("new", "mine", gpus=SIZE))
        await until(lambda: _running(api, f"{run.path}/new"), "the new pod runs")

        async def told() -> bool:
            events = await api.items(f"/api/v1/namespaces/{name}/events")
            about = {e["involvedObject"]["kind"] for e in events if e["reason"] == "BudgetIgnored"}
            return about == {"Pod", "PodDisruptionBudget"}

        await until(told, "events on pod and budget")
    finally:
        await run._clean()


async def _running(api: Api, path: str) -> bool:
    return (await api.get(path))["status"]["phase"] == "Running"
