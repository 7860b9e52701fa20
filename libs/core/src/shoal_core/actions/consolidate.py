"""Consolidation: move preemptible pods together, so that a waiting job fits; nobody is lost (policy spec 4.5)."""

from __future__ import annotations

from collections.abc import Hashable

from shoal_core.actions.evicting import Evicting
from shoal_core.order.jobs import Probe, Victims
from shoal_core.rows import Job, Pod, Vector
from shoal_core.search.solve import Scenario
from shoal_core.settings import CONSOLIDATION
from shoal_core.status import RELEASING


class Consolidate(Evicting):
    """For preemptible jobs only; victims of any queue, if each of them finds another place."""

    name = CONSOLIDATION
    only_preemptible = True

    @property
    def most(self) -> int:  # type: ignore[override]
        """So many victim jobs are looked at."""
        return self.session.settings.most_moved

    def run(self, jobs: list[Job]) -> None:
        """As all; off if nothing may be moved."""
        if self.session.settings.most_moved != 0:
            super().run(jobs)

    def scope(self, job: Job) -> str:
        """Failures hold for all queues."""
        return ""

    def may_try(self, job: Job, chunk: Vector) -> bool | None:
        """The cluster has as many GPUs free as the job asks for."""
        session = self.session
        tasks = job.chunk(False, session.least_memory)[0]
        gpus = sum(t.shape.quota for t in tasks)
        ready = session.nodes.usable == 1
        for task in tasks:
            if task.record.tolerations:
                ready |= session.nodes.open_to(task.record) == 1
        if gpus and float(session.nodes.free_gpus()[ready].sum()) < gpus:
            return None
        memory = sum(t.shape.memory * t.shape.devices for t in tasks)
        if memory and float(session.nodes.free_gpu_memory()[ready].sum()) < memory:
            return None
        return True

    def victims(self, job: Job, chunk: Vector) -> Victims:
        """Every other preemptible job that runs."""
        return Victims(self.running, self.running.queues, self.session.total, self.allowed(lambda v: v is not job))

    def among(self, job: Job) -> Hashable:
        """All that runs, but the job itself."""
        return job.key if job.active else None

    def validate(self, scenario: Scenario, probe: Probe) -> bool:
        """All victims have a place."""
        return all(p.status != RELEASING for p in scenario.pods())

    def message(self, pod: Pod, job: Job) -> str:
        """Why the pod goes."""
        return f"pod {pod.record.name} is moved to make room for {job.key[0]}/{job.name}: bin packing"
