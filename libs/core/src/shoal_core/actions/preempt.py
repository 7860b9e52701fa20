"""Preempt: work of higher priority takes the room of lower in the same queue (policy spec 4.8)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from shoal_core.actions.evicting import Evicting
from shoal_core.order.jobs import Probe, Victims
from shoal_core.protection import MinRuntime
from shoal_core.rows import Job, Pod, Vector
from shoal_core.search.solve import Scenario
from shoal_core.settings import PREEMPT


class Preempt(Evicting):
    """Victims are preemptible jobs of the same queue with a strictly lower priority."""

    name = PREEMPT

    def may_try(self, job: Job, chunk: Vector) -> bool | None:
        """Non-preemptible work stays within the quotas."""
        if job.queue is None:
            return False
        return None if not job.preemptible and job.queue.over_quota(chunk) else True

    def prepare(self, job: Job, chunk: Vector) -> None:
        """Whose room is looked for."""
        assert job.queue is not None
        self._runtime = MinRuntime(self.session, PREEMPT, job.queue)

    def sources(self, job: Job) -> Iterable[str]:
        """The queue itself."""
        return [job.queue.name] if job.queue else []

    def worth(self, job: Job, chunk: Vector) -> bool:
        """Whether anything of lower priority runs in the queue: the last in its order."""
        running = self.running.of(job.queue.name) if job.queue else None
        return bool(running) and running[-1][1].priority < job.priority

    def victims(self, job: Job, chunk: Vector) -> Victims:
        """The queue's jobs of lower priority that ran long enough."""
        assert job.queue is not None
        runtime, priority = self._runtime, job.priority
        return Victims(
            self.running,
            [job.queue.name],
            self.session.total,
            self.allowed(lambda v: v is not job and v.priority < priority and runtime.may(v)),
        )

    def among(self, job: Job) -> Hashable:
        """The queue and the priority."""
        return job.queue.name if job.queue else "", job.priority

    def validate(self, scenario: Scenario, probe: Probe) -> bool:
        """Protected elastic victims keep their minimum."""
        return self._runtime.keeps_minimum(scenario)

    def message(self, pod: Pod, job: Job) -> str:
        """Why the pod goes."""
        return f"pod {pod.record.name} is preempted by {job.key[0]}/{job.name}, which has priority {job.priority}"
