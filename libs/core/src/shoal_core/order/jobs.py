"""Jobs as the actions take them: forward to be served, in a simulation, and backward as victims."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter

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
    """Jobs of each queue in their order, kept in step as jobs change. ``eligible`` says which are in.

    A queue is sorted when it is first asked for.
    """

    def __init__(self, jobs: Iterable[Job], eligible: Callable[[Job], bool]) -> None:
        self._eligible = eligible
        self.queues: dict[str, Queue] = {}
        """Those that have or had such jobs."""
        self._members: dict[str, list[Job]] = {}
        """Jobs of queues that are not sorted yet."""
        self._lists: dict[str, list[tuple[JobKey, Job]]] = {}
        self._where: dict[int, tuple[str, JobKey]] = {}
        self._wide: dict[str, list[Job]] = {}
        """Jobs with several pods on nodes."""
        self._spread: dict[str, bool] = {}
        members = self._members
        for job in jobs:
            if eligible(job):
                queue = job.queue
                assert queue is not None
                name = queue.name
                if name not in members:
                    self.queues[name], members[name] = queue, []
                members[name].append(job)
                if job.active > 1:
                    self._wide.setdefault(name, []).append(job)

    def of(self, name: str) -> list[tuple[JobKey, Job]]:
        """The queue's jobs with their keys."""
        found = self._lists.get(name)
        if found is None:
            found = self._lists[name] = [(j.key_cache or j.order(), j) for j in self._members.pop(name, ())]
            found.sort(key=itemgetter(0))
            for key, job in found:
                self._where[id(job)] = (name, key)
        return found

    def settle(self) -> dict[str, list[tuple[JobKey, Job]]]:
        """Sort all queues: in a simulation jobs have other keys. The sorted jobs by queue."""
        for name in list(self._members):
            self.of(name)
        return self._lists

    def spread(self, queues: Iterable[str]) -> bool:
        """Whether a job of these queues runs on more than one node."""
        return any(self._spreads(name) for name in self._wide.keys() & queues)

    def _spreads(self, name: str) -> bool:
        found = self._spread.get(name)
        if found is None:
            found = self._spread[name] = any(
                job.queue is self.queues[name]
                and self._eligible(job)
                and len({p.node for p in job.pods.values() if ACTIVE[p.status]}) > 1
                for job in self._wide[name]
            )
        return found

    def update(self, job: Job) -> None:
        """The job changed for good."""
        assert job.queue is not None
        name = job.queue.name
        self._spread.pop(name, None)
        found = self.of(name)
        if where := self._where.pop(id(job), None):
            at = bisect_left(found, where[1], key=itemgetter(0))
            while found[at][1] is not job:
                at += 1
            del found[at]
        if self._eligible(job):
            self.queues[name] = job.queue
            key = job.order()
            insort(found, (key, job), key=itemgetter(0))
            self._where[id(job)] = (name, key)
            if job.active > 1 and not any(j is job for j in self._wide.get(name, ())):
                self._wide.setdefault(name, []).append(job)


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
        self._at: dict[str, int] = {}
        """By queue: the first of those that wait which was not taken."""
        lists = pending.settle()
        for name, queue in pending.queues.items():
            if queue.line[-1].name in tops:
                waiting = lists[name]
                at = self._past(waiting, 0)
                self._waiting[name], self._at[name] = waiting, at
                if at < len(waiting) and name not in mine:
                    queues[name], mine[name] = queue, []
        for name, found in mine.items():
            found.sort(key=itemgetter(0), reverse=True)
            self.leaf(queues[name]).jobs = found

    def _past(self, waiting: list[tuple[JobKey, Job]], at: int) -> int:
        """The first from there on that does not take part itself."""
        while at < len(waiting) and id(waiting[at][1]) in self._skipped:
            at += 1
        return at

    def _next(self, leaf: Node[Entry]) -> tuple[Entry, bool]:
        """(the entry that comes next, whether it only waits)."""
        assert leaf.queue is not None
        name = leaf.queue.name
        found = self._waiting.get(name)
        if found is not None and (at := self._at[name]) < len(found) and not (leaf.jobs and leaf.jobs[-1][0] < found[at][0]):
            return found[at], True
        return leaf.jobs[-1], False

    def key(self, node: Node[Entry]) -> OrderKey:
        """By the entry that would be taken."""
        assert node.queue is not None
        first = self._next(node.representative)[0][1]
        chunk = first.chunk if isinstance(first, Probe) else (first.chunk_cache or first.chunk(False, self._least))[1]
        return order_key(node.queue, chunk, self._total)

    def take(self, leaf: Node[Entry]) -> Entry:
        """The best entry."""
        found, waits = self._next(leaf)
        if waits:
            name = leaf.queue.name  # type: ignore[union-attr]
            self._at[name] = self._past(self._waiting[name], self._at[name] + 1)
        else:
            leaf.jobs.pop()
        return found

    def has(self, leaf: Node[Entry]) -> bool:
        """Whether entries are left."""
        if leaf.jobs:
            return True
        name = leaf.queue.name if leaf.queue else ""
        return name in self._waiting and self._at[name] < len(self._waiting[name])


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
        self._lists = {name: found for name in queues if name in running.queues and (found := running.of(name))}
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
