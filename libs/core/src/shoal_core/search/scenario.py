"""Scenarios: which pods might go for a job; victims accumulate one step at a time (policy spec 4.6.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal_core.order.jobs import Victims, View
from shoal_core.rows import Job, Pod
from shoal_core.search.tape import Tape


@dataclass
class Batch:
    """Pods of one job that go together."""

    job: Job
    pods: list[Pod]


Gone = dict[int, float]
"""Node -> GPUs of victims on it."""
Filter = Callable[[Gone], bool]


class Accumulator:
    """Victims in their order, one step after the other. ``states`` yields after each step that passes the filter."""

    def __init__(self, tape: Tape, recorded: list[Batch], accepts: Filter, most: int) -> None:
        self._tape, self._accepts, self._most = tape, accepts, most
        self._at = 0
        """So many were taken from the tape."""
        self._victims: Victims | None = None
        """Instead of the tape, once the rest of a job was put back."""
        self.recorded = {p.record.uid for batch in recorded for p in batch.pods}
        self.batches: list[Batch] = []
        self.of_job: dict[int, list[int]] = {}
        """Job -> numbers of its batches."""
        self.on_node: dict[int, dict[int, None]] = {}
        """Node -> jobs with victims on it."""
        self.gone: Gone = {}
        for batch in recorded:
            for pod in batch.pods:
                self.gone[pod.node] = self.gone.get(pod.node, 0.0) + pod.accepted[2]
        self._jobs: set[int] = set()
        self._rests = 0
        """Rests of jobs that are to come again."""

    def _step(self) -> bool:
        while True:
            full = self._most >= 0 and len(self._jobs) > self._most
            if full and not self._rests:
                return False
            found = self._next()
            if found is None:
                return False
            view, pods, more = found
            job = view.job
            if view.taken:
                self._rests -= 1
            if full and id(job) not in self._jobs:
                continue
            self._jobs.add(id(job))
            if not pods:
                continue
            mine = {p.record.uid for p in pods}
            if mine & self.recorded:
                taken = view.taken | (self.recorded & job.pods.keys())
                if self._tape.next_victims(view, taken)[0]:
                    self._push(job, taken)
                continue
            if more:
                self._push(job, view.taken | mine)
            self.of_job.setdefault(id(job), []).append(len(self.batches))
            self.batches.append(Batch(job, pods))
            for pod in pods:
                self.on_node.setdefault(pod.node, {})[id(job)] = None
                self.gone[pod.node] = self.gone.get(pod.node, 0.0) + pod.accepted[2]
            return True

    def _next(self) -> tuple[View, list[Pod], bool] | None:
        if self._victims is None:
            self._at += 1
            return self._tape.get(self._at - 1)
        view = self._victims.pop()
        return None if view is None else (view, *self._tape.next_victims(view))

    def _push(self, job: Job, taken: frozenset[str]) -> None:
        if self._victims is None:
            self._victims = self._tape.after(self._at)
        self._victims.push(View(job, taken))
        self._rests += 1

    def on(self, column: int) -> list[Batch]:
        """All batches of the jobs that have victims on the node."""
        numbers = sorted(n for job in self.on_node.get(column, ()) for n in self.of_job[job])
        return [self.batches[n] for n in numbers]

    def valid(self) -> bool:
        """Whether the state passes the filter."""
        return self._accepts(self.gone)

    def advance(self) -> bool:
        """To the next state that passes the filter; False when there is none."""
        while self._step():
            if self.valid():
                return True
        return False
