"""Writes on groups and pods why they wait: once it has lasted, again only when it is another reason, and takes it back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shoal_contracts.state import GroupRecord, PodRecord
from shoal_core import Waiting
from shoal_kube import Conflict, Kube, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import POD_GROUPS, PODS
from shoal_model.quantity import number, rfc3339
from shoal_service import Context

Key = tuple[str, str]
NUMBERS_AFTER = 30.0
"""Seconds after which a message of the same reason, with other numbers, is written again: with many waiting pods, longer."""
MANY = 300
"""Waiting pods from which on other numbers are written less often, in proportion."""
GRACE = 5.0
"""Seconds that a missing object must be missing: it may come in the same ``kubectl apply``."""
MISSING = frozenset({"QueueDoesNotExist", "PodGroupNotFound"})
SILENT = frozenset({"Starting"})
"""Codes that need no action of anybody: they are not written."""
BACKLOG = 500
"""Events that wait to be written, from which pods are told more slowly: no event is to be lost."""
LONGEST = 1000
WRITERS = 4
PAUSE = 0.5
YIELD = 0.1
YIELDS = 50
"""A write of a pod's reason lets open decisions go first, for at most so many times ``YIELD`` seconds."""


@dataclass
class Told:
    """What is known of a waiting group. Times are monotonic."""

    reasons: list[Waiting]
    """The group's, and those that some of its pods have alone."""
    first: float
    since: float
    """Since when the group's reason has had its code."""
    written: tuple[str, str] | None = None
    """(code, message) of the group's reason."""
    written_at: float = 0.0
    pods: dict[str, int] = field(default_factory=dict)
    """Waiting pod's uid -> which of the reasons is its own."""
    listed: list[tuple[str, ...]] = field(default_factory=list)
    """The uids of each reason, as the last cycle gave them."""
    shown: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Pod's uid -> (code, message) that was written on it, or is about to be."""

    @property
    def waiting(self) -> Waiting:
        """The group's reason."""
        return self.reasons[0]

    def take(self, reasons: list[Waiting], now: float) -> None:
        """The reasons of another cycle."""
        if self.waiting.code != reasons[0].code:
            self.since = now
        self.reasons = reasons
        listed = [one.pods for one in reasons]
        if listed != self.listed:
            self.listed = listed
            self.pods = {uid: i for i in reversed(range(len(listed))) for uid in listed[i]}
            self.shown = {uid: shown for uid, shown in self.shown.items() if uid in self.pods}

    def settled(self, now: float, settle: float) -> bool:
        """Whether the reason has lasted; of one that changes all the time, any is written."""
        if self.waiting.code in MISSING:
            settle = max(settle, GRACE)
        return now - self.since >= settle or (self.written is None and now - self.first >= 5 * settle)


class Reporter:
    """Takes each cycle's reasons and writes conditions and events from a bounded number of tasks.

    A group's condition stands only while none of its pods runs, as in KAI-Scheduler; its waiting pods keep their own.
    """

    def __init__(self, context: Context[Any], kube: Kube, recorder: Recorder, settle: float, node_pool: str) -> None:
        self._context, self._kube, self._recorder, self._settle = context, kube, recorder, settle
        self._node_pool = node_pool or "default"
        self._told: dict[Key, Told] = {}
        self._transitions: dict[Key, int] = {}
        self._groups: dict[Key, GroupRecord] = {}
        self._pods: dict[str, PodRecord] = {}
        self._bound: dict[Key, set[str]] = {}
        """Group -> uids of its pods that are on a node and not done."""
        self._loose: dict[Key, set[str]] = {}
        """Group -> uids of its pods that are on no node."""
        self._marked: dict[Key, None] = {}
        """Groups on which a condition of this node pool stands, as far as known."""
        self._busy: set[Key] = set()
        """Groups that are being written: two writes at a time could end with the older one."""
        self._due_pods: dict[Key, deque[str]] = {}
        """Pods whose reason is to be written, by group, so that a big one does not hold up the others."""
        self._some = asyncio.Event()
        self._leads = False
        self.writing = 0
        """Pods that are being written."""
        self.open = 0
        """Decisions that are open: their writes go first."""

    # the picture

    def group(self, record: GroupRecord) -> None:
        """A group that is new or changed."""
        key = (record.namespace, record.name)
        before = self._groups.get(key)
        if before is not None and before.uid != record.uid:
            self.forget(key)
        self._groups[key] = record
        if any(c.node_pool == self._node_pool for c in record.conditions):
            self._marked[key] = None

    def pod(self, record: PodRecord) -> None:
        """A pod that is new or changed, with its group filled in."""
        self._drop(record.uid)
        self._pods[record.uid] = record
        if record.group and not record.deleted and record.phase not in ("Succeeded", "Failed"):
            where = self._bound if record.node else self._loose
            where.setdefault((record.namespace, record.group), set()).add(record.uid)

    def pod_gone(self, uid: str) -> None:
        """The pod is gone."""
        self._drop(uid)

    def _drop(self, uid: str) -> None:
        before = self._pods.pop(uid, None)
        if before is None:
            return
        key = (before.namespace, before.group)
        for where in (self._bound, self._loose):
            if uids := where.get(key):
                uids.discard(uid)
                if not uids:
                    del where[key]

    def forget(self, key: Key) -> None:
        """The group is gone."""
        for known in (self._told, self._transitions, self._groups, self._marked, self._due_pods):
            known.pop(key, None)

    def cycle(self, waiting: Iterable[Waiting]) -> None:
        """The reasons of a cycle: whoever is not among them does not wait any more."""
        now = self._context.clock.monotonic()
        self._leads = True
        found: dict[Key, list[Waiting]] = {}
        for one in waiting:
            if one.code not in SILENT:
                found.setdefault((one.namespace, one.group), []).append(one)
        for key in [k for k in self._told if k not in found]:
            del self._told[key]
            self._due_pods.pop(key, None)
        for key, reasons in found.items():
            told = self._told.get(key)
            if told is None:
                told = self._told[key] = Told(reasons, now, now)
            told.take(reasons, now)

    def rest(self) -> None:
        """Another leads: write nothing more."""
        self._leads = False
        self._told.clear()
        self._due_pods.clear()

    # what is to be written

    def _numbers_after(self) -> float:
        return NUMBERS_AFTER * max(1.0, sum(len(t.pods) for t in self._told.values()) / MANY)

    def due(self, now: float) -> list[Key]:
        """Groups of which something is to be written."""
        numbers_after = self._numbers_after()
        return [
            key
            for key, told in self._told.items()
            if key not in self._busy
            and told.settled(now, self._settle)
            and (self._anew(told, now, numbers_after) or told.pods.keys() - told.shown.keys())
        ]

    @staticmethod
    def _anew(told: Told, now: float, numbers_after: float) -> bool:
        """Whether the group's reason, and that of all its pods, is to be written: not only that of pods that came since."""
        waiting, written = told.waiting, told.written
        if written is None or written[0] != waiting.code:
            return True
        return written[1] != waiting.message and now - told.written_at > numbers_after

    def over(self) -> list[Key]:
        """Groups whose condition is to be taken back: one of their pods runs, or nothing of them waits."""
        if not self._leads:
            return []
        return [k for k in self._marked if k not in self._busy and not self._stands(k) and k in self._groups]

    def _stands(self, key: Key) -> bool:
        return key not in self._bound and key in self._loose

    async def run(self) -> None:
        """Write, for ever."""
        gate = asyncio.Semaphore(WRITERS)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self._write_pods())
            while True:
                for key in self.due(self._context.clock.monotonic()):
                    await gate.acquire()
                    # Cycles go on while writers are waited for: the group may have started, or be gone.
                    told = self._told.get(key)
                    if told is None or key in self._busy:
                        gate.release()
                        continue
                    self._busy.add(key)
                    tasks.create_task(self._write(key, told, gate))
                for key in self.over():
                    await gate.acquire()
                    group = self._groups.get(key)
                    if group is None or key in self._busy or self._stands(key):
                        gate.release()
                        continue
                    self._busy.add(key)
                    tasks.create_task(self._take_back(key, group, gate))
                await asyncio.sleep(PAUSE)

    # groups

    async def _write(self, key: Key, told: Told, gate: asyncio.Semaphore) -> None:
        waiting, group, now = told.waiting, self._groups.get(key), self._context.clock.monotonic()
        before, say = told.written, (waiting.code, waiting.message)
        try:
            if anew := self._anew(told, now, self._numbers_after()):
                if group is not None and key not in self._bound:
                    await self._write_group(group, waiting)
                told.written, told.written_at = say, now
                if group is not None and (before is None or before[0] != waiting.code):
                    self._recorder.event(_about(group), "Warning", waiting.code, waiting.message)
            self._queue_pods(key, told, group, anew)
        except (NotFound, Conflict):
            # It is gone, or another one of its name: the news of it are on their way.
            told.since = now
        except KubeError as error:
            self._context.log.info("reason not written, again later", group=key, error=str(error))
            told.since = now
        finally:
            self._busy.discard(key)
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
        # Also where no answer comes, it may stand there.
        self._marked[key] = None
        await self._patch_group(group, [condition])

    async def _patch_group(self, group: GroupRecord, conditions: list[Any]) -> None:
        body = {"metadata": {"uid": group.uid}, "status": {"schedulingConditions": conditions}}
        await self._kube.merge_patch(POD_GROUPS.path(group.name, group.namespace, "status"), body)

    async def _take_back(self, key: Key, group: GroupRecord, gate: asyncio.Semaphore) -> None:
        try:
            await self._patch_group(group, [])
            if self._groups.get(key) is group or not self._stands(key):
                self._marked.pop(key, None)
        except (NotFound, Conflict):
            # It is gone, or another one of its name: the news of it are on their way.
            self._marked.pop(key, None)
        except KubeError as error:
            self._context.log.info("reason not taken back, again later", group=key, error=str(error))
        finally:
            self._busy.discard(key)
            gate.release()

    # pods

    def _queue_pods(self, key: Key, told: Told, group: GroupRecord | None, anew: bool) -> None:
        marks = group is None or group.mark_unschedulable is not False
        queue = self._due_pods.setdefault(key, deque())
        known = set(queue)
        for uid, which in told.pods.items():
            shown, reason = told.shown.get(uid), told.reasons[which]
            if shown is None or shown[0] != reason.code or (anew and shown[1] != reason.message):
                told.shown[uid] = shown or ("", "")
                if marks and uid not in known:
                    queue.append(uid)
        self._some.set()

    def _next_pod(self) -> tuple[Key, str] | None:
        """Of each group in turn."""
        while self._due_pods:
            key = next(iter(self._due_pods))
            queue = self._due_pods.pop(key)
            if queue:
                uid = queue.popleft()
                if queue:
                    self._due_pods[key] = queue
                return key, uid
        return None

    async def _write_pods(self) -> None:
        while True:
            if (found := self._next_pod()) is None:
                self._some.clear()
                await self._some.wait()
                continue
            self.writing += 1
            try:
                for _ in range(YIELDS):
                    if not self.open and self._recorder.backlog < BACKLOG:
                        break
                    await asyncio.sleep(YIELD)
                await self._write_pod(*found)
            finally:
                self.writing -= 1

    async def _write_pod(self, key: Key, uid: str) -> None:
        """Write the newest reason, unless the pod waits no more."""
        told, pod = self._told.get(key), self._pods.get(uid)
        if told is None or uid not in told.pods or pod is None or pod.node or pod.deleted:
            return
        waiting = told.reasons[told.pods[uid]]
        code, message = waiting.code, waiting.message[:LONGEST]
        before = told.shown.get(uid, ("", ""))[0]
        told.shown[uid] = (code, waiting.message)
        try:
            if pod.condition_message != message:
                await self._patch_pod(pod, message)
            if before != code:
                self._recorder.event(Ref("v1", "Pod", pod.namespace, pod.name, uid), "Warning", "Unschedulable", message)
        except NotFound:
            return
        except KubeError as error:
            # After a conflict its news are on their way: it may be bound. The next look at the group tries again.
            told.shown.pop(uid, None)
            if not isinstance(error, Conflict):
                self._context.log.info("reason not written, again later", pod=(pod.namespace, pod.name), error=str(error))
                await asyncio.sleep(PAUSE)

    async def _patch_pod(self, pod: PodRecord, message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        if not pod.condition_message:
            # Once for the transition: what is merged into it later keeps the time.
            condition["lastTransitionTime"] = rfc3339(self._context.clock.now())
        await self._kube.call(
            "PATCH", PODS.path(pod.name, pod.namespace, "status"),
            {"metadata": {"uid": pod.uid, "resourceVersion": pod.resource_version}, "status": {"conditions": [condition]}},
            content="application/strategic-merge-patch+json",
        )  # fmt: skip


def _about(group: GroupRecord) -> Ref:
    return Ref("scheduling.run.ai/v2alpha2", "PodGroup", group.namespace, group.name, group.uid)
