"""Jobs as the actions take them: forward to be served, in a simulation, and backward as victims."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal_core.gang import Remaining
from shoal_core.order.iterator import Iterator, Node
from shoal_core.order.queues import OrderKey, order_key
from shoal_core.queues import Queue
from shoal_core.rows import NOTHING, Job, Pod, Vector
from shoal_core.status import ACTIVE, COUNTED

JobKey = tuple[int, int, float, str]


@dataclass
class Probe:
    """The job for which room is sought, with the first so many of its next pods."""

    job: Job
    tasks: list[Pod]
    chunk: Vector
    key: JobKey


class Serving(Iterator[Job]):
    """Jobs to be served. ``depth`` bounds the jobs of a queue that are looked at."""

    def __init__(self, jobs: Iterable[Job], total: Vector, least_memory: float, depth: int | None = None) -> None:
        super().__init__()
        self._total, self._least = total, least_memory
        for job in jobs:
            assert job.queue is not None
            self.leaf(job.queue).jobs.append(job)
        for node in self._nodes.values():
            node.jobs.sort(key=Job.order, reverse=True)
            if depth is not None and depth > 0:
                del node.jobs[: max(0, len(node.jobs) - depth)]

    def key(self, node: Node[Job]) -> OrderKey:
        """By the job that would be taken."""
        assert node.queue is not None
        at = node
        while at.top is not None:
            at = at.top
        job = at.jobs[-1]
        return order_key(node.queue, (job.chunk_cache or job.chunk(False, self._least))[1], self._total)

    def take(self, leaf: Node[Job]) -> Job:
        """The best job."""
        return leaf.jobs.pop()

    def give_back(self, job: Job) -> None:
        """As said there."""
        assert job.queue is not None
        self.leaf(job.queue).jobs.append(job)

    def has(self, leaf: Node[Job]) -> bool:
        """Whether jobs are left."""
        return bool(leaf.jobs)

    def push(self, job: Job) -> None:
        """A job that has more to start."""
        assert job.queue is not None
        leaf = self.leaf(job.queue)
        key, at = job.order(), len(leaf.jobs)
        while at and leaf.jobs[at - 1].order() < key:
            at -= 1
        leaf.jobs.insert(at, job)
        self.touched(leaf)


class Sorted:
    """Jobs of each queue in their order, kept in step as jobs change. ``eligible`` says which are in."""

    def __init__(self, jobs: Iterable[Job], eligible: Callable[[Job], bool]) -> None:
        self._eligible = eligible
        self.lists: dict[str, list[tuple[JobKey, Job]]] = {}
        self.queues: dict[str, Queue] = {}
        self._where: dict[int, tuple[str, JobKey]] = {}
        self._spread: dict[int, str] = {}
        """Jobs that run on more than one node -> their queue."""
        for job in jobs:
            if eligible(job):
                queue = job.queue
                assert queue is not None
                name, key = queue.name, job.key_cache or job.order()
                if name not in self.queues:
                    self.queues[name], self.lists[name] = queue, []
                self.lists[name].append((key, job))
                self._where[id(job)] = (name, key)
                if job.active > 1:
                    self._note(job)
        for found in self.lists.values():
            found.sort(key=lambda pair: pair[0])

    def _note(self, job: Job) -> None:
        if job.active > 1 and job.queue and len({p.node for p in job.pods.values() if ACTIVE[p.status]}) > 1:
            self._spread[id(job)] = job.queue.name
        else:
            self._spread.pop(id(job), None)

    def spread(self, queues: Iterable[str]) -> bool:
        """Whether a job of these queues runs on more than one node."""
        return not set(self._spread.values()).isdisjoint(queues)

    def update(self, job: Job) -> None:
        """The job changed for good."""
        self._spread.pop(id(job), None)
        if where := self._where.pop(id(job), None):
            found = self.lists[where[0]]
            at = bisect_left(found, where[1], key=lambda pair: pair[0])
            while found[at][1] is not job:
                at += 1
            del found[at]
        if self._eligible(job):
            assert job.queue is not None
            self.queues[job.queue.name] = job.queue
            key = job.order()
            insort(self.lists.setdefault(job.queue.name, []), (key, job), key=lambda pair: pair[0])
            self._where[id(job)] = (job.queue.name, key)
            self._note(job)


Entry = tuple[JobKey, "Job | Probe"]


class Simulated(Iterator[Entry]):
    """The order in a simulation: the probe and the victims' jobs among all that wait.

    Those that only wait are never placed, but stand for their queues while they are first.
    """

    def __init__(self, pending: Sorted, probe: Probe, victims: Iterable[Job], total: Vector, least_memory: float) -> None:
        super().__init__()
        self._total, self._least = total, least_memory
        self._skipped = {id(probe.job)}
        mine: dict[str, list[Entry]] = {}
        tops: set[str] = set()
        queues: dict[str, Queue] = {}
        entries: list[tuple[Queue, Entry]] = [(probe.job.queue, (probe.key, probe))]  # type: ignore[list-item]
        for job in victims:
            if job.queue is not None and id(job) not in self._skipped:
                self._skipped.add(id(job))
                entries.append((job.queue, (job.order(), job)))
        for queue, entry in entries:
            queues[queue.name] = queue
            mine.setdefault(queue.name, []).append(entry)
            tops.add(queue.line[-1].name)
        self._waiting: dict[str, list[tuple[JobKey, Job]]] = {}
        for name, found in pending.lists.items():
            queue = pending.queues[name]
            if found and queue.line[-1].name in tops:
                left = [pair for pair in reversed(found) if id(pair[1]) not in self._skipped]
                if left:
                    queues[name] = queue
                    mine.setdefault(name, []).extend(left)
        for name, found in mine.items():
            found.sort(key=lambda pair: pair[0], reverse=True)
            self.leaf(queues[name]).jobs = found
        self.participants = self._skipped

    def key(self, node: Node[Entry]) -> OrderKey:
        """By the entry that would be taken."""
        assert node.queue is not None
        first = node.representative.jobs[-1][1]
        chunk = first.chunk if isinstance(first, Probe) else first.chunk(False, self._least)[1]
        return order_key(node.queue, chunk, self._total)

    def take(self, leaf: Node[Entry]) -> Entry:
        """The best entry."""
        return leaf.jobs.pop()

    def has(self, leaf: Node[Entry]) -> bool:
        """Whether entries are left."""
        return bool(leaf.jobs)


@dataclass
class View:
    """A victim job without the pods that were taken from it already."""

    job: Job
    taken: frozenset[str] = frozenset()
    key: JobKey = field(init=False)
    held: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.key, self.held = self.job.order(), self.job.held
        if self.taken:
            rest = Remaining(self.job.root, self.taken)
            self.key = (self.key[0], rest.elasticity(), self.key[2], self.key[3])
            cpu, memory, gpus = self.held
            for uid in self.taken:
                pod = self.job.pods.get(uid)
                if pod is not None and COUNTED[pod.status]:
                    a, b, c = pod.shape.vector
                    cpu, memory, gpus = cpu - a, memory - b, gpus - c
            self.held = (cpu, memory, round(gpus, 6))


class Victims(Iterator[View]):
    """Victims, the one that deserves its room least first (policy spec 3.4)."""

    reverse = True

    def __init__(self, running: Sorted, queues: Iterable[str], total: Vector, may: Callable[[Job], bool]) -> None:
        super().__init__()
        self._total, self._may = total, may
        self._lists = {name: running.lists[name] for name in queues if running.lists.get(name)}
        self._left: dict[str, int] = {name: len(found) for name, found in self._lists.items()}
        self._popped: dict[str, Vector] = {}
        for name in self._lists:
            self._trim(name)
            if self._left[name]:
                self.leaf(running.queues[name])

    def _trim(self, name: str) -> None:
        found, left = self._lists.get(name, []), self._left.get(name, 0)
        while left and not self._may(found[left - 1][1]):
            left -= 1
        self._left[name] = left

    def _next(self, leaf: Node[View]) -> tuple[View, bool]:
        """(the victim that comes next, whether it was pushed back)."""
        assert leaf.queue is not None
        name = leaf.queue.name
        left = self._left.get(name, 0)
        if leaf.jobs and (not left or leaf.jobs[-1].key > self._lists[name][left - 1][0]):
            return leaf.jobs[-1], True
        return View(self._lists[name][left - 1][1]), False

    def key(self, node: Node[View]) -> OrderKey:
        """By what would be gone with the next victim."""
        assert node.queue is not None
        leaf = node.representative
        assert leaf.queue is not None
        held = self._next(leaf)[0].held
        gone = self._popped.get(leaf.queue.name, NOTHING)
        taken = (gone[0] + held[0], gone[1] + held[1], round(gone[2] + held[2], 6))
        return order_key(node.queue, NOTHING, self._total, taken)

    def take(self, leaf: Node[View]) -> View:
        """The next victim."""
        assert leaf.queue is not None
        name = leaf.queue.name
        view, again = self._next(leaf)
        if again:
            leaf.jobs.pop()
        else:
            self._left[name] -= 1
            self._trim(name)
        gone, held = self._popped.get(name, NOTHING), view.held
        self._popped[name] = (gone[0] + held[0], gone[1] + held[1], round(gone[2] + held[2], 6))
        return view

    def has(self, leaf: Node[View]) -> bool:
        """Whether victims are left."""
        return bool(leaf.jobs) or (leaf.queue is not None and self._left.get(leaf.queue.name, 0) > 0)

    def push(self, view: View) -> None:
        """What is left of a victim."""
        assert view.job.queue is not None
        leaf = self.leaf(view.job.queue)
        insort(leaf.jobs, view, key=lambda v: v.key)
        self.touched(leaf)
