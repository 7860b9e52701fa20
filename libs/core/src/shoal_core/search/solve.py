"""The search for victims of one job: probes of growing size, scenarios, simulation (policy spec 4.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shoal_core.order.jobs import JobKey, Probe, Simulated, Sorted
from shoal_core.placement.walk import Walk
from shoal_core.queues import UNBOUNDED
from shoal_core.rows import REGULAR, Job, Pod, total_request
from shoal_core.search.filters import Filters
from shoal_core.search.generators import GENERATORS, PLUGIN_OF
from shoal_core.search.guard import Guard
from shoal_core.search.likeness import Likeness, Looks, has_topology
from shoal_core.search.scenario import Accumulator, Batch
from shoal_core.search.tape import Tape
from shoal_core.session import Session
from shoal_core.status import ACTIVE, PIPELINED, RELEASING
from shoal_core.vocabulary import GPU

SOLVED, EXHAUSTED, STOPPED = "solved", "exhausted", "stopped"
Validator = Callable[["Scenario", Probe], bool]


@dataclass
class Scenario:
    """Victims of one simulation. After it, their statuses say what became of them."""

    batches: list[Batch]

    def pods(self) -> list[Pod]:
        """All victims."""
        return [p for b in self.batches for p in b.pods]


@dataclass
class Bounds:
    """Units of work; None: without bound."""

    job: int | None
    generator: dict[str, int | None]
    probe: int | None = None
    """What one probe may cost without a result."""
    fruitless: int | None = None
    """What all of them may cost without a result."""


class Search:
    """One job's search. ``tape`` has the candidates in their order, ``validate`` judges a simulated scenario."""

    def __init__(
        self,
        session: Session,
        walk: Walk,
        job: Job,
        pending: Sorted,
        tape: Callable[[], Tape],
        validate: Validator,
        bounds: Bounds,
        looks: Looks,
        most: int = -1,
        spread: bool = True,
        guard: Guard | None = None,
    ) -> None:
        self.session, self.walk, self.job = session, walk, job
        self._pending, self._tape, self._validate, self._bounds, self._most = pending, tape, validate, bounds, most
        self._looks, self._guard = looks, guard
        self._kai_0_17 = session.settings.kai_0_17
        """Undoing a simulation leaves traces then (Session.rollback): no simulation may be left out."""
        self._spread = spread
        """Whether a candidate runs on more than one node."""
        free = looks.free(any(p.shape.cpu_only for p in job.pods.values()))
        self.free, self.feasible, self.free_total, self.slots = free.gpus, free.nodes, free.total, free.slots
        self.recorded: list[Batch] = []
        self.recorded_pods: list[Pod] = []
        self._failed: set[tuple[frozenset[str], frozenset[str], frozenset[str]]] = set()
        self._began = session.units
        self._wasted = 0
        self._standing: Scenario | None = None
        """What the last probe left simulated, where another with the victims that it recorded would come to the same."""
        self._repeats = False
        self._cost = 0
        """Work of the last simulation that succeeded."""
        self.reason = EXHAUSTED

    def needs_several_nodes(self, tasks: list[Pod]) -> bool:
        """Whether the victims of one node can't be enough, so that none of them need be tried alone."""
        first = tasks[0].shape
        alike = first.kind == REGULAR and first.gpus >= 1 and not first.claim_gpus and all(t.shape is first for t in tasks)
        if self._spread or not alike:
            return False
        each, slots = first.gpus, self.slots(first.gpus)
        gone: dict[int, float] = {}
        for pod in self.recorded_pods:
            gone[pod.node] = gone.get(pod.node, 0.0) + pod.accepted[2]
        for column, gpus in gone.items():
            have = max(0.0, float(self.free[column]))
            slots += int((have + gpus) // each) - (int(have // each) if self.feasible[column] else 0)
        return len(tasks) - slots > self.session.nodes.largest()[GPU] // each

    def run(self) -> Scenario | None:
        """The scenario that makes room for all the job's next pods, left simulated in the session; None if there is none."""
        tasks = self.job.chunk(False, self.session.least_memory)[0]
        if not tasks:
            return None
        for name, generator in GENERATORS.items():
            if PLUGIN_OF[name] not in self.session.plugins:
                continue
            self._limit = self._bounds.generator.get(name)
            self._generator_began = self.session.units
            self.recorded, self.recorded_pods = [], []
            largest = self._largest(generator, tasks)
            if self.reason == STOPPED:
                return None
            if largest == 0:
                continue
            found = self._standing or self._probe(generator, tasks)
            if self.reason == STOPPED:
                return None
            if found is not None:
                self.reason = SOLVED
                return found
        return None

    def _largest(self, generator: Callable, tasks: list[Pod]) -> int:
        """The most pods for which a probe succeeds; its victims are recorded for the next."""
        low, high, k = 0, len(tasks) + 1, 1
        while True:
            if not self._try(generator, tasks[:k], last=k == len(tasks)):
                high = k
                break
            low = k
            if k == len(tasks):
                return low
            k = min(2 * k, len(tasks))
        while high - low > 1 and low:
            k = (low + high) // 2
            if self._try(generator, tasks[:k]):
                low = k
            else:
                high = k
        return low

    def _try(self, generator: Callable, tasks: list[Pod], last: bool = False) -> bool:
        start, began = len(self.session.log), self.session.units
        found = self._probe(generator, tasks)
        if found is None:
            self._wasted += self.session.units - began
            return False
        gone = {p.record.uid for p in found.pods() if p.status in (RELEASING, PIPELINED)}
        self.recorded = [b for b in found.batches if any(p.record.uid in gone for p in b.pods)]
        if (
            not self._kai_0_17
            and last
            and self._repeats
            and len(self.recorded) == len(found.batches)
            and not self._over()
            and not self._hopeless(0)
        ):
            # The probe that follows would simulate just this again: it stays, and costs the same.
            self.session.units += self._cost
            self._standing = found
            return True
        self.session.rollback(start)
        self.recorded_pods = [p for b in self.recorded for p in b.pods]
        return True

    def _over(self) -> bool:
        """Whether the job's or the generator's work is used up."""
        if self._bounds.job is not None and self.session.units - self._began >= self._bounds.job:
            self.reason = STOPPED
            return True
        return self._limit is not None and self.session.units - self._generator_began >= self._limit

    def _hopeless(self, spent: int) -> bool:
        """Whether so much was spent in vain, by this probe or by all, that it gives up."""
        probe, fruitless = self._bounds.probe, self._bounds.fruitless
        return (probe is not None and spent >= probe) or (fruitless is not None and self._wasted + spent >= fruitless)

    def _probe(self, generator: Callable, tasks: list[Pod]) -> Scenario | None:
        """The first scenario in which these pods find their place, left simulated."""
        job = self.job
        probe = Probe(job, tasks, total_request(tasks, self.session.least_memory), self._key(tasks))
        filters = Filters(self, tasks)
        among = self.feasible.copy()
        for pod in self.recorded_pods:
            among[pod.node] = 1
        accumulator = Accumulator(self._tape(), self.recorded, filters.accepts, self._most)
        pending = frozenset(t.record.uid for t in tasks)
        recorded = frozenset(accumulator.recorded)
        began = self.session.units
        self._in_vain: dict[Likeness, int] = {}
        self._served_in_vain: dict[Likeness, int] = {}
        comparable = not self._kai_0_17 and not has_topology(job.root) and all(self._looks.plain(t) for t in tasks)
        for chosen in self._allowed(generator(self, accumulator, tasks)):
            if self._over() or self._hopeless(self.session.units - began):
                return None
            mark = (pending, recorded, frozenset(p.record.uid for b in chosen for p in b.pods))
            if mark in self._failed:
                continue
            scenario = Scenario([*self.recorded, *chosen])
            if filters.enough(scenario.batches):
                look = self._looks.scenario(tasks, self.recorded_pods, chosen, among) if comparable else None
                if look in self._in_vain:
                    # It costs what the one like it did: budgets don't depend on what is known already.
                    self.session.units += self._in_vain[look]
                else:
                    before = self.session.units
                    if self._simulate(scenario, probe, among, look):
                        self._repeats = len(chosen) == len(accumulator.batches) or filters.alike
                        return scenario
                    if look is not None and not self._invalid:
                        self._in_vain[look] = self.session.units - before
            self._failed.add(mark)
        return None

    def _allowed(self, found: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """The victims that budgets let go together."""
        if self._guard is None:
            return found
        guard, recorded = self._guard, self.recorded
        return (part for chosen in found for part in (guard.choices(recorded, chosen) if chosen else (chosen,)))

    def _key(self, tasks: list[Pod]) -> JobKey:
        """Order of the probe in its queue: the job with no more pods than the probe has."""
        order = self.job.order()
        state = 1
        for leaf in self.job.leaf_list:
            here = leaf.active + sum(1 for t in tasks if t.leaf is leaf)
            minimum = min(leaf.minimum, here) if here else leaf.minimum
            if leaf.active < minimum:
                state = 0
                break
            if leaf.active > minimum:
                state = 2
        return (order[0], state, order[2], order[3])

    def _simulate(self, scenario: Scenario, probe: Probe, among: np.ndarray, look: Likeness | None) -> bool:
        session, walk = self.session, self.walk
        began = session.units
        pods = scenario.pods()
        # Whether it failed by more than that the job found no place.
        self._invalid = not pods
        if not pods:
            return False
        start = len(session.log)
        jobs: dict[int, Job] = {}
        among = among.copy()
        for batch in scenario.batches:
            jobs[id(batch.job)] = batch.job
            for pod in batch.pods:
                if pod.status != RELEASING and ACTIVE[pod.status]:
                    among[pod.node] = 1
                    session.evict(pod)
                elif self._kai_0_17 and pod.virtual:
                    session.evict_again(pod)
        order = Simulated(self._pending, probe, jobs.values(), session.total, session.least_memory)
        left = len(jobs) + 1
        done = False
        served: Likeness | None = None
        while left and (entry := order.pop()) is not None:
            job = entry[1]
            if left == 2 and look and (isinstance(job, Probe) or id(job) in jobs):
                # Of one victim's job and the probe only this depends on their queues: which of the two goes first.
                served = _faceless(look, isinstance(job, Probe), probe.job, *jobs.values())
                if served in self._served_in_vain:
                    self._invalid = False
                    session.rollback(start)
                    session.units = began + self._served_in_vain[served]
                    return False
            if isinstance(job, Probe):
                left -= 1
                if not walk.place(job.job, job.tasks, among, later=True):
                    break
                done = True
            elif id(job) in jobs:
                left -= 1
                walk.place(job, job.chunk(False, session.least_memory)[0], among, later=True)
        if done and self._validate(scenario, probe):
            self._cost = session.units - began
            return True
        self._invalid = done
        if served is not None and not done:
            self._served_in_vain[served] = session.units - began
        session.rollback(start)
        return False


def _faceless(look: Likeness, first: bool, *jobs: Job) -> Likeness | None:
    """The look of a scenario with one victim's job without its queue, where that has no say in what is placed; ``first``:
    whether the probe is served before the victim."""
    for job in jobs:
        if job.queue is None or not job.preemptible or any(queue.limit != UNBOUNDED for queue in job.queue.line):
            return None
    (_, _, minimum), *rest = look  # type: ignore[misc]
    return (first, minimum, *rest)


def gang_is_whole(job: Job) -> bool:
    """Whether enough of its members have their minimum, pods that leave included."""
    return job.root.whole
