"""What the API's watch history says of a run: who was bound where and when, and whether any room was taken twice."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from shoal_testkit.api import Api, ApiError


@dataclass
class History:
    """Recorded pod events, in the API's order. ``problems`` lists what must never be seen."""

    allocatable: dict[str, int]
    """Node -> GPUs."""
    node_of: dict[str, str] = field(default_factory=dict)
    gpus_of: dict[str, int] = field(default_factory=dict)
    name_of: dict[str, str] = field(default_factory=dict)
    gang_of: dict[str, str] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    bound_at: dict[str, float] = field(default_factory=dict)
    """Pod uid -> loop time at which the binding was seen."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def bound(self) -> int:
        """Pods bound so far."""
        return len(self.bound_at)

    def see(self, event: dict[str, Any]) -> None:
        """Take in one watch event."""
        pod = event["object"]
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
        self.name_of[uid] = pod["metadata"]["name"]
        self.gang_of[uid] = pod["metadata"].get("annotations", {}).get("pod-group-name", "")
        self.gpus_of[uid] = sum(
            int(c.get("resources", {}).get("requests", {}).get("nvidia.com/gpu", 0)) for c in pod["spec"]["containers"]
        )
        before = self.node_of.get(uid, "")
        gone = event["type"] == "DELETED" or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if before and node and before != node:
            self.problems.append(f"{self.name_of[uid]} moved from {before} to {node}")
        if node and not before and not gone:
            self.node_of[uid] = node
            self.used[node] += self.gpus_of[uid]
            self.bound_at[uid] = asyncio.get_running_loop().time()
            if self.used[node] > self.allocatable.get(node, 0):
                self.problems.append(
                    f"{node} holds {self.used[node]} of {self.allocatable.get(node, 0)} GPUs after {self.name_of[uid]}"
                )
        if before and gone:
            self.used[before] -= self.gpus_of[uid]
            del self.node_of[uid]
        self.changed.set()

    def partial_gangs(self) -> dict[str, str]:
        """Gang -> "bound of all" for every gang of which only some pods are bound."""
        total: Counter[str] = Counter()
        have: dict[str, int] = defaultdict(int)
        for uid, gang in self.gang_of.items():
            if gang:
                total[gang] += 1
                have[gang] += uid in self.node_of
        return {g: f"{have[g]} of {total[g]}" for g in total if 0 < have[g] < total[g]}

    async def follow(self, api: Api, namespace: str) -> None:
        """Record until cancelled; start before the pods are created.

        A server that was restarted has forgotten its history: then the pods are listed. As a binding is for good, no
        pod that still exists can have been somewhere else meanwhile.
        """
        path = f"/api/v1/namespaces/{namespace}/pods"
        while True:
            try:
                found = await api.get(path)
                listed = {pod["metadata"]["uid"] for pod in found["items"]}
                for pod in found["items"]:
                    self.see({"type": "MODIFIED", "object": pod})
                for uid in set(self.node_of) - listed:
                    self.used[self.node_of.pop(uid)] -= self.gpus_of[uid]
                async for event in api.watch(path, found["metadata"]["resourceVersion"]):
                    self.see(event)
            except (ApiError, aiohttp.ClientError, OSError):
                await asyncio.sleep(0.2)

    async def until_bound(self, count: int, timeout: float) -> bool:
        """Wait until ``count`` pods were bound; False after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.bound < count:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True
