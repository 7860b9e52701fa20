"""What consolidation, reclaim and preempt share: take jobs in order, pass the gates, search, commit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from itertools import islice

from shoal_core.order.jobs import Probe, Serving, Sorted, Victims
from shoal_core.placement.walk import Walk
from shoal_core.protection import delayed_until
from shoal_core.results import Eviction, Hindrance
from shoal_core.rows import Job, Key, Pod, Vector
from shoal_core.search.guard import AGAIN, Guard, guard_of, ignored
from shoal_core.search.likeness import Looks
from shoal_core.search.signatures import Failures, Signature, signature
from shoal_core.search.solve import STOPPED, Bounds, Scenario, Search, gang_is_whole
from shoal_core.search.tape import Tape
from shoal_core.session import Session
from shoal_core.settings import Budgets
from shoal_core.status import PIPELINED, RELEASING
from shoal_model.podgroup import evicts_nobody

MOST_CHOICES = 8
"""So many ways to leave out subgroups are tried to find victims for the others."""
POLITE = Hindrance("it waits for free room, because its preemptionPolicy is Never")


class Evicting:
    """One run of such an action."""

    name = ""
    only_preemptible = False

    def __init__(self, session: Session, walk: Walk, running: Sorted, pending: Sorted) -> None:
        self.session, self.walk, self.running, self.pending = session, walk, running, pending
        self._failures = Failures(session)
        self._fruitless = 0
        """Work of searches that found nothing."""
        self._looks = Looks(session, walk, pending)
        self._tapes: dict[Hashable, Tape] = {}
        self._guard = guard_of(session)
        self._hindrances: dict[tuple[str, Signature], Hindrance] = {}
        """By scope and signature: why the job that failed last found no victims."""

    # what the actions differ in

    def scope(self, job: Job) -> str:
        """Failures are remembered by this."""
        return job.queue.name if job.queue else ""

    @abstractmethod
    def may_try(self, job: Job, chunk: Vector) -> bool | None:
        """Whether the job may take room from others; None counts as a failed attempt."""

    @abstractmethod
    def victims(self, job: Job, chunk: Vector) -> Victims:
        """A fresh order of candidates."""

    @abstractmethod
    def among(self, job: Job) -> Hashable:
        """What ``victims`` depends on besides how the session stands."""

    def prepare(self, job: Job, chunk: Vector) -> None:
        """Before the search: what validation looks back at."""

    def sources(self, job: Job) -> Iterable[str]:
        """Queues of the candidates."""
        return self.running.queues

    def worth(self, job: Job, chunk: Vector) -> bool:
        """Whether a search can succeed at all, as far as that is seen without one."""
        return True

    @abstractmethod
    def validate(self, scenario: Scenario, probe: Probe) -> bool:
        """Whether a simulated scenario is allowed."""

    @abstractmethod
    def message(self, pod: Pod, job: Job) -> str:
        """Why the pod goes."""

    def details(self, pod: Pod, job: Job) -> dict[str, object]:
        """The same for programs."""
        return {"rule": self.name}

    most = -1
    """Bound of the number of victim jobs that are looked at; -1: none."""

    # the run

    def run(self, jobs: list[Job]) -> None:
        """Try every job once, in order."""
        session, budgets = self.session, self.session.settings.budgets
        began = session.units
        action = budgets.action.get(self.name, budgets.action.get("default", 0))
        order = Serving(
            [j for j in jobs if self._loaded(j)],
            session.total,
            session.least_memory,
            session.settings.queue_depth.get(self.name),
        )
        tried = session.cluster.tried.pop(self.name, set())
        failed: set[Key] = set()
        while (job := order.pop()) is not None:
            if job.key in tried:
                continue
            left = action - (session.units - began) if action else None
            spent = left is not None and left <= 0 and not budgets.job_minimum
            if spent or session.evictions_spent or (budgets.fruitless and self._fruitless >= budgets.fruitless):
                # The next cycle goes on with those that had no turn.
                session.cluster.tried[self.name] = tried | failed
                return
            try:
                self._attempt(job, _bounds(budgets, left))
            except Exception as error:  # one odd group must not stop the rest
                session.abandon(job, error)
                self._tapes.clear()
            failed.add(job.key)

    def _loaded(self, job: Job) -> bool:
        if self.session.cluster.quarantine.holds(job, self.session.now):
            return False
        if not job.pending or not job.ready or (self.only_preemptible and not job.preemptible):
            return False
        return delayed_until(job) <= self.session.now

    def _attempt(self, job: Job, bounds: Bounds) -> None:
        session = self.session
        tasks, chunk = job.chunk(False, session.least_memory)
        if not tasks:
            return
        if self._evicts_nobody(job, tasks):
            session.hindered.setdefault(job.key, POLITE)
            return
        may = self.may_try(job, chunk)
        optional = len(job.leaf_list) > 1 and job.root.optional and not session.settings.kai_0_17
        if may is False and not optional:
            return
        scope = self.scope(job)
        if session.settings.signatures and self._failures.hopeless(scope, job):
            if (why := self._hindrances.get((scope, signature(session, job)))) is not None:
                session.hindered.setdefault(job.key, why)
            return
        found = None
        if may and not any(self.walk.refused(t) for t in tasks):
            found, stopped = self._prepared(job, chunk, bounds)
            if stopped:
                session.unfinished.append(job.key)
                return
        if found is None and optional:
            found, stopped = self._otherwise(job, tasks, bounds)
            if stopped:
                session.unfinished.append(job.key)
                return
        if found is None:
            if may is False:
                return
            if session.settings.signatures:
                self._failures.failed(scope, job)
            self._explain(job, chunk, bounds, scope)
            return
        self._commit(job, found)

    def _prepared(self, job: Job, chunk: Vector, bounds: Bounds) -> tuple[Scenario | None, bool]:
        """``_search`` with what it looks back at as the session stands now."""
        self.prepare(job, chunk)
        self.pending.settle()
        return self._search(job, chunk, bounds)

    def _otherwise(self, job: Job, tasks: list[Pod], bounds: Bounds) -> tuple[Scenario | None, bool]:
        """The same without subgroups that the group can do without, as few of them as possible: ``tasks`` found no victims."""
        choices = _without(frozenset(), tasks)
        try:
            for passed in islice(choices, MOST_CHOICES):
                job.pass_over(passed)
                tasks, chunk = job.chunk(False, self.session.least_memory)
                if not tasks:
                    continue
                choices += [more for more in _without(passed, tasks) if more not in choices]
                if self._evicts_nobody(job, tasks) or not self.may_try(job, chunk):
                    continue
                if not any(self.walk.refused(t) for t in tasks):
                    found, stopped = self._prepared(job, chunk, bounds)
                    if found is not None or stopped:
                        return found, stopped
        finally:
            job.pass_over(frozenset())
        return None, False

    def _evicts_nobody(self, job: Job, tasks: list[Pod]) -> bool:
        classes = self.session.cluster.priority_classes
        if self.session.settings.kai_0_17 or job.record is None:
            return False
        return evicts_nobody(job.record, (t.record for t in tasks), classes)

    def _search(self, job: Job, chunk: Vector, bounds: Bounds) -> tuple[Scenario | None, bool]:
        """(the scenario that lets the job's next pods start, left simulated; whether its work was used up before)."""
        session, before, units = self.session, job.active, self.session.units
        if not self.worth(job, chunk):
            return None, False
        search = Search(
            session, self.walk, job, self.pending, lambda: self._tape(job, chunk), self.validate, bounds,
            self._looks, self.most, self.running.spread(self.sources(job)), self._guard,
        )  # fmt: skip
        found = search.run()
        if found is not None and not (gang_is_whole(job) and job.active > before and self._fits()):
            session.rollback(0)
            found = None
        if found is None:
            self._fruitless += session.units - units
        return found, found is None and search.reason == STOPPED

    def _fits(self) -> bool:
        """Whether budgets let all go that the simulation evicted."""
        return self._guard is None or self._guard.fits(c.pod for c in self.session.evicted())

    def allowed(self, may: Callable[[Job], bool]) -> Callable[[Job], bool]:
        """The candidates of which budgets let anything go."""
        guard = self._guard
        return may if guard is None else lambda job: may(job) and guard.may(job)

    def _explain(self, job: Job, chunk: Vector, bounds: Bounds, scope: str) -> None:
        """Say which budgets keep the victims that would make room, if any do: search once more as if there were none."""
        guard, known = self._guard, self.session.hindered
        if guard is None or not guard.hindered or job.key in known:
            return
        disruptions, now = self.session.cluster.disruptions, self.session.now
        before = disruptions.explained.get((self.name, job.key))
        if before is not None and before[0] == disruptions.version and now < before[1] + AGAIN:
            why = before[2]
        else:
            why = self._without_budgets(job, chunk, bounds, guard)
            disruptions.explained[self.name, job.key] = (disruptions.version, now, why)
        if why is not None:
            known[job.key] = self._hindrances[scope, signature(self.session, job)] = why

    def _without_budgets(self, job: Job, chunk: Vector, bounds: Bounds, guard: Guard) -> Hindrance | None:
        """What keeps those from going that would go if nothing did."""
        tapes, self._tapes, self._guard = self._tapes, {}, None
        try:
            found, _ = self._search(job, chunk, bounds)
            why = guard.hindrance(c.pod for c in self.session.evicted()) if found is not None else None
            self.session.rollback(0)
        finally:
            self._tapes, self._guard = tapes, guard
        return why

    def _tape(self, job: Job, chunk: Vector) -> Tape:
        key = self.among(job)
        found = self._tapes.get(key)
        if found is None:
            found = self._tapes[key] = Tape(lambda: self.victims(job, chunk), self._guard)
        return found

    def _commit(self, job: Job, found: Scenario) -> None:
        session = self.session
        pods = found.pods()
        gone = [c.pod for c in session.evicted()]
        evictions: dict[str, Eviction] = {}
        for pod in gone:
            victim, record = pod.job, pod.record
            assert victim is not None
            assert victim.record is not None
            moved = session.nodes.name(pod.node) if pod.status == PIPELINED else ""
            evictions[record.uid] = Eviction(
                record.uid, record.namespace, record.name, victim.name, victim.record.queue, pod.node_name, self.name,
                self.message(pod, job), moved, *job.key, len(pods), ignored(session, pod), self.details(pod, job),
            )  # fmt: skip
        session.commit_victims(evictions)
        self._looks.forget()
        self._tapes.clear()
        if self._guard is not None:
            self._guard.forget()
        if any(not pod.node_name or pod.uid in session.bound for pod in gone):
            self._pass_on(job)
        for key in {id(p.job): p.job for p in gone}.values():
            if key is not None:
                self.running.update(key)
                self.pending.update(key)
        self.running.update(job)
        self.pending.update(job)

    def _pass_on(self, job: Job) -> None:
        """A job lost its reservation to this one: what went for that job goes for this one."""
        session, result = self.session, self.session.result
        served = {(r.namespace, session.cluster.pods[r.uid].record.group) for r in result.reserved}
        pods = session.cluster.pods
        served |= {(g.namespace, g.group) for g in result.gangs if any(pods[m.uid].status != RELEASING for m in g.members)}
        result.evictions = [
            e
            if not e.for_group or (e.for_namespace, e.for_group) in served
            else replace(e, for_namespace=job.key[0], for_group=job.name, message=f"{e.message}; the room went to {job.name}")
            for e in result.evictions
        ]


def _bounds(budgets: Budgets, left: int | None) -> Bounds:
    job = budgets.job or None
    if left is not None:
        job = max(min(left, job if job is not None else left), budgets.job_minimum)
    by_name = {name: value or None for name, value in budgets.generator.items()}
    return Bounds(job, by_name, budgets.patience or None, budgets.fruitless or None)


def _without(passed: frozenset[str], tasks: list[Pod]) -> list[frozenset[str]]:
    """Subgroups to be passed over: those ``passed`` and one more of those that the tasks are in, the last one first."""
    names = dict.fromkeys(t.leaf.name for t in reversed(tasks) if t.leaf is not None)
    return [passed | {name} for name in names]
