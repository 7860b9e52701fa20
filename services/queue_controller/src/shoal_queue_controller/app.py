"""queue-controller: writes what queues and pod groups use into their status."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from shoal_contracts.state import GroupRecord, PodRecord, PriorityClassRecord, QueueRecord
from shoal_kube import Kube, KubeConfig, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import POD_GROUPS, QUEUES
from shoal_model.membership import Membership
from shoal_model.podgroup import preemptible, priority
from shoal_model.quantity import plain, rfc3339
from shoal_queue_controller import metrics
from shoal_queue_controller.usage import Amounts, Usage, children, class_problem, group_problem, of_group, problem, roll_up
from shoal_service import Common, Context, run
from shoal_service.leader import leading, writer
from shoal_service.mirror import mirror

NAME = "queue-controller"
Key = tuple[str, str]
Identity = tuple[str, str, str]
"""Namespace, name, uid: what is made again under its name is another object."""
GRACE = 5.0
"""Seconds that a parent queue must be missing before it is told: it may come in the same ``kubectl apply``."""


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of queue-controller."""

    qps: float = 50.0
    """Status can wait: bindings need the API server more."""
    burst: int = 100
    lease_seconds: float = 6.0
    """Status can wait for another leader, too."""

    settle: float = 5.0
    """Seconds that a pod group must be quiet before its status is written: a burst costs one write."""
    longest: float = 30.0
    """Seconds after which it is written all the same."""
    burst_groups: int = 200
    """So many groups that changed, the last within a second, are a burst: then status waits for ``longest``."""
    every: float = 1.0
    """Seconds between two writes of one queue's status."""
    writers: int = 8
    """Status writes at a time."""


def _identity(found: GroupRecord | QueueRecord) -> Identity:
    return getattr(found, "namespace", ""), found.name, found.uid


def _quantities(amounts: Amounts) -> dict[str, str]:
    return {resource: plain(value, resource) for resource, value in sorted(amounts.items())}


def _patch(now: dict[str, str], before: dict[str, str] | None) -> dict[str, str | None]:
    """A merge patch of a map: what vanished is null."""
    gone: dict[str, str | None] = {k: None for k in (before or {}) if k not in now}
    return {**gone, **now}


def due(changed: Mapping[Key, tuple[float, float]], now: float, config: Config) -> list[Key]:
    """Groups whose status is to be written, of those that changed: group -> (first, last change, monotonic seconds)."""
    latest = max((last for _, last in changed.values()), default=0.0)
    settle = config.longest if len(changed) > config.burst_groups and now - latest < 1.0 else config.settle
    return [k for k, (first, last) in changed.items() if now - last >= settle or now - first >= config.longest]


class Service:
    """The picture of pods, groups and queues, and the writers of status."""

    def __init__(self, context: Context[Config], kube: Kube, recorder: Recorder) -> None:
        self._context, self._kube, self._recorder = context, kube, recorder
        self._membership = Membership()
        self._pods: dict[Key, dict[str, PodRecord]] = {}
        self._group_of: dict[Key, Key] = {}
        self._groups: dict[Key, GroupRecord] = {}
        self._queues: dict[str, QueueRecord] = {}
        self._classes: dict[str, PriorityClassRecord] = {}
        self._usage: dict[Key, tuple[str, Usage]] = {}
        self._direct: dict[str, Usage] = {}
        self._inexact: set[str] = set()
        """Queues of which the sum in ``_direct`` is to be made anew."""
        self._changed: dict[Key, tuple[float, float]] = {}
        """Group -> (first, last) monotonic time of a change not written yet."""
        self._writing: set[Key] = set()
        """Groups whose status is being written."""
        self._written: dict[Identity, Any] = {}
        """Group -> what was written on it."""
        self._written_queues: dict[Identity, Any] = {}
        """The same for queues."""
        self._wrong_since: dict[Identity, float] = {}
        """Queue -> since when its place in the tree is wrong."""
        self._told: dict[Identity, tuple[str, ...]] = {}
        """Group -> what was told of it."""
        self._queues_changed = True
        self._current = asyncio.Event()

    async def follow(self) -> None:
        """Keep the picture."""
        async for news in mirror(self._context, ("pod", "group", "queue", "priorityclass")):
            match news.record:
                case PodRecord() as pod:
                    self._pod(self._membership.pod(pod))
                case GroupRecord() as group:
                    self._group(group)
                    if pod := self._membership.group(group):
                        self._pod(pod)
                case QueueRecord() as queue:
                    self._queue(queue)
                case PriorityClassRecord() as found:
                    self._class(found.name, found)
                case None:
                    self._gone(news.kind, news.names)
                case _:
                    pass
            if news.current and not self._current.is_set():
                self._context.have("state")
                self._current.set()

    def _queue(self, queue: QueueRecord) -> None:
        before = self._queues.get(queue.name)
        self._queues[queue.name] = queue
        self._queues_changed = True
        if before is None:
            self._touch_queue(queue.name)
            return
        if before.display_name != queue.display_name:
            self._remove_metrics(before)
        if before.uid != queue.uid:
            self._forget_queue(before)

    def _forget_queue(self, queue: QueueRecord) -> None:
        self._written_queues.pop(_identity(queue), None)
        self._wrong_since.pop(_identity(queue), None)

    def _touch_queue(self, name: str) -> None:
        """The queue came or went."""
        for key, group in self._groups.items():
            if group.queue == name:
                self._touch(key)

    def _class(self, name: str, found: PriorityClassRecord | None) -> None:
        """A priority class came, changed, or went: groups that name it count by another, and by the default one any may."""
        before = self._classes.pop(name, None)
        if found is not None:
            self._classes[name] = found
        if before == found:
            return
        default = any(c is not None and c.global_default for c in (before, found))
        for key, group in self._groups.items():
            if group.priority_class == name or (default and group.priority_class not in self._classes):
                self._touch(key)

    def _pod(self, pod: PodRecord) -> None:
        name = (pod.namespace, pod.name)
        group = (pod.namespace, pod.group)
        before = self._group_of.get(name)
        if before and before != group:
            self._leave(before, pod.name)
        if not pod.group or pod.scheduler_name != self._context.config.scheduler_name:
            self._group_of.pop(name, None)
            return
        self._group_of[name] = group
        self._pods.setdefault(group, {})[pod.name] = pod
        self._touch(group)

    def _leave(self, group: Key, pod: str) -> None:
        """The pod is not in the group any more."""
        if pods := self._pods.get(group):
            pods.pop(pod, None)
            if not pods:
                del self._pods[group]
        self._touch(group)

    def _group(self, group: GroupRecord) -> None:
        key = (group.namespace, group.name)
        before = self._groups.get(key)
        self._groups[key] = group
        if before is not None and before.uid != group.uid:
            self._forget_group(before)
        if before is None or (before.uid, before.queue, before.priority_class, before.preemptibility) != (
            group.uid, group.queue, group.priority_class, group.preemptibility,
        ):  # fmt: skip
            self._touch(key)

    def _forget_group(self, group: GroupRecord) -> None:
        self._written.pop(_identity(group), None)
        self._told.pop(_identity(group), None)

    def _gone(self, kind: str, names: tuple[str, ...]) -> None:
        match kind:
            case "pod":
                self._membership.pod_gone(names[0], names[1])
                if group := self._group_of.pop((names[0], names[1]), None):
                    self._leave(group, names[1])
            case "group":
                key = (names[0], names[1])
                self._membership.group_gone(*key)
                # Its pods may outlive it, and count again when it is made anew.
                if group := self._groups.pop(key, None):
                    self._forget_group(group)
                self._changed.pop(key, None)
                self._set_usage(key, "", Usage())
                self._usage.pop(key, None)
            case "queue":
                if queue := self._queues.pop(names[0], None):
                    self._remove_metrics(queue)
                    self._forget_queue(queue)
                    self._touch_queue(names[0])
                self._queues_changed = True
            case "priorityclass":
                self._class(names[0], None)
            case _:
                pass

    def _touch(self, key: Key) -> None:
        """The group's usage may be another: count it now, write it when it has settled."""
        now = self._context.clock.monotonic()
        group = self._groups.get(key)
        if group is None:
            return
        self._changed[key] = (self._changed.get(key, (now, now))[0], now)
        value = priority(group.priority_class, self._classes)
        usage = of_group(self._pods.get(key, {}).values(), preemptible(group, value))
        self._set_usage(key, group.queue, usage)

    def _set_usage(self, key: Key, queue: str, usage: Usage) -> None:
        if before := self._usage.get(key):
            self._add(before[0], before[1], -1.0)
            if before[1].huge:
                self._inexact.add(before[0])
        self._usage[key] = (queue, usage)
        self._add(queue, usage)
        self._queues_changed = True

    def _add(self, queue: str, usage: Usage, sign: float = 1.0) -> None:
        total = self._direct.setdefault(queue, Usage())
        total.add(usage, sign)
        if not total.requested:
            del self._direct[queue]

    def usage(self) -> dict[str, Usage]:
        """Of every queue, with those below it."""
        for name in self._inexact:
            self._direct.pop(name, None)
        if self._inexact:
            for queue, one in self._usage.values():
                if queue in self._inexact:
                    self._add(queue, one)
            self._inexact.clear()
        return roll_up(self._queues, self._direct)

    # writing

    async def write_groups(self) -> None:
        """Write the status of groups that have settled, for ever."""
        await self._current.wait()
        config, clock = self._context.config, self._context.clock
        gate = asyncio.Semaphore(config.writers)
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = clock.monotonic()
                ready = due(self._changed, now, config)
                for key in ready:
                    await gate.acquire()
                    # Two writes of one group at a time could end with the older one.
                    if key in self._writing or self._changed.pop(key, None) is None:
                        gate.release()
                        continue
                    self._writing.add(key)
                    tasks.create_task(self._write_group(key, gate))
                await asyncio.sleep(0.25)

    async def _write_group(self, key: Key, gate: asyncio.Semaphore) -> None:
        try:
            group, usage = self._groups.get(key), self._usage.get(key)
            if group is None or usage is None:
                return
            self._tell_group(group, usage[1])
            now = {
                "requested": _quantities(usage[1].requested),
                "allocated": _quantities(usage[1].allocated),
                "allocatedNonPreemptible": _quantities(usage[1].fixed),
            }
            stored = {
                "requested": _quantities(group.requested),
                "allocated": _quantities(group.allocated),
                "allocatedNonPreemptible": _quantities(group.allocated_non_preemptible),
            }
            before = self._written.get(_identity(group), stored)
            if now == before:
                return
            patch = {"status": {"resourcesStatus": {k: _patch(v, before.get(k)) for k, v in now.items()}}}
            await self._kube.merge_patch(POD_GROUPS.path(group.name, group.namespace, "status"), patch)
            if (latest := self._groups.get(key)) and latest.uid == group.uid:
                self._written[_identity(group)] = now
            metrics.WRITES.labels("PodGroup").inc()
        except NotFound:
            return
        except KubeError as error:
            self._context.log.info("status not written, again later", group=key, error=str(error))
            at = self._context.clock.monotonic()
            self._changed.setdefault(key, (at, at))
        finally:
            self._writing.discard(key)
            gate.release()

    def _tell_group(self, group: GroupRecord, usage: Usage) -> None:
        """What is wrong with the group, once. The scheduler tells those that wait that their queue is not there."""
        found: list[tuple[str, str]] = []
        if usage.allocated and usage.allocated == usage.requested and (wrong := group_problem(group, self._queues)):
            found.append(("QueueDoesNotExist", wrong))
        if wrong := class_problem(group, self._classes):
            found.append(("PriorityClassNotFound", wrong))
        before = self._told.get(_identity(group), ())
        about = Ref("scheduling.run.ai/v2alpha2", "PodGroup", group.namespace, group.name, group.uid)
        for reason, text in found:
            if reason not in before:
                self._recorder.event(about, "Warning", reason, text)
        if found or before:
            self._told[_identity(group)] = tuple(reason for reason, _ in found)

    async def write_queues(self) -> None:
        """Write the status of queues whose usage changed, about once a second, for ever."""
        await self._current.wait()
        while True:
            if self._queues_changed:
                self._queues_changed = False
                below = children(self._queues)
                for name, usage in self.usage().items():
                    # Writes take their time: a queue may be gone by now.
                    if queue := self._queues.get(name):
                        await self._write_queue(queue, usage, below[name])
            await asyncio.sleep(self._context.config.every)

    async def _write_queue(self, queue: QueueRecord, usage: Usage, below: list[str]) -> None:
        self._set_metrics(queue, usage)
        wrong = self._problem(queue)
        now: dict[str, Any] = {
            "requested": _quantities(usage.requested),
            "allocated": _quantities(usage.allocated),
            "allocatedNonPreemptible": _quantities(usage.fixed),
            "childQueues": below,
            "problem": wrong,
        }
        before = self._written_queues.get(_identity(queue))
        if now == before:
            return
        status: dict[str, Any] = {
            k: _patch(now[k], before[k] if before else None) for k in ("requested", "allocated", "allocatedNonPreemptible")
        }
        status["childQueues"] = below
        if wrong and (before is None or before["problem"] != wrong):
            about = Ref("scheduling.run.ai/v2", "Queue", "", queue.name, queue.uid)
            self._recorder.event(about, "Warning", "InvalidQueue", wrong)
        if before is None:
            # A leader before may have written one.
            status["conditions"] = None
        if wrong or (before and before["problem"]):
            status["conditions"] = [{
                "type": "Orphan", "status": "True" if wrong else "False", "reason": "InvalidQueue" if wrong else "Valid",
                "message": wrong, "lastTransitionTime": rfc3339(self._context.clock.now()),
            }]  # fmt: skip
        try:
            await self._kube.merge_patch(QUEUES.path(queue.name, sub="status"), {"status": status})
            if (latest := self._queues.get(queue.name)) and latest.uid == queue.uid:
                self._written_queues[_identity(queue)] = now
            metrics.WRITES.labels("Queue").inc()
        except NotFound:
            return
        except KubeError as error:
            self._context.log.info("status not written, again later", queue=queue.name, error=str(error))
            self._queues_changed = True

    def _problem(self, queue: QueueRecord) -> str:
        """What is wrong with the queue; of its place among the others once it has been wrong for a while."""
        wrong = problem(queue, self._queues)
        if not wrong or queue.error:
            self._wrong_since.pop(_identity(queue), None)
            return wrong
        now = self._context.clock.monotonic()
        if now - self._wrong_since.setdefault(_identity(queue), now) >= GRACE:
            return wrong
        self._queues_changed = True  # look again
        return ""

    @staticmethod
    def _names(queue: QueueRecord) -> tuple[str, str, str]:
        return queue.name, queue.name, queue.display_name

    def _set_metrics(self, queue: QueueRecord, usage: Usage) -> None:
        names = self._names(queue)
        metrics.INFO.labels(*names).set(1)
        metrics.DESERVED_GPUS.labels(*names).set(queue.gpu.quota if queue.gpu else 0)
        cpu = queue.cpu.quota if queue.cpu else 0.0
        memory = queue.memory.quota if queue.memory else 0.0
        metrics.QUOTA_CPU.labels(*names).set(cpu if cpu == -1 else cpu / 1000)
        metrics.QUOTA_MEMORY.labels(*names).set(memory if memory == -1 else memory * 1e6)
        used = usage.allocated
        metrics.ALLOCATED_GPUS.labels(*names).set(round(sum(v for k, v in used.items() if k.endswith("/gpu")), 4))
        metrics.ALLOCATED_CPU.labels(*names).set(round(used.get("cpu", 0.0) / 1000, 4))
        metrics.ALLOCATED_MEMORY.labels(*names).set(round(used.get("memory", 0.0), 4))

    def _remove_metrics(self, queue: QueueRecord) -> None:
        for gauge in (metrics.INFO, metrics.DESERVED_GPUS, metrics.QUOTA_CPU, metrics.QUOTA_MEMORY,
                      metrics.ALLOCATED_GPUS, metrics.ALLOCATED_CPU, metrics.ALLOCATED_MEMORY):  # fmt: skip
            try:
                gauge.remove(*self._names(queue))
            except KeyError:
                continue


async def start(context: Context[Config]) -> None:
    """Lead, then follow and write."""
    context.wait_for("state")
    config = context.config
    settings = KubeConfig(context.kubeconfig, "shoal-queue-controller", config.qps, config.burst)
    async with Kube.connect(settings) as unguarded, leading(context, unguarded, "shoal-queue-controller") as election:
        kube = writer(unguarded, election)
        recorder = Recorder(kube, NAME, context.clock)
        service = Service(context, kube, recorder)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            tasks.create_task(service.follow())
            tasks.create_task(service.write_groups())
            tasks.create_task(service.write_queues())


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
