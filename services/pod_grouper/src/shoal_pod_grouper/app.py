"""pod-grouper: sees to it that every pod of ours is in a pod group."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shoal_contracts.state import GroupRecord, OwnerRef, PodRecord, PriorityClassRecord
from shoal_grouping import CantGroup, Case, Wanted, changes, concerns, given_by_user, group_of
from shoal_kube import AlreadyExists, Conflict, Kube, KubeConfig, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import POD_GROUPS, PODS
from shoal_model import labels
from shoal_pod_grouper import metrics
from shoal_pod_grouper.owners import Owners, plural
from shoal_service import Common, Context, run
from shoal_service.metrics import UNEXPECTED
from shoal_service.mirror import mirror

NAME = "pod-grouper"
Key = tuple[str, str]
SEEN_AFTER = 10.0
"""Seconds after which the state plane shows a group that was made; else it is made once more."""
GONE_AFTER = 1.0
"""Seconds after which the pods of a group that is gone are looked at: mostly they go too, with their owner."""
MOST_UNREAD = 10_000
CLASS_AFTER = 5.0
"""Seconds that a priority class may come later than the pod that names it."""


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
        self._owner_locks: dict[str, tuple[asyncio.Lock, int]] = {}
        """Owner's uid -> its lock, and how many hold it or wait for it."""
        self._made: dict[Key, float] = {}
        """Groups that were made and are not seen yet -> monotonic time."""
        self._group_of: dict[Key, Key] = {}
        """Pod -> the group that it should be in."""
        self._members: dict[Key, set[Key]] = {}
        self._unread: set[str] = set()
        """Uids of owners that may not be read, and were logged."""
        self._classless: dict[Key, tuple[str, float]] = {}
        """Pod -> the priority class that it names and that does not exist, and since when that is known."""
        self._heard: dict[Key, str] = {}
        """Pod -> its uid when it was told which of its fields are not honoured."""
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
                    self._made.pop((group.namespace, group.name), None)
                case PriorityClassRecord() as found:
                    if found.name not in self._classes:
                        self._due |= {key: now for key, (name, _) in self._classless.items() if name == found.name}
                    self._classes[found.name] = found
                case None if news.kind == "pod":
                    self._pod_gone((news.names[0], news.names[1]))
                case None if news.kind == "group":
                    self._group_gone((news.names[0], news.names[1]))
                case None if news.kind == "priorityclass":
                    self._classes.pop(news.names[0], None)
                case _:
                    pass
            if news.current and not self._current.is_set():
                self._context.have("state")
                self._current.set()
            self._news.set()

    def _pod_gone(self, key: Key) -> None:
        self._put(key, None)
        for known in (self._pods, self._due, self._waits, self._classless, self._heard):
            known.pop(key, None)

    def _group_gone(self, key: Key) -> None:
        """Somebody deleted the group, or it goes with its owner: whoever is still in it is looked at."""
        self._groups.pop(key, None)
        self._made.pop(key, None)
        for member in self._members.get(key, ()):
            if pod := self._pods.get(member):
                self._owners.forget(pod)
                self._look_at(member, GONE_AFTER)

    def _put(self, pod: Key, group: Key | None) -> None:
        """Note which group the pod should be in."""
        before = self._group_of.get(pod)
        if before == group:
            return
        if before is not None:
            del self._group_of[pod]
            members = self._members[before]
            members.discard(pod)
            if not members:
                del self._members[before]
                self._made.pop(before, None)
        if group is not None:
            self._group_of[pod] = group
            self._members.setdefault(group, set()).add(pod)

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
        self._tell_unheeded(key, pod)
        have = self._groups.get((pod.namespace, pod.group))
        if pod.group and (pod.node or not pod.owners) and have is not None:
            self._put(key, (pod.namespace, pod.group))
            return  # it runs, in its group, or is alone in it: nothing to decide any more
        if given_by_user(pod, have):
            return
        chain, unread = await self._owners.chain(pod)
        if unread is not None:
            self._tell_unread(pod, unread, chain[-1].kind if chain else "")
        config = self._context.config
        wanted = group_of(Case(pod, chain, self._classes, config.queue_label_key, config.node_pool_label_key))
        if wanted is None:
            return
        group = (wanted.namespace, wanted.name)
        if group not in self._groups and any(owner.deleted for owner in chain):
            return  # all of it is going
        if self._pods.get(key) is pod:
            self._put(key, group)
        async with self._alone(wanted.owner.uid):
            await self._apply(wanted)
        if group not in self._groups:
            self._look_at(key, SEEN_AFTER)
        self._tell_class(key, pod, wanted)
        await self._assign(pod, wanted)

    @asynccontextmanager
    async def _alone(self, owner: str) -> AsyncIterator[None]:
        """Nobody else of this replica changes the owner's group meanwhile."""
        lock, users = self._owner_locks.get(owner, (asyncio.Lock(), 0))
        self._owner_locks[owner] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._owner_locks[owner]
            if users == 1:
                del self._owner_locks[owner]
            else:
                self._owner_locks[owner] = (lock, users - 1)

    def _tell_unheeded(self, key: Key, pod: PodRecord) -> None:
        """Say once which fields of a pod that waits are not honoured; one that has a condition was told before."""
        if not pod.unheeded or pod.node or pod.condition_message or self._heard.get(key) == pod.uid:
            return
        self._heard[key] = pod.uid
        about = Ref("v1", "Pod", pod.namespace, pod.name, pod.uid)
        for text in pod.unheeded:
            self._recorder.event(about, "Warning", "FieldNotHonoured", text)

    def _tell_unread(self, pod: PodRecord, owner: OwnerRef, below: str) -> None:
        """An owner may not be read: its queue, its priority and what else it says of the group are lost."""
        group = owner.api_version.rpartition("/")[0]
        resource = f"{plural(owner.type)}.{group}" if group else plural(owner.type)
        text = (
            f"{owner.type} {pod.namespace}/{owner.name} may not be read, so its labels and annotations are not known and the"
            f" pod is grouped by {'the ' + below + ' below it' if below else 'itself'}: give the ServiceAccount"
            f" shoal-pod-grouper the right to get {resource}"
        )
        if owner.uid not in self._unread:
            if len(self._unread) >= MOST_UNREAD:
                self._unread.clear()
            self._unread.add(owner.uid)
            metrics.FORBIDDEN.labels(owner.type).inc()
            self._context.log.warning("an owner may not be read", owner=(owner.type, pod.namespace, owner.name), told=text)
        self._recorder.event(Ref("v1", "Pod", pod.namespace, pod.name, pod.uid), "Warning", "OwnerForbidden", text)

    def _tell_class(self, key: Key, pod: PodRecord, wanted: Wanted) -> None:
        """Say that a priority class does not exist, unless it comes within a few seconds."""
        if not wanted.missing_class:
            self._classless.pop(key, None)
            return
        now = self._context.clock.monotonic()
        name, since = self._classless.get(key, ("", now))
        if name != wanted.missing_class:
            since = now
        self._classless[key] = (wanted.missing_class, since)
        if now - since < CLASS_AFTER:
            self._look_at(key, CLASS_AFTER - (now - since))
            return
        stands_in = self._classes.get(wanted.priority_class)
        text = (
            f"priority class {wanted.missing_class!r} does not exist: the workload runs with {wanted.priority_class!r}"
            + (f" (priority {stands_in.value})" if stands_in else "")
            + "; create it, or name another in the label priorityClassName"
        )
        group = self._groups.get((wanted.namespace, wanted.name))
        about = Ref("v1", "Pod", pod.namespace, pod.name, pod.uid)
        if group is not None:
            about = Ref("scheduling.run.ai/v2alpha2", "PodGroup", group.namespace, group.name, group.uid)
        self._recorder.event(about, "Warning", "PriorityClassNotFound", text)

    async def _apply(self, wanted: Wanted) -> None:
        """Make the group, or bring it up to date."""
        key = (wanted.namespace, wanted.name)
        have = self._groups.get(key)
        if have is None:
            now = self._context.clock.monotonic()
            # Until the state plane shows it, it stands as it was made.
            if now - self._made.get(key, -SEEN_AFTER) < SEEN_AFTER:
                return
            try:
                await self._kube.post(POD_GROUPS.path("", wanted.namespace), wanted.object())
                metrics.GROUPS.labels("created").inc()
            except AlreadyExists:
                pass  # it is on its way to us; the next look compares
            if key not in self._groups:
                self._made[key] = now
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
