"""pod-grouper: sees to it that every pod of ours is in a pod group."""

from __future__ import annotations

import asyncio
import hashlib

from shoal_contracts.state import GroupRecord, PodRecord, PriorityClassRecord
from shoal_grouping import CantGroup, Case, Wanted, changes, concerns, group_of
from shoal_kube import AlreadyExists, Conflict, Kube, KubeConfig, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import POD_GROUPS, PODS
from shoal_model import labels
from shoal_pod_grouper import metrics
from shoal_pod_grouper.owners import Owners
from shoal_service import Common, Context, run
from shoal_service.metrics import UNEXPECTED
from shoal_service.mirror import mirror

NAME = "pod-grouper"
Key = tuple[str, str]


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of pod-grouper."""

    replicas: int = 1
    """How many share the work, by hash of the owner's UID."""
    replica: int = 0
    """Which of them this is, from 0."""
    queue_label_key: str = labels.QUEUE
    """Label that names the queue of a workload."""
    node_pool_label_key: str = labels.NODE_POOL
    """Label that puts a pod into a node pool."""
    workers: int = 16
    """Pods that are grouped at a time."""
    annotate_after: float = 30.0
    """Seconds after which a pod that owns its group is annotated, if its binding has not done so."""
    first_retry: float = 1.0
    last_retry: float = 60.0


class Service:
    """A queue of pods to look at, and workers on it."""

    def __init__(self, context: Context[Config], kube: Kube, recorder: Recorder) -> None:
        self._context, self._kube, self._recorder = context, kube, recorder
        self._owners = Owners(kube, context.clock)
        self._pods: dict[Key, PodRecord] = {}
        self._groups: dict[Key, GroupRecord] = {}
        self._classes: dict[str, PriorityClassRecord] = {}
        self._due: dict[Key, float] = {}
        """Pod -> monotonic time at which to look at it."""
        self._waits: dict[Key, float] = {}
        self._busy: set[Key] = set()
        self._owner_locks: dict[str, asyncio.Lock] = {}
        self._news = asyncio.Event()
        self._current = asyncio.Event()

    def _mine(self, pod: PodRecord) -> bool:
        config = self._context.config
        if config.replicas <= 1:
            return True
        uid = pod.owners[0].uid if pod.owners else pod.uid
        return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4]) % config.replicas == config.replica

    async def follow(self) -> None:
        """Keep the picture and note which pods to look at."""
        async for news in mirror(self._context, ("pod", "group", "priorityclass")):
            now = self._context.clock.monotonic()
            match news.record:
                case PodRecord() as pod:
                    key = (pod.namespace, pod.name)
                    before = self._pods.get(key)
                    self._pods[key] = pod
                    if before is None or self._matters(before, pod):
                        self._due[key] = now
                case GroupRecord() as group:
                    self._groups[group.namespace, group.name] = group
                case PriorityClassRecord() as found:
                    self._classes[found.name] = found
                case None if news.kind == "pod":
                    self._pods.pop((news.names[0], news.names[1]), None)
                    self._due.pop((news.names[0], news.names[1]), None)
                    self._waits.pop((news.names[0], news.names[1]), None)
                case None if news.kind == "group":
                    self._groups.pop((news.names[0], news.names[1]), None)
                case None if news.kind == "priorityclass":
                    self._classes.pop(news.names[0], None)
                case _:
                    pass
            if news.current and not self._current.is_set():
                self._context.have("state")
                self._current.set()
            self._news.set()

    @staticmethod
    def _matters(before: PodRecord, now: PodRecord) -> bool:
        return (before.uid, before.labels, before.annotations, before.owners, before.node) != (
            now.uid, now.labels, now.annotations, now.owners, now.node,
        )  # fmt: skip

    async def work(self) -> None:
        """Look at what is due, ``workers`` at a time, for ever."""
        await self._current.wait()
        gate = asyncio.Semaphore(self._context.config.workers)
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = self._context.clock.monotonic()
                ready = [k for k, at in self._due.items() if at <= now and k not in self._busy]
                for key in ready:
                    await gate.acquire()
                    # While a worker was waited for, the pod may have gone.
                    if self._due.pop(key, None) is None:
                        gate.release()
                        continue
                    self._busy.add(key)
                    tasks.create_task(self._guarded(key, gate))
                if ready:
                    continue
                soonest = min((at for k, at in self._due.items() if k not in self._busy), default=now + 1.0)
                self._news.clear()
                try:
                    async with asyncio.timeout(max(0.01, min(1.0, soonest - now))):
                        await self._news.wait()
                except TimeoutError:
                    pass

    async def _guarded(self, key: Key, gate: asyncio.Semaphore) -> None:
        try:
            await self._look(key)
            self._waits.pop(key, None)
        except (CantGroup, KubeError) as error:
            metrics.FAILED.inc()
            pod = self._pods.get(key)
            wait = self._waits.get(key, self._context.config.first_retry)
            self._waits[key] = min(self._context.config.last_retry, wait * 2)
            self._look_at(key, wait)
            if isinstance(error, CantGroup) and pod and not pod.deleted:
                about = Ref("v1", "Pod", pod.namespace, pod.name, pod.uid)
                self._recorder.event(about, "Warning", "PodGrouperWarning", str(error))
            elif not isinstance(error, Conflict):
                self._context.log.warning("pod not grouped, again later", pod=key, error=str(error))
        except Exception as error:  # one odd pod or owner must not stop the others
            UNEXPECTED.labels("pod_grouper").inc()
            self._context.log.error("pod not grouped, again later", pod=key, error=repr(error), exc_info=error)
            self._look_at(key, self._context.config.last_retry)
        finally:
            self._busy.discard(key)
            gate.release()
            self._news.set()

    def _look_at(self, key: Key, wait: float) -> None:
        """Look at the pod after so many seconds, or when news of it have come meanwhile."""
        at = self._context.clock.monotonic() + wait
        self._due[key] = min(at, self._due.get(key, at))

    async def _look(self, key: Key) -> None:
        pod = self._pods.get(key)
        if pod is None or pod.deleted or not concerns(pod, self._context.config.scheduler_name) or not self._mine(pod):
            return
        if pod.phase in ("Succeeded", "Failed"):
            return
        if pod.group and pod.node and (pod.namespace, pod.group) in self._groups:
            return  # it runs, in its group: nothing to decide any more
        chain = await self._owners.chain(pod)
        config = self._context.config
        wanted = group_of(Case(pod, chain, self._classes, config.queue_label_key, config.node_pool_label_key))
        if wanted is None:
            return
        lock = self._owner_locks.setdefault(wanted.owner.uid, asyncio.Lock())
        try:
            async with lock:
                await self._apply(wanted)
        finally:
            if not lock.locked():
                self._owner_locks.pop(wanted.owner.uid, None)
        await self._assign(pod, wanted)

    async def _apply(self, wanted: Wanted) -> None:
        """Make the group, or bring it up to date."""
        key = (wanted.namespace, wanted.name)
        have = self._groups.get(key)
        if have is None:
            try:
                await self._kube.post(POD_GROUPS.path("", wanted.namespace), wanted.object())
                metrics.GROUPS.labels("created").inc()
            except AlreadyExists:
                return  # it is on its way to us; the next look compares
            # Until the state plane shows it, it stands as it was made.
            made = GroupRecord(
                namespace=wanted.namespace, name=wanted.name, queue=wanted.queue, labels=wanted.labels,
                annotations=wanted.annotations, priority_class=wanted.priority_class, min_member=wanted.min_member,
                preemptibility=wanted.preemptibility,
            )  # fmt: skip
            self._groups.setdefault(key, made)
            return
        if not have.uid:
            return
        config = self._context.config
        if patch := changes(wanted, have, {config.queue_label_key, config.node_pool_label_key}):
            patch.setdefault("metadata", {})["resourceVersion"] = have.resource_version
            await self._kube.merge_patch(POD_GROUPS.path(wanted.name, wanted.namespace), patch)
            metrics.GROUPS.labels("patched").inc()

    async def _assign(self, pod: PodRecord, wanted: Wanted) -> None:
        """Write the group's name on the pod."""
        key = (pod.namespace, pod.name)
        if pod.group == wanted.name:
            return
        if wanted.owner.uid == pod.uid and not pod.group:
            # The group's ownership tells meanwhile, and the binding brings the annotation along.
            age = self._context.clock.now() - pod.created
            if not pod.node and age < self._context.config.annotate_after:
                self._look_at(key, self._context.config.annotate_after - age)
                return
        patch = {"metadata": {"uid": pod.uid, "annotations": {labels.GROUP: wanted.name}}}
        try:
            await self._kube.merge_patch(PODS.path(pod.name, pod.namespace), patch)
            metrics.PODS.inc()
        except NotFound:
            return


async def start(context: Context[Config]) -> None:
    """Follow the state plane and group."""
    context.wait_for("state")
    config = context.config
    settings = KubeConfig(context.kubeconfig, "shoal-pod-grouper", config.qps, config.burst)
    async with Kube.connect(settings) as kube:
        recorder = Recorder(kube, NAME, context.clock)
        service = Service(context, kube, recorder)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            tasks.create_task(service.follow())
            tasks.create_task(service.work())


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
