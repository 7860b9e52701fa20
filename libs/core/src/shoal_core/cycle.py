"""One cycle: fair shares, order, actions. State, time and settings in, decisions and reasons out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shoal_contracts.state import PodRecord
from shoal_core import reasons
from shoal_core.actions.allocate import allocate
from shoal_core.actions.consolidate import Consolidate
from shoal_core.actions.evicting import Evicting
from shoal_core.actions.preempt import Preempt
from shoal_core.actions.reclaim import Reclaim
from shoal_core.actions.stale import evict_stale
from shoal_core.cluster import Cluster
from shoal_core.order.jobs import Sorted
from shoal_core.placement.walk import Failure, Walk
from shoal_core.protection import delayed_until
from shoal_core.results import CycleResult, QueueShare, Waiting
from shoal_core.rows import Job
from shoal_core.session import Session
from shoal_core.settings import ALLOCATE, CONSOLIDATION, PREEMPT, RECLAIM, STALE, Settings

SEARCHING: dict[str, type[Evicting]] = {CONSOLIDATION: Consolidate, RECLAIM: Reclaim, PREEMPT: Preempt}


def cycle(cluster: Cluster, *, now: float = 0.0, settings: Settings | None = None) -> CycleResult:
    """Decide what starts and what goes now. What is decided is assumed in ``cluster`` at once: commit it, or ``forget`` it.

    The same cluster, time and settings give the same result. Groups of which nothing waits cost nothing.
    """
    kept = cluster.quiet
    if kept is not None and settings is None and kept[0] == cluster.changes and now < kept[1]:
        assert isinstance(kept[2], CycleResult)
        return kept[2]
    session = Session(cluster, now, settings)
    run(session)
    result = session.close()
    if result.evictions and session.settings.evictions_per_minute > 0:
        cluster.pace.decided(len(result.evictions), now)
    decided = result.gangs or result.evictions or result.stale or session.unfinished
    until = 0.0 if decided or settings is not None else _same_until(cluster, now)
    cluster.quiet = (cluster.changes, until, result)
    return result


def _same_until(cluster: Cluster, now: float) -> float:
    """Until when a cycle on an unchanged cluster would come to the same."""
    if cluster.deleting or cluster.doubtful or cluster.tried or cluster.disruptions.waits or not cluster.numa.empty:
        return 0.0
    found = cluster.quarantine.until(now)
    for key in cluster.waiting:
        until = delayed_until(cluster.jobs[key])
        if until > now:
            found = min(found, until)
    queues = cluster.tree.queues.values()
    given = cluster.settings.preempt_min_runtime or cluster.settings.reclaim_min_runtime
    if cluster.waiting and (given or any(q.record.preempt_min_runtime or q.record.reclaim_min_runtime for q in queues)):
        return 0.0
    return found


def run(session: Session, actions: Iterable[str] | None = None, tell: Callable[[str], object] = len) -> None:
    """The actions in order; ``session.close`` ends the cycle. ``tell`` hears the name of each when it is done."""
    cluster = session.cluster
    jobs = _jobs(session)
    walk = Walk(session)
    # What Walk keeps holds for as long as reservations stand.
    session.placer = lambda job, pods, among: Walk(session).place(job, pods, among, later=False)
    tell("jobs")
    orders: list[Sorted] = []
    tried = False
    for action in actions if actions is not None else session.settings.actions:
        if action == ALLOCATE:
            allocate(session, walk, jobs)
            tried = True
            orders = []
        elif action == STALE:
            evict_stale(session)
        elif any(j.pending for j in jobs):
            if not orders:
                orders = _orders(cluster)
            SEARCHING[action](session, walk, *orders).run(jobs)
        tell(action)
    for job in jobs:
        if job.pending:
            try:
                session.result.waiting.append(_why(session, job, tried))
            except Exception as error:  # one odd group must not stop the rest
                session.abandon(job, error)
                session.result.waiting.append(_waits(job, *cluster.quarantine.reason(job)))
    for key in sorted(cluster.misplaced - cluster.elsewhere):
        job = cluster.jobs[key]
        wrong = _wrong(session, job)
        for uid, pod in sorted(job.unknown.items()):
            if pod.pending:
                text = f"pod {pod.record.name} names subgroup {pod.record.subgroup!r}, which {job.name} lacks"
                code, text = wrong or ("InvalidPod", text)
                session.result.waiting.append(Waiting(*key, job.record.queue if job.record else "", code, text, (uid,)))
    for (kind, namespace, name), (record, text) in sorted(cluster.quarantine.refused.items()):
        if kind == "pod" and isinstance(record, PodRecord) and record.scheduler_name == cluster.scheduler_name:
            told = f"pod {name} can't be taken in by the scheduler ({text}): please report this"
            session.result.waiting.append(Waiting(namespace, record.group, "", "InvalidPod", told, (record.uid,)))
    for queue in cluster.tree.queues.values():
        session.result.queues.append(QueueShare(queue.name, queue.share, queue.allocated, queue.request))


def _orders(cluster: Cluster) -> list[Sorted]:
    """Running jobs that may be victims, and waiting ones."""

    def runs(job: Job) -> bool:
        return job.active > 0 and job.preemptible and job.queue is not None and not job.queue.children

    def waits(job: Job) -> bool:
        return job.pending > 0 and job.queue is not None and not job.queue.children

    return [Sorted(cluster.jobs.values(), runs), Sorted([cluster.jobs[key] for key in sorted(cluster.waiting)], waits)]


def _jobs(session: Session) -> list[Job]:
    """The groups that may start pods; of the others it is said why not."""
    found: list[Job] = []
    elsewhere = session.cluster.elsewhere
    for key in sorted(session.cluster.waiting):
        job = session.cluster.jobs[key]
        if key in elsewhere:
            continue
        try:
            why = _not_now(session, job)
        except Exception as error:  # one odd group must not stop the rest
            session.abandon(job, error)
            why = session.cluster.quarantine.reason(job)
        if why is None:
            found.append(job)
        else:
            session.result.waiting.append(_waits(job, *why))
    return found


def _waits(job: Job, code: str, text: str) -> Waiting:
    return Waiting(*job.key, job.record.queue if job.record else "", code, text, reasons.waiting_uids(job))


def _not_now(session: Session, job: Job) -> tuple[str, str] | None:
    """What keeps a group from being placed in this cycle, whatever room there is: (code, message)."""
    if session.cluster.quarantine.holds(job, session.now):
        return session.cluster.quarantine.reason(job)
    if (wrong := _wrong(session, job)) is not None:
        return wrong
    if not job.ready:
        return "NotEnoughPods", reasons.not_ready(job)
    return None if job.chunk(True, session.least_memory)[0] else reasons.held(job)


def _wrong(session: Session, job: Job) -> tuple[str, str] | None:
    """What keeps a group from being looked at: (code, message)."""
    cluster, record = session.cluster, job.record
    if record is None:
        return "PodGroupNotFound", f"PodGroup {job.key[0]}/{job.name}, which the pod names, does not exist"
    if record.error:
        return "InvalidPodGroup", record.error
    queue = job.queue
    if queue is None:
        told = cluster.tree.problems.get(record.queue) or (
            f"queue {record.queue!r} does not exist: create it, or name another in spec.queue of PodGroup"
            f" {job.key[0]}/{job.name}"
        )
        return "QueueDoesNotExist", told
    if queue.children:
        return "QueueDoesNotExist", f"queue {queue.name} has queues below it: name one of those"
    for pod in job.unsound.values():
        if pod.pending:
            return "InvalidPod", f"pod {pod.record.name}: {pod.record.error}"
    return None


def _why(session: Session, job: Job, tried: bool) -> Waiting:
    failure, record = session.why.get(job.key), job.record
    assert record is not None
    if (hindered := session.hindered.get(job.key)) is not None:
        found = failure or Failure("Unschedulable", "no room was found", {})
        details = found.details | ({"budgets": dict(hindered.budgets)} if hindered.budgets else {})
        failure = Failure(found.code, f"{found.message}; {hindered.message}", details)
    uids = reasons.waiting_uids(job)
    if session.cluster.quarantine.holds(job, session.now):
        return _waits(job, *session.cluster.quarantine.reason(job))
    until = delayed_until(job)
    if until > session.now:
        text = f"may take no room from others until {reasons.clock(until)} (spec.preemptionDelay)"
        if failure is not None:
            text = f"{failure.message}; {text}"
        return Waiting(*job.key, record.queue, "PreemptionDelayNotElapsed", text, uids, failure.details if failure else {})
    if failure is None and tried and not job.chunk(True, session.least_memory)[0]:
        # What could start has started; the rest of it can't form for now.
        return Waiting(*job.key, record.queue, *reasons.held(job), uids)
    if failure is None:
        return Waiting(*job.key, record.queue, "Unschedulable", "no room was found" if tried else "not tried", uids)
    return Waiting(*job.key, record.queue, failure.code, failure.message, uids, failure.details)
