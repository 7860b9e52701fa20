"""cluster-state: watches Kubernetes once, for all, and keeps the state plane."""

from __future__ import annotations

import asyncio

import msgspec

from shoal_bus import Bus, BusError, Item
from shoal_bus.bus import DELETED_TTL
from shoal_bus.trace import headers as trace_headers
from shoal_cluster_state import metrics
from shoal_cluster_state.picture import Entry, Picture
from shoal_cluster_state.unread import slimmed, stand_in
from shoal_contracts import state, streams, subjects
from shoal_contracts.base import encode
from shoal_contracts.decision import Header
from shoal_kube import Bad, Deleted, Denied, Kube, KubeConfig, Put, Recorder, Ref, Reflector, Synced, resources
from shoal_kube.resources import Resource
from shoal_model import admission, normalise, objects, storage
from shoal_model.pinned import pinned_node
from shoal_service import Common, Context, run, telemetry
from shoal_service.leader import leading

NAME = "cluster-state"
BATCH = 2048
MARK_EVERY, MARK_NEWS = 1.0, 0.1
"""Seconds between two marks, and to the next where something was published: a scheduler that takes over waits for one."""
LARGEST = 900 * 1024
"""Bytes of one record; the bus takes 1 MiB with its headers."""
CHECK_EVERY = 1.0
"""Seconds between two looks at the stream while nothing is published."""
KINDS: dict[str, Resource] = {
    "node": resources.NODES,
    "queue": resources.QUEUES,
    "priorityclass": resources.PRIORITY_CLASSES,
    "topology": resources.TOPOLOGIES,
    "namespace": resources.NAMESPACES,
    "group": resources.POD_GROUPS,
    "pod": resources.PODS,
    "pdb": resources.DISRUPTION_BUDGETS,
    "claim": resources.CLAIMS,
    "slice": resources.SLICES,
    "deviceclass": resources.DEVICE_CLASSES,
    "pvc": resources.VOLUME_CLAIMS,
    "pv": resources.VOLUMES,
    "storageclass": resources.STORAGE_CLASSES,
    "csidriver": resources.DRIVERS,
    "csinode": resources.DRIVERS_OF_NODES,
    "storagecapacity": resources.STORAGE_CAPACITIES,
    "nrt": resources.NODE_RESOURCES,
    "validatingwebhook": resources.VALIDATING_WEBHOOKS,
    "mutatingwebhook": resources.MUTATING_WEBHOOKS,
    "validatingpolicy": resources.VALIDATING_POLICIES,
    "mutatingpolicy": resources.MUTATING_POLICIES,
}
"""Kind in the subjects -> resource of the API."""
OPTIONAL = frozenset(
    {
        "topology",
        "claim",
        "slice",
        "deviceclass",
        "storageclass",
        "csidriver",
        "csinode",
        "storagecapacity",
        "nrt",
        "pvc",
        "pv",
        "namespace",
        *admission.KINDS,
    }
)
"""Kinds without which pods that name none of them are scheduled all the same: a cluster may lack them."""


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of cluster-state."""


class Service:
    """Reflectors fill the picture, one task publishes what changed."""

    def __init__(self, context: Context[Config], kube: Kube, recorder: Recorder) -> None:
        self._context, self._kube, self._recorder = context, kube, recorder
        self._picture = Picture()
        self._versions: dict[str, str] = {}
        self._news = asyncio.Event()
        self._incarnation = ""
        self._complete = asyncio.Event()

    @property
    def _bus(self) -> Bus:
        return self._context.bus

    async def watch(self, kind: str, resource: Resource) -> None:
        """Keep the picture of one kind up to date, for ever."""
        found = normalise.TYPES.get(resource.kind)
        read = found[0] if found else admission.Admission if kind in admission.KINDS else objects.Opaque
        reflector: Reflector[object] = Reflector(self._kube, resource, read)
        denied = ""
        async for told in reflector.run():
            match told:
                case Put():
                    metrics.SEEN.labels(kind).inc()
                    try:
                        self._put(kind, resource, told)
                    except Exception as error:  # one odd object must not stop the rest
                        self._context.log.error("object can't be read", kind=kind, key=told.key, exc_info=error)
                        self._unread(kind, resource, Bad(told.key, told.uid, told.version, repr(error), told.raw))
                case Deleted():
                    self._picture.drop(self._subject(kind, resource, told.key))
                case Bad():
                    self._unread(kind, resource, told)
                case Denied():
                    denied = f"{resource.plural}: {told.error}"[:200]
                    if kind in OPTIONAL:
                        self._have(kind, "")
                    elif not self._complete.is_set():
                        self._context.wait_for(denied)
                case Synced():
                    self._context.have(denied)
                    self._have(kind, told.version)
            self._news.set()

    def _have(self, kind: str, version: str) -> None:
        """The kind is known up to this version."""
        self._versions[kind] = version
        if self._versions.keys() == KINDS.keys():
            self._complete.set()

    def _unread(self, kind: str, resource: Resource, told: Bad, slim: state.StateMessage | None = None) -> None:
        """An object that can't be read, or not be sent: something stands for it (``slim``, where that is known), and it is
        told on the object."""
        metrics.BAD.labels(kind).inc()
        self._context.log.warning("object can't be read", kind=kind, key=told.key, error=told.error)
        if told.key is None:
            return
        subject = self._subject(kind, resource, told.key)
        held = self._picture.held.get(subject)
        before = encode(slim) if slim else held.data if held else None
        record = stand_in(kind, told.key, told.uid, told.version, told.error, before, told.raw)
        strange = isinstance(record, state.PodRecord) and record.scheduler_name != self._context.config.scheduler_name
        if record is None or (isinstance(record, state.PodRecord) and strange and not record.node):
            self._picture.drop(subject)
        else:
            sent = trace_headers(cause=f"{told.uid}@{told.version}", sent=self._context.clock.now())
            self._picture.put(subject, encode(record), sent)
        about = Ref(resource.api.removeprefix("/apis/").removeprefix("/api/"), resource.kind, *told.key, told.uid)
        self._recorder.event(about, "Warning", "Unreadable", f"the scheduler can't read the object: {told.error}")

    def _subject(self, kind: str, resource: Resource, key: tuple[str, str]) -> str:
        names = key if resource.namespaced else key[1:]
        return subjects.state(kind, *names)

    def _put(self, kind: str, resource: Resource, told: Put[object]) -> None:
        subject = self._subject(kind, resource, told.key)
        if resource.kind in normalise.TYPES:
            record = normalise.TYPES[resource.kind][1](told.value)
        elif isinstance(told.value, admission.Admission):
            record = admission.record(resource.kind, told.value)
            if record is None:
                self._picture.drop(subject)
                return
        else:
            record = state.ObjectRecord(
                type=resource.kind, namespace=told.key[0], name=told.key[1], uid=told.uid,
                resource_version=told.version, body=msgspec.Raw(storage.slim(resource.kind, told.raw)),
            )  # fmt: skip
        ours = True
        if isinstance(record, state.PodRecord):
            ours = record.scheduler_name == self._context.config.scheduler_name
            if not ours and not record.node and not pinned_node(record):
                self._picture.drop(subject)
                return
        cause = f"{told.uid}@{told.version}"
        begins = isinstance(record, state.PodRecord) and ours and not record.node
        with telemetry.span("watch pod", root=begins, cause=cause) as parent:
            sent = trace_headers(cause=cause, sent=self._context.clock.now(), traceparent=parent)
            data = encode(record)
            if len(data) > LARGEST:
                # The bus would refuse it, and all that goes with it.
                error = f"what matters of it takes {len(data)} bytes, over {LARGEST}"
                self._unread(kind, resource, Bad(told.key, told.uid, told.version, error, told.raw), slimmed(record, LARGEST))
                return
            self._picture.put(subject, data, sent)

    async def publish(self) -> None:
        """Publish what changed, for ever, and a few times a second how far it goes."""
        await self._complete.wait()
        await self._compare()
        self._context.have("state plane")
        clock, marked, checked, every = self._context.clock, 0.0, 0.0, MARK_EVERY
        while True:
            # Before anything is awaited: what comes from here on wakes us again.
            self._news.clear()
            while self._picture.dirty:
                await self._publish(self._picture.take(BATCH))
                every = MARK_NEWS
            if clock.monotonic() - marked >= every:
                await self._mark()
                marked, every = clock.monotonic(), MARK_EVERY
            metrics.HELD.set(len(self._picture.held))
            metrics.BEHIND.set(len(self._picture.dirty))
            try:
                async with asyncio.timeout(max(0.0, marked + every - clock.monotonic())):
                    await self._news.wait()
            except TimeoutError:
                if clock.monotonic() - checked >= CHECK_EVERY:
                    await self._check_stream()
                    checked = clock.monotonic()

    async def _publish(self, changes: list[tuple[str, Entry | None]]) -> None:
        items = []
        for subject, entry in changes:
            if entry is None:
                items.append(Item(subject, b"", {Header.DELETED: "1"}, ttl=DELETED_TTL))
            else:
                items.append(Item(subject, entry.data, entry.headers))
        try:
            await self._bus.publish_many(items)
            metrics.PUBLISHED.inc(len(items))
        except BusError as error:
            self._picture.put_back([s for s, _ in changes])
            self._context.log.info("not published, again soon", count=len(items), error=str(error))
            await asyncio.sleep(0.2)
            await self._check_stream()

    async def _mark(self) -> None:
        mark = state.SyncMark(versions=dict(self._versions), at=self._context.clock.now())
        try:
            await self._bus.publish(subjects.state("meta", "synced"), mark)
        except BusError as error:
            self._context.log.info("mark not published", error=str(error))
            await self._check_stream()

    async def _check_stream(self) -> None:
        """Make the stream if it is gone; when it is another one than before, publish everything again."""
        try:
            await self._bus.ensure([streams.STATE])
            incarnation = await self._bus.incarnation(streams.STATE.name)
        except BusError as error:
            self._context.log.info("the stream is not there", error=str(error))
            await asyncio.sleep(0.2)
            return
        if incarnation != self._incarnation:
            await self._compare()

    async def _compare(self) -> None:
        """Hold the picture against what the stream has now."""
        await self._context.retry("state.compare", self._compare_once)

    async def _compare_once(self) -> None:
        await self._bus.ensure([streams.STATE])
        held: dict[str, bytes] = {}
        incarnation = ""
        filters = [subjects.state(kind, ">") for kind in KINDS]
        async with asyncio.timeout(60):
            follower = self._bus.follow(streams.STATE.name, filters)
            async for change in follower:
                if change.incarnation != incarnation:
                    incarnation = change.incarnation
                    held.clear()
                if change.subject and change.data is not None:
                    held[change.subject] = change.data
                elif change.subject:
                    held.pop(change.subject, None)
                if change.caught_up:
                    break
        self._incarnation = incarnation
        self._picture.compare(held)
        self._context.log.info("state plane compared", held=len(held), to_publish=len(self._picture.dirty))


async def start(context: Context[Config]) -> None:
    """Watch, and publish as the leader."""
    context.wait_for("state plane")
    config = context.config
    settings = KubeConfig(context.kubeconfig, "shoal-cluster-state", config.qps, config.burst)
    async with Kube.connect(settings) as kube:
        recorder = Recorder(kube, NAME, context.clock)
        service = Service(context, kube, recorder)

        async def again() -> None:
            service._news.set()

        context.bus.on_reconnect(again)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run(), name="events")
            for kind, resource in KINDS.items():
                tasks.create_task(service.watch(kind, resource), name=f"watch {kind}")
            # A standby watches as well, so that it has the picture when it is to lead.
            async with leading(context, kube, "shoal-cluster-state"):
                await service.publish()


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
