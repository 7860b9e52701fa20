"""One cycle's work on the cluster: what is tried is logged and can be undone exactly; what is committed becomes a decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shoal_core.cluster import Cluster
from shoal_core.nodes import Saved
from shoal_core.placement.census import Census
from shoal_core.placement.claim import Token
from shoal_core.reserved import Placer, nowhere, start_reserved
from shoal_core.results import CycleResult, Eviction, Hindrance, Placed
from shoal_core.rows import NOTHING, Job, Key, Pod, Vector, set_equal, set_status
from shoal_core.settings import Settings
from shoal_core.status import ACTIVE, ALLOCATED, BINDING, PENDING, PIPELINED, RELEASING
from shoal_core.vocabulary import GPU

if TYPE_CHECKING:
    from shoal_core.search.guard import Guard

EVICTED, RESTORED, PLACED, EVICTED_AGAIN = range(4)


class Change:
    """One step: the pod as it was before, and what else undoing needs."""

    __slots__ = (
        "accepted", "away", "claims", "column", "groups", "kind", "node", "pod", "slots", "slots_at", "status", "virtual",
        "volumes", "zones",
    )  # fmt: skip

    def __init__(self, kind: int, pod: Pod) -> None:
        self.kind, self.pod = kind, pod
        self.status, self.node, self.groups = pod.status, pod.node, pod.groups
        self.accepted, self.virtual, self.zones, self.away = pod.accepted, pod.virtual, pod.zones, pod.away
        self.column = -1
        self.slots: Saved | None = None
        self.slots_at = -1
        self.claims: Token | None = None
        self.volumes = False
        """Whether the place gave its claims volumes."""


def _times(vector: Vector, count: int) -> Vector:
    return vector[0] * count, vector[1] * count, round(vector[2] * count, 6)


class Session:
    """A cycle on ``cluster``. ``log`` holds the open steps; ``rollback`` undoes them from the end, ``commit`` closes them."""

    def __init__(self, cluster: Cluster, now: float, settings: Settings | None = None) -> None:
        self.cluster = cluster
        self.settings = settings or cluster.settings
        self.nodes = cluster.nodes
        self.now = now
        self.nodes.start_era()
        self.plugins = frozenset(self.settings.plugins)
        cluster.open(now)
        self.total: Vector = cluster.share_out()
        least, most = cluster.nodes.gpu_memories()
        self.least_memory, self.most_memory = least or 100.0, most or 100.0
        self.numa = "numa" in self.plugins and not cluster.numa.empty
        self.log: list[Change] = []
        self._recharges = self.settings.kai_0_17
        """Undo as v0.17 does it: shared devices are charged anew, and a pod that a simulation moved to another device of its
        own node is charged twice from then on. Mended when the cycle ends."""
        self._lost_copies: set[str] = set()
        """Evicted pods whose copy on their node went with the place that was undone."""
        self.result = CycleResult()
        self.everywhere = np.zeros(cluster.nodes.usable.shape[0], np.uint8)
        self.everywhere[list(cluster.nodes.columns.values())] = 1
        self.none = np.zeros(self.everywhere.shape[0])
        self.placed: dict[str, Pod] = {}
        """Pods that got their place in this session."""
        self.social: set[str] = set()
        """Those of them that want to be near other pods or far from them."""
        self.spreading: dict[str, Pod] = {}
        """Pods with spread constraints that the simulation under way has given a place: who comes after them keeps these."""
        self.journal: dict[str, Pod] | None = None
        """Pods whose place or status changed since the census last looked, from when it first did."""
        self.census = Census(self)
        self.later: dict[str, Pod] = {}
        """Pods whose place depends on what is being released: taken back at the end."""
        self._on_paper: set[int] = set()
        """Nodes whose charges may be off (a mere reservation was evicted there): charged anew at the end."""
        self.bound: set[str] = set()
        """Pods whose place was decided in this session."""
        self._deleted: set[str] = set()
        """Pods whose deletion was decided in this session."""
        self._twice: list[tuple[Pod, Vector]] = []
        """What queues count twice until the session ends."""
        self._broken = False
        """Something raised: nodes and queues are counted anew when the cycle ends."""
        self.units = 0
        self.why: dict[tuple[str, str], Any] = {}
        """Why a group could not be placed in this cycle."""
        self.guard: Guard | None = None
        """What may go together, if anything is bounded (search.guard)."""
        self.hindered: dict[Key, Hindrance] = {}
        """Which budgets keep the victims of a group that waits."""
        self.unfinished: list[tuple[str, str]] = []
        """Groups whose search used up its work."""
        self.placer: Placer = nowhere
        """Places pods anew when the cycle ends: set by what has the rules for it."""

    @property
    def evictions_spent(self) -> bool:
        """See ``Pace.spent``."""
        return self.cluster.pace.spent(self.settings, len(self.result.evictions), self.now)

    # steps

    def _queue(self, pod: Pod, amount: Vector, sign: float) -> None:
        job = pod.job
        if job is not None and job.queue is not None:
            job.queue.charge(amount, job.preemptible, sign)

    def evict(self, pod: Pod) -> None:
        """The pod is to leave its node."""
        change = Change(EVICTED, pod)
        if pod.status == PIPELINED:
            self._on_paper.add(pod.node)
        self._save(change, pod.node, pod.groups)
        self._leave(pod, change)
        self.log.append(change)
        self.units += 1

    def evict_again(self, pod: Pod) -> None:
        """A pod that is listed twice among the victims, as v0.17 may: its queue loses it twice while that is simulated."""
        self.log.append(Change(EVICTED_AGAIN, pod))
        self._queue(pod, pod.accepted, -1.0)

    def _save(self, change: Change, column: int, groups: tuple[str, ...]) -> None:
        if self._recharges:
            return
        if change.pod.shape.shared and groups:
            change.slots, change.slots_at = self.nodes.saved_slots(column, groups), column

    def _leave(self, pod: Pod, change: Change) -> None:
        cluster = self.cluster
        cluster.charge(pod, pod.node, pod.status, -1)
        cluster.charge(pod, pod.node, RELEASING, 1)
        self._queue(pod, pod.accepted, -1.0)
        if pod.shape.dynamic and pod.shape.claiming:
            change.claims = cluster.claims.release(pod.record, leaves=pod.status != PIPELINED)
        if pod.zones and self.numa:
            cluster.numa.charge(self.nodes.name(pod.node), pod.zones, -1.0)
        set_status(pod, RELEASING)
        pod.virtual = True
        self._note(pod)

    def _note(self, pod: Pod) -> None:
        if self.journal is not None:
            self.journal[pod.record.uid] = pod

    def _return(self, pod: Pod, change: Change) -> None:
        """Take an eviction back."""
        cluster = self.cluster
        if pod.uid in self._lost_copies:
            self._lost_copies.discard(pod.uid)
        else:
            cluster.charge(pod, change.node, RELEASING, -1, slots=self._recharges)
        cluster.charge(pod, change.node, change.status, 1, slots=self._recharges)
        if change.slots is not None:
            self.nodes.restore_slots(change.slots_at, change.slots)
        self._queue(pod, change.accepted, 1.0)
        if change.claims is not None:
            cluster.claims.undo(change.claims)
        if change.zones and self.numa:
            cluster.numa.charge(self.nodes.name(change.node), change.zones, 1.0)
        set_status(pod, change.status)
        pod.virtual, pod.zones = change.virtual, change.zones
        self._note(pod)

    def restore(self, pod: Pod) -> bool:
        """The pod was evicted in this simulation and stays after all. False if it was not."""
        for change in self.log:
            if change.kind == EVICTED and change.pod is pod:
                again = Change(RESTORED, pod)
                if change.slots is not None:
                    # Others may have joined its device in the meantime: charge it anew instead of restoring a picture.
                    self._save(again, pod.node, pod.groups)
                    cluster = self.cluster
                    cluster.charge(pod, pod.node, RELEASING, -1)
                    cluster.charge(pod, pod.node, change.status, 1)
                    self._queue(pod, pod.accepted, 1.0)
                    set_status(pod, change.status)
                    pod.virtual = change.virtual
                    self._note(pod)
                else:
                    self._return(pod, change)
                self.log.append(again)
                return True
        return False

    def place(
        self,
        pod: Pod,
        column: int,
        later: bool,
        groups: tuple[str, ...] = (),
        zones: tuple = (),
        volumes: Mapping[Key, str] | None = None,
    ) -> None:
        """Give the pod a place: now, or ``later`` when what is there is released. ``volumes``: what its unbound claims get."""
        cluster = self.cluster
        change = Change(PLACED, pod)
        change.column = column
        self._save(change, column, groups)
        if pod.status == RELEASING:
            pod.away = (*pod.away, (pod.node, pod.groups, RELEASING))
        status = PIPELINED if later else ALLOCATED
        pod.groups = groups
        if pod.shape.dynamic and pod.shape.claiming:
            record = self.nodes.records[column]
            assert record is not None
            change.claims = cluster.claims.allocate(pod.record, pod.shape.extended, record)
        if volumes:
            change.volumes = cluster.volumes.take(pod.uid, self.nodes.name(column), volumes)
        cluster.charge(pod, column, status, 1)
        pod.node = column
        pod.accepted = cluster.accepted(pod, column) if pod.shape.memory else pod.shape.vector
        self._queue(pod, pod.accepted, 1.0)
        if zones and self.numa:
            cluster.numa.charge(self.nodes.name(column), zones, 1.0)
        pod.zones = zones
        set_status(pod, status)
        pod.virtual = True
        self.placed[pod.record.uid] = pod
        if pod.shape.social:
            self.social.add(pod.record.uid)
        if later and pod.record.spread:
            self.spreading[pod.record.uid] = pod
        self._note(pod)
        self.log.append(change)
        self.units += 1

    def place_equal(self, pods: list[Pod], columns: list[int], waits: list[int]) -> None:
        """Give equal waiting pods of one job, which ask for nothing but room, the places that a kernel chose and charged.

        The same as ``place`` one by one.
        """
        shape, log, placed, whole_used = pods[0].shape, self.log, self.placed, self.nodes.whole_used
        vector, gpus, having, some_wait = shape.vector, shape.gpus, self.nodes.allocatable[GPU], any(waits)
        self.nodes.moved.extend(columns)
        for pod, column, wait in zip(pods, columns, waits, strict=True):
            change = Change(PLACED, pod)
            change.column = column
            if gpus and having[column]:
                whole_used[column] += gpus
            pod.node, pod.accepted, pod.groups, pod.zones, pod.virtual = column, vector, (), (), True
            if some_wait:
                set_status(pod, PIPELINED if wait else ALLOCATED)
            placed[pod.record.uid] = pod
            log.append(change)
        if not some_wait:
            set_equal(pods, ALLOCATED)
        if self.journal is not None:
            self.journal.update((pod.record.uid, pod) for pod in pods)
        self._queue(pods[0], _times(vector, len(pods)), 1.0)
        self.units += len(pods)

    def _unplace(self, change: Change) -> None:
        pod, cluster = change.pod, self.cluster
        cluster.charge(pod, change.column, pod.status, -1, slots=self._recharges)
        if self._recharges and pod.shape.shared:
            self._on_paper.add(change.column)
            if change.status == RELEASING and change.column == change.node and set(pod.groups) != set(change.groups):
                self._lost_copies.add(pod.uid)
        if change.slots is not None:
            self.nodes.restore_slots(change.slots_at, change.slots)
        self._queue(pod, pod.accepted, -1.0)
        if change.claims is not None:
            cluster.claims.undo(change.claims)
        if change.volumes:
            cluster.volumes.give_back(pod.uid)
        if pod.zones and self.numa:
            cluster.numa.charge(self.nodes.name(change.column), pod.zones, -1.0)
        pod.node, pod.groups, pod.accepted = change.node, change.groups, change.accepted
        pod.zones, pod.away = change.zones, change.away
        set_status(pod, change.status)
        pod.virtual = change.virtual
        self.placed.pop(pod.record.uid, None)
        self.social.discard(pod.record.uid)
        self.spreading.pop(pod.record.uid, None)
        self._note(pod)

    def rollback(self, to: int) -> None:
        """Undo the steps after the first ``to``, the last one first."""
        log = self.log
        while len(log) > to:
            change = log.pop()
            if change.kind == PLACED:
                self._unplace(change)
            elif change.kind == EVICTED:
                self._return(change.pod, change)
            elif change.kind == EVICTED_AGAIN:
                self._queue(change.pod, change.accepted, 1.0)
            else:
                self._undo_restore(change)

    def abandon(self, job: Job, error: Exception) -> None:
        """The evaluation of the job raised: what it did since the last commit is undone, and it is put aside.

        Whatever was half done is counted anew when the cycle ends.
        """
        cluster = self.cluster
        left = list(self.log)
        try:
            self.rollback(0)
        except Exception as second:
            cluster.quarantine.failed(f"group {job.key[0]}/{job.key[1]}", second)
            for change in reversed(left):
                pod = change.pod
                pod.node, pod.groups, pod.accepted, pod.zones, pod.away = (
                    change.node, change.groups, change.accepted, change.zones, change.away,
                )  # fmt: skip
                set_status(pod, change.status)
                pod.virtual = change.virtual
            self.log.clear()
        for pod in job.pods.values():
            if pod.status == PENDING:
                # A step of it may have stopped half-way.
                pod.node, pod.groups, pod.accepted, pod.zones, pod.away, pod.virtual = -1, (), NOTHING, (), (), False
                self.placed.pop(pod.uid, None)
        self.spreading.clear()
        self.why.pop(job.key, None)
        self._broken = True
        cluster.quarantine.put(job, self.now, error)

    def _undo_restore(self, change: Change) -> None:
        pod = change.pod
        if change.slots is None:
            again = Change(EVICTED, pod)
            self._leave(pod, again)
            for earlier in self.log:
                if earlier.kind == EVICTED and earlier.pod is pod:
                    earlier.claims = again.claims
            return
        self.cluster.charge(pod, pod.node, pod.status, -1, slots=False)
        self.cluster.charge(pod, pod.node, RELEASING, 1, slots=False)
        self.nodes.restore_slots(change.slots_at, change.slots)
        self._queue(pod, pod.accepted, -1.0)
        set_status(pod, RELEASING)
        pod.virtual = True
        self._note(pod)

    def began_active(self, pod: Pod) -> bool:
        """Whether the pod had a place when the session began."""
        uid = pod.record.uid
        return bool(pod.node_name) and uid not in self.bound and (ACTIVE[pod.status] or uid in self._deleted)

    def reserving(self) -> bool:
        """Whether a pod was given a place for later since the last commit."""
        return any(change.kind == PLACED and change.pod.status == PIPELINED for change in self.log)

    def postpone(self, start: int) -> None:
        """What was placed for now since step ``start`` waits with the rest of its gang for what is being released."""
        for change in self.log[start:]:
            pod = change.pod
            if change.kind == PLACED and pod.status == ALLOCATED:
                self.cluster.charge(pod, change.column, ALLOCATED, -1)
                self.cluster.charge(pod, change.column, PIPELINED, 1)
                set_status(pod, PIPELINED)

    # decisions

    def commit_places(self) -> tuple[Placed, ...]:
        """Close the log: what has a place now is decided, what has one later is reserved. Returns the decided."""
        cluster, decided, journal = self.cluster, [], self.journal
        bound, assumed, by_node = self.bound, cluster.assumed, cluster.by_node
        started: dict[tuple[int, int], tuple[Pod, int]] = {}
        """By job and shape: how many of them start."""
        for change in self.log:
            pod = change.pod
            if change.kind != PLACED:
                continue
            uid, shape = pod.record.uid, pod.shape
            pod.virtual = False
            if journal is not None:
                journal[uid] = pod
            entry = self._entry(pod)
            if pod.status == ALLOCATED:
                set_status(pod, BINDING)
                bound.add(uid)
                node = pod.node_name = entry.node
                assumed[uid] = (node, pod.groups)
                if (here := by_node.get(node)) is None:
                    here = by_node[node] = {}
                here[uid] = None
                like = (id(pod.job), shape.number)
                started[like] = (pod, started[like][1] + 1) if like in started else (pod, 1)
                if shape.social:
                    cluster.social.add(uid)
                decided.append(entry)
            else:
                self.later[uid] = pod
                self.result.reserved.append(entry)
        self.spreading.clear()
        for pod, count in started.values():
            if pod.job is not None and pod.job.queue is not None:
                pod.job.queue.charge_pending(_times(pod.shape.vector, count), -1.0)
        self.log.clear()
        return tuple(decided)

    def _entry(self, pod: Pod) -> Placed:
        record, shape = pod.record, pod.shape
        claims, extended = (), None
        if shape.dynamic and shape.claiming:
            claims = self.cluster.claims.allocations(record)
            extended = self.cluster.claims.for_extended(record.uid)
        portion = memory = 0
        if shape.shared:
            memory = self.cluster.memory_on(shape, pod.node)
            portion = pod.accepted[2] / shape.devices if shape.devices else 0.0
        return Placed(
            record.uid, record.namespace, record.name, self.nodes.name(pod.node), pod.groups, float(portion), int(memory),
            pod.zones, claims, extended, self.cluster.volumes.promised(record) if record.volumes else (),
        )  # fmt: skip

    def commit_victims(self, evictions: dict[str, Eviction]) -> None:
        """Close the log of a simulation: its victims go (``evictions`` by uid), its places are reserved."""
        for change in self.evicted():
            uid = change.pod.record.uid
            if uid in self.later:
                # It loses its reservation.
                self.result.reserved = [r for r in self.result.reserved if r.uid != uid]
            if uid in self._deleted:
                self._delete_twice(change)
                continue
            self._deleted.add(uid)
            if uid in self.later:
                continue
            if uid not in self.cluster.going:
                self.cluster.disruptions.goes(change.pod)
                self.cluster.going.add(uid)
                self.cluster.evicted.add(uid)
                found = evictions[uid]
                self.result.evictions.append(found)
        for change in self.log:
            change.pod.virtual = False
            if change.kind == EVICTED_AGAIN:
                self._queue(change.pod, change.accepted, 1.0)
            self._note(change.pod)
            if change.kind == PLACED and change.pod.status == PIPELINED:
                self.later[change.pod.record.uid] = change.pod
                self.result.reserved.append(self._entry(change.pod))
        self.log.clear()
        self.spreading.clear()

    def evicted(self) -> list[Change]:
        """The evictions among the open steps that were not taken back."""
        stay = {id(c.pod) for c in self.log if c.kind == RESTORED}
        return [c for c in self.log if c.kind == EVICTED and id(c.pod) not in stay]

    def _delete_twice(self, change: Change) -> None:
        """A pod that was moved is deleted already and can't be deleted again: for the rest of the cycle it counts once more
        in its queue, and where it moved again, as reserved in the place that it was first moved to."""
        pod, cluster = change.pod, self.cluster
        self._queue(pod, pod.accepted, 1.0)
        self._twice.append((pod, pod.accepted))
        if pod.status == PIPELINED:
            cluster.charge(pod, change.node, RELEASING, -1, slots=False)
            cluster.charge(pod, change.node, PIPELINED, 1, slots=False)
            pod.away = tuple((at, groups, PIPELINED if at == change.node else how) for at, groups, how in pod.away)
            self._on_paper.add(change.node)

    def close(self) -> CycleResult:
        """End the cycle: reservations are taken back, so that the cluster shows what is decided and nothing else."""
        cluster, shared = self.cluster, set(self._on_paper)
        for pod, amount in self._twice:
            self._queue(pod, amount, -1.0)
        for pod in self.later.values():
            if pod.status not in (PIPELINED, RELEASING):
                continue
            if pod.shape.shared:
                shared.update((pod.node, *(at for at, _, _ in pod.away)))
            cluster.charge(pod, pod.node, pod.status, -1, slots=False)
            if pod.status == PIPELINED:
                self._queue(pod, pod.accepted, -1.0)
            if pod.shape.claiming:
                cluster.claims.release(pod.record, leaves=False)
            cluster.volumes.give_back(pod.uid)
            pod.zones = ()
            runs = bool(pod.away and pod.node_name)
            for at, _, how in pod.away[1 if runs else 0 :]:
                cluster.charge(pod, at, how, -1, slots=False)
            if runs:
                pod.node, pod.groups, _ = pod.away[0]
                set_status(pod, RELEASING)
            else:
                pod.node, pod.groups, pod.accepted = -1, (), NOTHING
                set_status(pod, PENDING)
            pod.away = ()
            pod.virtual = False
            self._note(pod)
        if self._broken:
            shared.update(cluster.nodes.columns.values())
            cluster.distrust_queues()
        void = self._take_back(shared)
        for column in shared:
            cluster.rebuild_node(column)
        if void:
            start_reserved(self)
        for job in {id(p.job): p.job for p in (*self.placed.values(), *self.later.values())}.values():
            if job is not None:
                job.signature_cache = None
                cluster.look_again(job)
        for eviction in self.result.evictions:
            job = cluster.jobs[eviction.namespace, eviction.group]
            job.signature_cache = None
            if eviction.for_group:
                job.history.evicted = self.now
            cluster.look_again(job)
        self.result.units = self.units
        return self.result

    def _take_back(self, shared: set[int]) -> set[str]:
        """Pods that were to start and then had to make room in the same cycle never start: both decisions are void."""
        cluster, result = self.cluster, self.result
        void: set[str] = set()
        if not result.evictions:
            return void
        begun: dict[tuple[str, str], bool] = {}
        for gang in result.gangs:
            key = (gang.namespace, gang.group)
            gone = [m for m in gang.members if cluster.pods[m.uid].status == RELEASING]
            begun[key] = begun.get(key, False) or gang.starts
            for member in gone:
                void.add(member.uid)
                self._never_starts(cluster.pods[member.uid], RELEASING, shared)
        parts = {(g.namespace, g.group) for g in result.gangs if any(m.uid in void for m in g.members)}
        parts = {key for key in parts if begun[key] and not cluster.jobs[key].root.satisfied}
        for gang in result.gangs:
            for member in gang.members if (gang.namespace, gang.group) in parts else ():
                if member.uid not in void:
                    # It would start as a part of a gang: it waits in its place for the others.
                    void.add(member.uid)
                    result.reserved.append(member)
                    self._never_starts(cluster.pods[member.uid], BINDING, shared)
        if void:
            left = [
                g if void.isdisjoint(m.uid for m in g.members)
                else msgspec.structs.replace(g, members=tuple(m for m in g.members if m.uid not in void))
                for g in result.gangs
            ]  # fmt: skip
            result.gangs = [g for g in left if g.members]
            result.evictions = [e for e in result.evictions if e.uid not in void]
        return void

    def _never_starts(self, pod: Pod, status: int, shared: set[int]) -> None:
        """A pod that was to start waits again; ``status`` is what its node is charged with."""
        cluster, queue = self.cluster, pod.job.queue if pod.job else None
        cluster.charge(pod, pod.node, status, -1, slots=False)
        if pod.shape.shared:
            shared.add(pod.node)
        if status == BINDING:
            self._queue(pod, pod.accepted, -1.0)
        cluster.by_node[pod.node_name].pop(pod.uid, None)
        cluster.assumed.pop(pod.uid, None)
        cluster.going.discard(pod.uid)
        cluster.evicted.discard(pod.uid)
        cluster.social.discard(pod.uid)
        if pod.shape.claiming:
            cluster.claims.release(pod.record, leaves=False)
            cluster.claims.gone(pod.uid)
        cluster.volumes.give_back(pod.uid)
        pod.node, pod.node_name, pod.groups, pod.accepted = -1, "", (), NOTHING
        set_status(pod, PENDING)
        self._note(pod)
        if queue is not None:
            queue.charge_pending(pod.shape.vector)

    # looking

    def free_after(self, node: str) -> tuple[float, float]:
        """(idle, releasing) GPUs of a node as the session stands."""
        column = self.nodes.columns[node]
        return float(self.nodes.idle[GPU, column]), float(self.nodes.releasing[GPU, column])
