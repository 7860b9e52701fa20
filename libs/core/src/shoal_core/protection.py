"""What protects running work, and others from waiting work, for a time (policy spec 4.10)."""

from __future__ import annotations

from shoal_core.history import last_eviction, last_start
from shoal_core.queues import Queue
from shoal_core.rows import Job
from shoal_core.search.solve import Scenario
from shoal_core.session import Session
from shoal_core.settings import PREEMPT
from shoal_core.status import USED


def delayed_until(job: Job) -> float:
    """Until when the job may not take room from others; 0 if it may."""
    record = job.record
    if record is None or not record.preemption_delay or record.preemption_delay <= 0:
        return 0.0
    return max(record.created, last_eviction(job)) + record.preemption_delay


class MinRuntime:
    """Which victims have not run long enough, for one action and the queue that wants their room."""

    def __init__(self, session: Session, action: str, claimant: Queue) -> None:
        self._session, self._action, self._claimant = session, action, claimant
        self._on = "minruntime" in session.plugins
        self._kept: dict[str, float] = {}

    def _duration(self, queue: Queue) -> float:
        found = self._kept.get(queue.name)
        if found is None:
            found = self._kept[queue.name] = self._resolve(queue)
        return found

    def _resolve(self, queue: Queue) -> float:
        settings = self._session.settings
        if self._action == PREEMPT:
            values = [q.record.preempt_min_runtime for q in queue.line]
            return next((v for v in values if v is not None), settings.preempt_min_runtime)
        line = list(queue.line)
        if settings.reclaim_by_lca:
            mine, theirs = line[::-1], list(self._claimant.line)[::-1]
            if mine[0] is not theirs[0]:
                line = [mine[0]]
            else:
                shared = 0
                while shared < min(len(mine), len(theirs)) and mine[shared] is theirs[shared]:
                    shared += 1
                line = mine[: min(shared + 1, len(mine))][::-1]
        values = [q.record.reclaim_min_runtime for q in line]
        return next((v for v in values if v is not None), settings.reclaim_min_runtime)

    def protected(self, job: Job) -> bool:
        """Whether the job has started too lately."""
        if not self._on or job.record is None or job.queue is None or not (start := last_start(job)):
            return False
        return self._session.now < start + self._duration(job.queue)

    def may(self, job: Job) -> bool:
        """Whether the job may be a victim at all: elastic ones may lose what is above their minimum."""
        return _elastic(job) or not self.protected(job)

    def keeps_minimum(self, scenario: Scenario) -> bool:
        """Whether protected elastic victims keep their minimum."""
        if not self._on:
            return True
        listed: dict[int, int] = {}
        jobs: dict[int, Job] = {}
        for batch in scenario.batches:
            jobs[id(batch.job)] = batch.job
            for pod in batch.pods:
                listed[id(pod.leaf)] = listed.get(id(pod.leaf), 0) + 1
        for job in jobs.values():
            if not _elastic(job) or not self.protected(job):
                continue
            for leaf in job.leaf_list:
                if (gone := listed.get(id(leaf), 0)) and leaf.minimum > sum(USED[p.status] for p in leaf.pods) - gone:
                    return False
        return True


def _elastic(job: Job) -> bool:
    return any(leaf.minimum < len(leaf.pods) for leaf in job.leaf_list)
