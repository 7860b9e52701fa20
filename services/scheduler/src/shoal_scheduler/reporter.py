"""Say on the objects why they wait: once it has lasted, and again only when it is another reason."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from shoal_contracts.state import GroupRecord, PodRecord
from shoal_core import Waiting
from shoal_kube import Conflict, Kube, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import POD_GROUPS, PODS
from shoal_model.quantity import number, rfc3339
from shoal_service import Context

Key = tuple[str, str]
NUMBERS_AFTER = 30.0
"""Seconds after which a message of the same reason, with other numbers, is written again."""
LONGEST = 1000
WRITERS = 4


@dataclass
class Told:
    """What is known of a waiting group. Times are monotonic."""

    waiting: Waiting
    since: float
    written: tuple[str, str] | None = None
    written_at: float = 0.0
    busy: bool = False
    """It is being written: two writes at a time could end with the older one."""


class Reporter:
    """Takes each cycle's reasons and writes conditions and events from a bounded number of tasks."""

    def __init__(self, context: Context[Any], kube: Kube, recorder: Recorder, settle: float, node_pool: str) -> None:
        self._context, self._kube, self._recorder, self._settle = context, kube, recorder, settle
        self._node_pool = node_pool or "default"
        self._told: dict[Key, Told] = {}
        self._transitions: dict[Key, int] = {}
        self.groups: dict[Key, GroupRecord] = {}
        self.pods: dict[str, PodRecord] = {}

    def cycle(self, waiting: list[Waiting], started: set[Key]) -> None:
        """The reasons of a cycle, and the groups of which something started."""
        now = self._context.clock.monotonic()
        for found in waiting:
            key = (found.namespace, found.group)
            told = self._told.get(key)
            if told is None:
                self._told[key] = Told(found, now)
            elif told.waiting.code != found.code:
                told.waiting, told.since = found, now
            else:
                told.waiting = found
        for key in started - {(w.namespace, w.group) for w in waiting}:
            self._told.pop(key, None)

    def forget(self, key: Key) -> None:
        """The group is gone."""
        self._told.pop(key, None)
        self._transitions.pop(key, None)

    def due(self, now: float) -> list[Key]:
        """Groups of which something is to be written."""
        found = []
        for key, told in self._told.items():
            if told.busy or now - told.since < self._settle:
                continue
            say = (told.waiting.code, told.waiting.message)
            if told.written is None or told.written[0] != say[0] or (
                told.written != say and now - told.written_at > NUMBERS_AFTER
            ):  # fmt: skip
                found.append(key)
        return found

    async def run(self) -> None:
        """Write, for ever."""
        gate = asyncio.Semaphore(WRITERS)
        async with asyncio.TaskGroup() as tasks:
            while True:
                for key in self.due(self._context.clock.monotonic()):
                    await gate.acquire()
                    # Cycles go on while writers are waited for: the group may have started, or be gone.
                    told = self._told.get(key)
                    if told is None:
                        gate.release()
                        continue
                    told.written = (told.waiting.code, told.waiting.message)
                    told.written_at, told.busy = self._context.clock.monotonic(), True
                    tasks.create_task(self._write(key, told, gate))
                await asyncio.sleep(0.5)

    async def _write(self, key: Key, told: Told, gate: asyncio.Semaphore) -> None:
        try:
            waiting, group = told.waiting, self.groups.get(key)
            if group is not None:
                await self._write_group(group, waiting)
            for uid in waiting.pods[:100]:
                pod = self.pods.get(uid)
                if (
                    pod is not None
                    and not pod.node
                    and not pod.deleted
                    and (group is None or group.mark_unschedulable is not False)
                ):
                    try:
                        await self._write_pod(pod, waiting)
                    except NotFound:
                        continue
                    except Conflict:
                        # Its news are on their way: it may be bound.
                        told.written = None
        except NotFound:
            return
        except KubeError as error:
            self._context.log.info("reason not written, again later", group=key, error=str(error))
            told.written = None
        finally:
            told.busy = False
            gate.release()

    async def _write_group(self, group: GroupRecord, waiting: Waiting) -> None:
        key = (group.namespace, group.name)
        known = max([self._transitions.get(key, 0), *(number(c.transition) or 0 for c in group.conditions)])
        self._transitions[key] = known + 1
        condition = {
            "type": "UnschedulableOnNodePool", "nodePool": self._node_pool, "status": "True", "reason": "Unschedulable",
            "message": waiting.message[:LONGEST], "transitionID": str(known + 1),
            "lastTransitionTime": rfc3339(self._context.clock.now()),
            "reasons": [{"reason": waiting.code, "message": waiting.message[:LONGEST]}],
        }  # fmt: skip
        await self._kube.merge_patch(
            POD_GROUPS.path(group.name, group.namespace, "status"), {"status": {"schedulingConditions": [condition]}}
        )
        about = Ref("scheduling.run.ai/v2alpha2", "PodGroup", group.namespace, group.name, group.uid)
        self._recorder.event(about, "Warning", waiting.code, waiting.message)

    async def _write_pod(self, pod: PodRecord, waiting: Waiting) -> None:
        message = waiting.message[:LONGEST]
        if pod.condition_message == message:
            return
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        await self._kube.call(
            "PATCH", PODS.path(pod.name, pod.namespace, "status"),
            {"metadata": {"uid": pod.uid, "resourceVersion": pod.resource_version}, "status": {"conditions": [condition]}},
            content="application/strategic-merge-patch+json",
        )  # fmt: skip
        about = Ref("v1", "Pod", pod.namespace, pod.name, pod.uid)
        self._recorder.event(about, "Warning", "Unschedulable", message)
