"""Allocate: start waiting gangs on idle resources, in the order of queues and jobs, all of a gang or none of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from shoal_core.cluster import Cluster, Group, Key, Pod
from shoal_core.gang import leaves, next_chunk, ready
from shoal_core.kernels.place import count_short, place_run
from shoal_core.nodes import Bytes
from shoal_core.placement.feasible import unsupported
from shoal_core.queues import NAMES, Queue, Vector, goes_before, zeros
from shoal_core.results import CycleResult, Gang, Placed, Waiting
from shoal_core.vocabulary import MEMORY, SHARED_RESOURCES

SHORT = {"cpu": "CPU cores", "memory": "memory", "nvidia.com/gpu": "GPUs", "pods": "room for pods"}


@dataclass
class Job:
    """A group that may start pods in this cycle."""

    key: Key
    group: Group
    queue: Queue
    chunk: list[Pod]
    wanted: Vector

    def order(self) -> tuple[object, ...]:
        """Order inside a queue: priority, those below their minimum first, age, name (policy spec 3.2)."""
        record = self.group.record
        assert record is not None
        below = 0 if any(_active(self.group, leaf.name) < leaf.needed for leaf in leaves(_root(self.group))) else 1
        return (-self.group.priority, below, record.created, record.uid, record.name)


def _root(group: Group):
    assert group.root is not None
    return group.root


def _active(group: Group, leaf: str) -> int:
    return sum(1 for p in group.pods.values() if p.counted and group.leaf_of(p) == leaf)


def _pods(cluster: Cluster, group: Group) -> list[Pod]:
    """The group's waiting pods that may be placed, in their order (policy spec 3.5)."""
    found = [
        p for uid, p in group.pods.items()
        if p.pending and uid not in cluster.barred and not p.record.error and not unsupported(p.record)
    ]  # fmt: skip
    return sorted(found, key=lambda p: (p.record.created, _natural(p.record.name), p.record.uid))


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    tail = name[len(head) :]
    return (head, int(tail[:18]) if tail else -1)


def _chunk(cluster: Cluster, group: Group) -> list[Pod]:
    pending: dict[str, list[str]] = {}
    for pod in _pods(cluster, group):
        pending.setdefault(group.leaf_of(pod), []).append(pod.record.uid)
    uids = next_chunk(_root(group), lambda leaf: _active(group, leaf), pending)
    return [group.pods[uid] for uid in uids]


def job_of(cluster: Cluster, key: Key, group: Group) -> Job | Waiting | None:
    """The group as a job, or why it can't be one, or None if nothing of it waits."""
    waiting = [p for p in group.pods.values() if p.pending]
    if not waiting:
        return None
    record = group.record
    uids = tuple(sorted(p.record.uid for p in waiting))
    if record is None:
        return Waiting(*key, "", "PodGroupNotFound", f"PodGroup {key[0]}/{key[1]}, which the pod names, does not exist", uids)

    def because(code: str, message: str) -> Waiting:
        return Waiting(*key, record.queue, code, message, uids)

    if record.error:
        return because("InvalidPodGroup", record.error)
    queue = cluster.queue_of(group)
    if queue is None:
        told = cluster.tree.problems.get(record.queue) or f"queue {record.queue!r} does not exist: create it, or name another"
        return because("QueueDoesNotExist", told)
    if queue.children:
        return because("QueueDoesNotExist", f"queue {queue.name} has queues below it: name one of those")
    if record.topology and record.topology.required:
        return because("NotSupportedYet", "required topology levels are not supported yet")
    names = set(cluster.leaves_of(group))
    for pod in waiting:
        if pod.record.error:
            return because("InvalidPod", f"pod {pod.record.name}: {pod.record.error}")
        if missing := unsupported(pod.record):
            return because("NotSupportedYet", f"pod {pod.record.name} asks for {missing}, which is not supported yet")
        if group.leaf_of(pod) not in names:
            return because(
                "InvalidPod", f"pod {pod.record.name} names subgroup {pod.record.subgroup!r}, which {record.name} lacks"
            )

    def alive(leaf: str) -> int:
        return sum(1 for p in group.pods.values() if p.alive and not p.record.gated and group.leaf_of(p) == leaf)

    if not ready(_root(group), alive):
        short = "; ".join(
            f"{'' if leaf.name == 'default' else f'subgroup {leaf.name}: '}"
            f"{leaf.needed} pods are needed, {alive(leaf.name)} exist"
            for leaf in leaves(_root(group))
            if alive(leaf.name) < leaf.needed
        )
        return because("NotEnoughPods", short or f"{record.min_subgroup} subgroups are needed, fewer are complete")
    chunk = _chunk(cluster, group)
    if not chunk:
        return because("Held", "its pods are held back after a refused binding")
    wanted = zeros()
    for pod in chunk:
        wanted += pod.request[:SHARED_RESOURCES]
    return Job(key, group, queue, chunk, wanted)


def _amount(resource: int, value: float) -> str:
    return f"{value / 1e6:g} MB" if resource == MEMORY else f"{value / 1000:g}" if resource == 0 else f"{value:g}"


def _refused_by_queue(job: Job) -> Waiting | None:
    """The limit or quota that the chunk would break."""
    uids = tuple(p.record.uid for p in job.chunk)
    if found := job.queue.over_limit(job.wanted):
        queue, r = found
        text = (
            f"queue {queue.name} may use {_amount(r, queue.limit[r])} {NAMES[r]} and uses {_amount(r, queue.allocated[r])}:"
            f" {_amount(r, job.wanted[r])} more are over its limit"
        )
        return Waiting(*job.key, job.queue.name, "OverLimit", text, uids)
    if not job.group.preemptible and (found := job.queue.over_quota(job.wanted)):
        queue, r = found
        text = (
            f"queue {queue.name} has a quota of {_amount(r, queue.quota[r])} {NAMES[r]}, of which non-preemptible work uses"
            f" {_amount(r, queue.fixed[r])}: {_amount(r, job.wanted[r])} more are over its quota"
        )
        return Waiting(*job.key, job.queue.name, "NonPreemptibleOverQuota", text, uids)
    return None


class Allocation:
    """One run of the action. ``hopeless``: chunks that found no room in this run, so that equals are not tried again."""

    def __init__(self, cluster: Cluster, result: CycleResult, spread: bool) -> None:
        self._cluster, self._result, self._spread = cluster, result, spread
        self._hopeless: dict[int, tuple[int, str]] = {}
        self._total = cluster.nodes.total()

    def run(self, jobs: list[Job]) -> None:
        """Try every job once, and again after each success while it has more to start."""
        by_queue: dict[str, list[Job]] = {}
        for job in sorted(jobs, key=Job.order, reverse=True):
            by_queue.setdefault(job.queue.name, []).append(job)
        while by_queue:
            job = self._next(by_queue)
            mine = by_queue[job.queue.name]
            mine.pop()
            if self._try(job):
                again = job_of(self._cluster, job.key, job.group)
                if isinstance(again, Job):
                    order = again.order()
                    at = next((i for i, other in enumerate(mine) if other.order() < order), len(mine))
                    mine.insert(at, again)
            if not mine:
                del by_queue[job.queue.name]

    def _next(self, by_queue: dict[str, list[Job]]) -> Job:
        """The best job: from the top, the sibling queue that goes first, down to a leaf."""
        alive: dict[str, Job] = {}
        siblings = [q for q in self._cluster.tree.top if self._best(q, by_queue, alive)]
        while True:
            first = siblings[0]
            for other in siblings[1:]:
                if goes_before(other, first, alive[other.name].wanted, alive[first.name].wanted, self._total):
                    first = other
            if not first.children:
                return by_queue[first.name][-1]
            siblings = [q for q in first.children if q.name in alive]

    def _best(self, queue: Queue, by_queue: dict[str, list[Job]], alive: dict[str, Job]) -> bool:
        """Whether the queue or one below has jobs; notes the job that stands for it in ``alive``."""
        if not queue.children:
            if mine := by_queue.get(queue.name):
                alive[queue.name] = mine[-1]
            return queue.name in alive
        first: Queue | None = None
        for child in queue.children:
            if not self._best(child, by_queue, alive):
                continue
            if first is None or goes_before(child, first, alive[child.name].wanted, alive[first.name].wanted, self._total):
                first = child
        if first is not None:
            alive[queue.name] = alive[first.name]
        return first is not None

    def _try(self, job: Job) -> bool:
        if refused := _refused_by_queue(job):
            self._result.waiting.append(refused)
            return False
        starts = not any(p.counted for p in job.group.pods.values())
        placed: list[Pod] = []
        for number, run in groupby(job.chunk, key=lambda p: p.number):
            pods = list(run)
            columns, why, fit = self._place(number, pods, alone=not placed)
            for pod, column in zip(pods, columns, strict=False):
                record = self._cluster.nodes.records[column]
                assert record is not None
                self._cluster.assume(pod.record.uid, record.name)
                placed.append(pod)
            if len(columns) < len(pods):
                found = len(placed) - len(columns) + fit
                for pod in placed:
                    self._cluster.forget(pod.record.uid)
                self._result.waiting.append(self._no_room(job, found, why))
                return False
        members = tuple(Placed(p.record.uid, p.record.namespace, p.record.name, p.node) for p in placed)
        self._result.gangs.append(Gang(*job.key, job.queue.name, members, starts))
        return True

    def _place(self, number: int, pods: list[Pod], *, alone: bool) -> tuple[list[int], str, int]:
        """(columns for as many of the equal pods as fit, why no more, how many fit). Charges nothing for good.

        ``alone``: nothing else of the gang is placed yet, so that a failure holds for the rest of the run.
        """
        kept = self._hopeless.get(number)
        if kept and kept[0] < len(pods):
            return [], kept[1], kept[0]
        nodes, pod = self._cluster.nodes, pods[0]
        request = pod.request
        if request.shape[0] < nodes.idle.shape[0]:
            request = np.concatenate([request, np.zeros(nodes.idle.shape[0] - request.shape[0])])
        rows = np.flatnonzero(request).astype(np.int64)
        allowed = nodes.allowed(number, pod.record)
        preferred, by = nodes.preferred(request)
        out = np.zeros(len(pods), np.int64)
        done = int(
            place_run(
                nodes.idle, nodes.allocatable, allowed, preferred, nodes.ranks(), request, rows, by, int(self._spread),
                len(pods), out,
            )
        )  # fmt: skip
        self._result.units += nodes.idle.shape[1] * (done + 1)
        why = ""
        if done < len(pods):
            why = self._why(allowed, request, rows)
            if alone:
                self._hopeless[number] = (done, why)
        # The kernel has charged the nodes; the cluster charges pods through ``assume``, which keeps every count in step.
        for column in out[:done]:
            nodes.charge(int(column), request, -1.0)
        return [int(c) for c in out[:done]], why, done

    def _why(self, allowed: Bytes, request: np.ndarray, rows: np.ndarray) -> str:
        """How many nodes fail for what."""
        nodes = self._cluster.nodes
        there = len(nodes.columns)
        short = np.zeros(rows.shape[0], np.int64)
        count_short(nodes.idle, allowed, request, rows, short)
        reasons: Counter[str] = Counter()
        for r, count in zip(rows, short, strict=True):
            if count:
                name = nodes.resources.values[int(r)]
                reasons[f"node(s) didn't have enough resources: {SHORT.get(name, name)}"] = int(count)
        unusable = there - int(nodes.usable.sum())
        excluded = there - unusable - int(allowed.sum())
        if unusable:
            reasons["node(s) are not ready or not schedulable"] = unusable
        if excluded:
            reasons["node(s) excluded by node selector, affinity or taints"] = excluded
        listed = "; ".join(f"{count} {what}" for what, count in sorted(reasons.items()))
        return f"no nodes with enough resources were found: of {there}, {listed or 'none is left'}"

    def _no_room(self, job: Job, found: int, why: str) -> Waiting:
        needed = len(job.chunk)
        text = why if needed == 1 else f"resources were found for {found} pods while {needed} must start together; {why}"
        return Waiting(*job.key, job.queue.name, "Unschedulable", text, tuple(p.record.uid for p in job.chunk))
