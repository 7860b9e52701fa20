"""What scenarios have in common: those that differ in the names of jobs and nodes alone fail alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable

from shoal_core.gang import Member, PodSet
from shoal_core.nodes import Bytes
from shoal_core.order.jobs import Sorted
from shoal_core.placement.walk import Walk
from shoal_core.rows import Job, Pod
from shoal_core.search.scenario import Batch
from shoal_core.session import Session

Likeness = tuple[Hashable, ...]


def has_topology(member: Member) -> bool:
    """Whether a topology is asked for anywhere in the tree."""
    if member.topology is not None:
        return True
    return not isinstance(member, PodSet) and any(has_topology(child) for child in member.children)


class Looks:
    """Looks of jobs and nodes as the session stands; ``forget`` when something was committed."""

    def __init__(self, session: Session, walk: Walk, pending: Sorted) -> None:
        self._session, self._walk, self._pending = session, walk, pending
        self._nodes: dict[int, Hashable] = {}
        self._places: dict[int, int] = {}

    def forget(self) -> None:
        """The session changed."""
        self._nodes.clear()
        self._places.clear()

    def plain(self, pod: Pod) -> bool:
        """Whether its place depends on its request, its mask and the room of nodes alone."""
        shape = pod.shape
        return not (shape.shared or shape.dynamic or shape.claim_gpus or pod.record.nominated_node)

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

    def scenario(self, tasks: list[Pod], recorded: list[Pod], batches: list[Batch], among: Bytes) -> Likeness | None:
        """The look of a scenario with these new victims beside the ``recorded`` ones; None if it is like no other."""
        walk = self._walk
        gone: dict[int, tuple[Job, list[Pod]]] = {}
        for batch in batches:
            gone.setdefault(id(batch.job), (batch.job, []))[1].extend(batch.pods)
        shapes = {t.shape.number: t for t in tasks}
        fixed = {p.node for p in recorded}
        jobs: list[tuple[str, int, tuple[object, ...], Job, list[Pod]]] = []
        for job, pods in gone.values():
            whole = len(pods) == job.active and not job.pending and len(job.leaf_list) == 1 and not has_topology(job.root)
            if not whole or job.queue is None or any(not self.plain(p) or p.away or p.node in fixed for p in pods):
                return None
            for pod in pods:
                shapes.setdefault(pod.shape.number, pod)
            jobs.append((job.queue.name, self.place(job), job.order(), job, pods))
        if len(jobs) > 1:
            jobs.sort(key=lambda j: j[:3])
        masks = [walk.mask(pod) for _, pod in sorted(shapes.items())]
        numbers: dict[int, int] = {}
        found: list[Hashable] = []
        for queue, place, _, job, pods in jobs:
            minimum = job.leaf_list[0].minimum
            found.append((queue, place, minimum))
            for pod in pods:
                number = numbers.get(pod.node)
                if number is None:
                    number = numbers[pod.node] = len(numbers)
                    found.append((self.node(pod.node), int(among[pod.node]), *(int(m[pod.node]) for m in masks)))
                found.append((pod.shape.number, number))
        return tuple(found)
