"""What scenarios have in common: those that differ in the names of jobs and nodes alone fail alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from operator import itemgetter

import numpy as np

from shoal_core.gang import Member, PodSet
from shoal_core.nodes import Bytes
from shoal_core.order.jobs import Sorted
from shoal_core.placement.walk import Walk
from shoal_core.rows import Job, Pod
from shoal_core.search.scenario import Batch
from shoal_core.session import Session
from shoal_core.status import ACTIVE

Likeness = tuple[Hashable, ...]
JobLook = tuple[tuple[object, ...], Hashable]
"""What jobs are put in order by, and what they have in common."""
MISSING = object()


def has_topology(member: Member) -> bool:
    """Whether a topology is asked for anywhere in the tree."""
    if member.topology is not None:
        return True
    return not isinstance(member, PodSet) and any(has_topology(child) for child in member.children)


class Free:
    """GPUs that are free on the nodes, as the session stands."""

    def __init__(self, session: Session, with_cpu: bool) -> None:
        idle, leaving = session.nodes.idle_and_leaving_gpus()
        self.gpus = idle + leaving
        """(nodes,): see ``Nodes.free_gpus``."""
        some = (idle > 0) | (leaving > 0)
        self.nodes: Bytes = session.everywhere if with_cpu else (session.everywhere & some).astype(np.uint8)
        """(nodes,): those on which the job's pods and its victims are placed."""
        self._here = np.maximum(self.gpus, 0.0)[self.nodes == 1]
        self.total = float(self._here.sum())
        self._slots: dict[float, int] = {}

    def slots(self, each: float) -> int:
        """So many requests of ``each`` whole GPUs fit on these nodes as they are."""
        found = self._slots.get(each)
        if found is None:
            found = self._slots[each] = int((self._here // each).sum())
        return found


class Looks:
    """Looks of jobs and nodes as the session stands; ``forget`` when something was committed."""

    def __init__(self, session: Session, walk: Walk, pending: Sorted) -> None:
        self._session, self._walk, self._pending = session, walk, pending
        self._nodes: dict[int, Hashable] = {}
        self._places: dict[int, int] = {}
        self._jobs: dict[int, JobLook | object | None] = {}
        self._views: dict[tuple[int, tuple[int, ...]], Hashable] = {}
        self._free: dict[bool, Free] = {}

    def forget(self) -> None:
        """The session changed."""
        for kept in (self._nodes, self._places, self._jobs, self._views, self._free):
            kept.clear()

    def plain(self, pod: Pod) -> bool:
        """Whether its place depends on its request, its mask and the room of nodes alone."""
        shape = pod.shape
        plain = not (shape.shared or shape.dynamic or shape.claim_gpus or pod.record.nominated_node)
        return plain and self._walk.alone(pod) and not self._walk.preferences.of_nodes(pod)

    def node(self, column: int) -> Hashable:
        """All that placing plain pods sees of a node but its name; nodes with shared GPUs are like no other."""
        found = self._nodes.get(column)
        if found is None:
            nodes = self._session.nodes
            found = self._nodes[column] = (
                column
                if nodes.slots[column]
                else (
                    nodes.idle[:, column].tobytes(), nodes.releasing[:, column].tobytes(),
                    nodes.allocatable[:, column].tobytes(), float(nodes.devices[column]), int(nodes.cpu_only[column]),
                    int(nodes.gpu_memory[column]),
                )
            )  # fmt: skip
        return found

    def place(self, job: Job) -> int:
        """The place that the job will have among those that wait in its queue, once all its pods are gone."""
        found = self._places.get(id(job))
        if found is None:
            assert job.queue is not None
            order = job.order()
            below = 0 if any(leaf.minimum > 0 for leaf in job.leaf_list) else order[1]
            key = (order[0], below, order[2], order[3])
            waiting = self._pending.of(job.queue.name)
            found = self._places[id(job)] = bisect_left(waiting, key, key=lambda pair: pair[0])
        return found

    def free(self, with_cpu: bool) -> Free:
        """What is free on the nodes on which a job's pods and its victims are placed: all, or for a job of GPUs only those
        that have some idle or some that are being released, whatever is promised of them (policy spec 4.4)."""
        found = self._free.get(with_cpu)
        if found is None:
            found = self._free[with_cpu] = Free(self._session, with_cpu)
        return found

    def _job(self, job: Job) -> JobLook | None:
        """The look of a job all of whose pods go; None if it is like no other."""
        found = self._jobs.get(id(job), MISSING)
        if found is MISSING:
            found = None
            pods = [p for leaf in job.leaf_list for p in leaf.pods if ACTIVE[p.status]]
            plain = len(job.leaf_list) == 1 and all(self.plain(p) and not p.away for p in pods) and not has_topology(job.root)
            if plain and not job.pending and job.queue is not None:
                name, place = job.queue.name, self.place(job)
                found = (name, place, job.order()), (name, place, job.leaf_list[0].minimum)
            self._jobs[id(job)] = found
        return found  # type: ignore[return-value]

    def _seen(self, column: int, shapes: tuple[tuple[int, Pod], ...], numbers: tuple[int, ...]) -> Hashable:
        """A node, and which of the shapes may use it."""
        found = self._views.get((column, numbers))
        if found is None:
            masks = [self._walk.mask(pod) for _, pod in shapes]
            found = self._views[column, numbers] = (self.node(column), *(int(m[column]) for m in masks))
        return found

    def scenario(self, tasks: list[Pod], recorded: list[Pod], batches: list[Batch], among: Bytes) -> Likeness | None:
        """The look of a scenario with these new victims beside the ``recorded`` ones; None if it is like no other."""
        gone: dict[int, tuple[Job, list[Pod]]] = {}
        for batch in batches:
            have = gone.get(id(batch.job))
            gone[id(batch.job)] = (batch.job, batch.pods if have is None else [*have[1], *batch.pods])
        shapes = {t.shape.number: t for t in tasks}
        fixed = {p.node for p in recorded}
        jobs: list[tuple[tuple[object, ...], Hashable, list[Pod]]] = []
        for job, pods in gone.values():
            look = self._job(job) if len(pods) == job.active else None
            if look is None:
                return None
            for pod in pods:
                if pod.node in fixed:
                    return None
                shapes.setdefault(pod.shape.number, pod)
            jobs.append((*look, pods))
        if len(jobs) > 1:
            jobs.sort(key=itemgetter(0))
        ordered = tuple(sorted(shapes.items())) if len(shapes) > 1 else tuple(shapes.items())
        asked = tuple(shape for shape, _ in ordered)
        numbers: dict[int, int] = {}
        found: list[Hashable] = []
        for _, head, pods in jobs:
            found.append(head)
            for pod in pods:
                number = numbers.get(pod.node)
                if number is None:
                    number = numbers[pod.node] = len(numbers)
                    found.append((self._seen(pod.node, ordered, asked), int(among[pod.node])))
                found.append((pod.shape.number, number))
        return tuple(found)
