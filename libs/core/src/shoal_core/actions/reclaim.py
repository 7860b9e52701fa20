"""Reclaim: a queue below its fair share takes room from queues above theirs (policy spec 4.7)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from shoal_core.actions.evicting import Evicting
from shoal_core.fairness.division import UNLIMITED
from shoal_core.fairness.ratio import saturation
from shoal_core.order.jobs import Probe, Victims
from shoal_core.protection import MinRuntime
from shoal_core.queues import RESOURCES, Queue, parting, plus
from shoal_core.reasons import amount, measured
from shoal_core.rows import Job, Pod, Vector
from shoal_core.search.solve import Scenario
from shoal_core.settings import RECLAIM
from shoal_core.status import ACTIVE

GPUS = 2
Standing = dict[str, tuple[Vector, Vector]]
"""Queue -> (allocated, of that not preemptible) before the search."""


def _above(have: Vector, bound: Vector) -> bool:
    """More than the bound in at least one resource."""
    return any(bound[r] != UNLIMITED and have[r] > bound[r] for r in RESOURCES)


def _within(have: Vector, bound: Vector) -> bool:
    return all(bound[r] == UNLIMITED or have[r] <= bound[r] for r in RESOURCES)


class Reclaim(Evicting):
    """Victims are preemptible jobs of other queues; fairness is judged where the two queues' lines part."""

    name = RECLAIM

    def may_try(self, job: Job, chunk: Vector) -> bool | None:
        """The queue stays within its fair share, and non-preemptible work within its quota."""
        queue = job.queue
        if queue is None:
            return False
        then = plus(queue.allocated, chunk)
        if any(then[r] > queue.share[r] for r in RESOURCES):
            return False
        return job.preemptible or _within(plus(queue.fixed, chunk), queue.quota)

    def prepare(self, job: Job, chunk: Vector) -> None:
        """How the queues stand before anything is tried."""
        assert job.queue is not None
        tree = self.session.cluster.tree
        self._standing: Standing = {q.name: (q.allocated, q.fixed) for q in tree.queues.values()}
        self._runtime = MinRuntime(self.session, RECLAIM, job.queue)
        self._from = [
            name
            for name, queue in self.running.queues.items()
            if queue is not job.queue and self._candidate(job.queue, queue, chunk)
        ]

    def sources(self, job: Job) -> Iterable[str]:
        """Queues of the candidates."""
        return self._from

    def worth(self, job: Job, chunk: Vector) -> bool:
        """Whether a search can succeed: some queue may lose something, or as many GPUs are free as are asked for."""
        assert job.queue is not None
        for name in self._from:
            ours, theirs = parting(job.queue, self.running.queues[name])
            if _above(theirs.allocated, theirs.allowance):
                return True
            if _within(plus(ours.allocated, chunk), ours.quota) and _above(theirs.allocated, theirs.quota):
                return True
        return bool(self._from) and self.session.nodes.most_free_gpus() >= chunk[2]

    def victims(self, job: Job, chunk: Vector) -> Victims:
        """Jobs of queues that may lose something."""
        return Victims(self.running, self._from, self.session.total, self.allowed(self._runtime.may))

    def among(self, job: Job) -> Hashable:
        """The queues, and who asks: on that depends what is protected."""
        return job.queue.name if job.queue else "", tuple(self._from)

    def _candidate(self, mine: Queue, theirs: Queue, chunk: Vector) -> bool:
        """Whether the queue may lose anything to this one (policy spec 4.7.1)."""
        ours, victim = parting(mine, theirs)
        if not _within(plus(ours.allocated, chunk), ours.quota):
            return _above(victim.allocated, victim.allowance)
        asked = [r for r in RESOURCES if chunk[r] > 0 and victim.quota[r] != UNLIMITED]
        if any(victim.allocated[r] > victim.quota[r] for r in asked):
            return True
        return not any(victim.allocated[r] < victim.quota[r] for r in asked)

    def validate(self, scenario: Scenario, probe: Probe) -> bool:
        """Every unit that goes is taken from a queue that has too much, and the reclaimer stays within bounds."""
        queue = probe.job.queue
        assert queue is not None
        left: dict[str, Vector] = {}
        touched: dict[str, Queue] = {}
        taken: dict[str, list[Vector]] = {}
        for victim, units in self._units(scenario):
            ours, theirs = parting(queue, victim)
            for unit in units:
                have = left.get(theirs.name, self._standing[theirs.name][0])
                fair = _above(have, theirs.allowance)
                if not fair and not (
                    _within(plus(self._standing[ours.name][0], probe.chunk), ours.quota) and _above(have, theirs.quota)
                ):
                    return False
                for above in victim.line:
                    touched[above.name] = above
                    left[above.name] = plus(left.get(above.name, self._standing[above.name][0]), unit, -1.0)
                    taken.setdefault(above.name, []).append(unit)
        return self._bounds(queue, probe, left, touched, taken) and self._runtime.keeps_minimum(scenario)

    def _units(self, scenario: Scenario) -> list[tuple[Queue, list[Vector]]]:
        """What each victim queue loses: surplus pods one by one, the core of a gang as one."""
        consolidating = self.session.settings.consolidating_reclaim
        by_job: dict[int, tuple[Job, list[Pod]]] = {}
        for batch in scenario.batches:
            by_job.setdefault(id(batch.job), (batch.job, []))[1].extend(batch.pods)
        by_queue: dict[str, tuple[Queue, list[Vector]]] = {}
        for job, pods in by_job.values():
            if job.queue is None:
                continue
            core: list[Pod] = []
            elastic: list[Pod] = []
            for leaf in job.leaf_list:
                mine = [p for p in pods if p.leaf is leaf]
                core += mine[: leaf.minimum]
                elastic += mine[leaf.minimum :]
            if consolidating:
                core = [p for p in core if not ACTIVE[p.status]]
                elastic = [p for p in elastic if not ACTIVE[p.status]]
            units = [p.accepted for p in elastic]
            if core:
                total: Vector = (0.0, 0.0, 0.0)
                for pod in core:
                    total = plus(total, pod.accepted)
                units.append(total)
            if units:
                by_queue.setdefault(job.queue.name, (job.queue, []))[1].extend(units)
        return list(by_queue.values())

    def _bounds(
        self, queue: Queue, probe: Probe, left: dict[str, Vector], touched: dict[str, Queue], taken: dict[str, list[Vector]]
    ) -> bool:
        """At no level does the reclaimer end up more saturated than a queue that it took from, unless within its share."""
        times = self.session.settings.saturation
        for at in queue.line:
            have = plus(left.get(at.name, self._standing[at.name][0]), probe.chunk)
            for other in touched.values():
                if other is at or other.parent is not at.parent:
                    continue
                for r in RESOURCES:
                    if probe.chunk[r] <= 0 and not any(unit[r] > 0 for unit in taken[other.name]):
                        continue
                    if at.share[r] == UNLIMITED and other.share[r] == UNLIMITED:
                        continue
                    mine = saturation(have[r], at.share[r])
                    theirs = saturation(left[other.name][r], other.share[r])
                    if mine > 1 and other.share[r] > 0 and mine * times >= theirs:
                        return False
            if not probe.job.preemptible and not _within(plus(self._standing[at.name][1], probe.chunk), at.quota):
                return False
        return True

    def message(self, pod: Pod, job: Job) -> str:
        """Why the pod goes, with the numbers of both queues."""
        assert pod.job is not None
        assert pod.job.queue is not None
        assert job.queue is not None
        ours, theirs = parting(job.queue, pod.job.queue)
        # GPUs are what it is about where both have some.
        wanted = [r for r in RESOURCES if pod.accepted[r] > 0 and (r == GPUS or not pod.accepted[GPUS])] or list(RESOURCES)
        numbers = f"{_told(theirs, self._standing, wanted)}; {_told(ours, self._standing, wanted)}"
        return f"pod {pod.record.name} is reclaimed for {job.key[0]}/{job.name}: {numbers}"

    def details(self, pod: Pod, job: Job) -> dict[str, object]:
        """Both queues before and after."""
        assert pod.job is not None
        assert pod.job.queue is not None
        assert job.queue is not None
        ours, theirs = parting(job.queue, pod.job.queue)
        return {"rule": RECLAIM, "victim": _numbers(theirs, self._standing), "reclaimer": _numbers(ours, self._standing)}


def _numbers(queue: Queue, standing: Standing) -> dict[str, object]:
    before = standing[queue.name][0]
    return {"queue": queue.name, "quota": queue.quota, "share": queue.share, "before": before, "after": queue.allocated}


def _told(queue: Queue, standing: Standing, resources: Iterable[int]) -> str:
    before = standing[queue.name][0]
    parts = [
        f"{measured(r, before[r])} (quota {amount(r, queue.quota[r])}, fair share {amount(r, queue.share[r])})"
        for r in resources
    ]
    return f"queue {queue.name} used {' and '.join(parts)}, priority {queue.priority}"
