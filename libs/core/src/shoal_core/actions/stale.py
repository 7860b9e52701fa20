"""Stale gangs: what is left of a gang that lost members goes after its grace period (policy spec 4.9)."""

from __future__ import annotations

from shoal_contracts.state import GroupRecord
from shoal_core.gang import DEFAULT
from shoal_core.history import stale, whole
from shoal_core.reasons import clock
from shoal_core.results import Eviction, Staleness
from shoal_core.rows import Job
from shoal_core.search.guard import guard_of, ignored
from shoal_core.session import Session
from shoal_core.settings import STALE, Settings
from shoal_core.status import ACTIVE


def is_stale(job: Job) -> bool:
    """Something of it runs, nothing of it succeeded, and fewer of its members are complete than have to be."""
    return not job.succeeded and job.broken


def grace_of(job: Job, settings: Settings) -> float:
    """Seconds that the group may be stale; negative: for ever."""
    own = job.record.staleness_grace if job.record else None
    return settings.staleness_grace if own is None else own


def evict_stale(session: Session) -> None:
    """Mark gangs that lost members, clear those that are whole, evict those whose grace is over."""
    cluster = session.cluster
    for key in sorted(cluster.doubtful):
        job = cluster.jobs.get(key)
        if job is None or job.record is None or cluster.quarantine.holds(job, session.now):
            continue
        try:
            _look(session, job, job.record)
        except Exception as error:  # one odd group must not stop the rest
            session.abandon(job, error)


def _look(session: Session, job: Job, record: GroupRecord) -> None:
    cluster, guard, key = session.cluster, guard_of(session), job.key
    if not is_stale(job):
        # A member that is only decided may be refused yet: until the API shows it, the grace runs on.
        if cluster.assumed.keys().isdisjoint(job.pods):
            whole(job)
            if record.stale_since:
                session.result.stale.append(Staleness(*key, 0.0))
            cluster.look_again(job)
        return
    since = stale(job, session.now, older=session.settings.kai_0_17)
    if int(since) != int(record.stale_since):
        session.result.stale.append(Staleness(*key, since))
    grace, failed = grace_of(job, session.settings), job.history.start_failed
    if failed and not cluster.assumed.keys().isdisjoint(job.pods):
        # The rest of its start is under way still: all of it goes together, or it is whole after all.
        return
    if not failed and (grace < 0 or session.now - since < grace):
        return
    pods = [p for leaf in job.leaf_list for p in leaf.pods if ACTIVE[p.status]]
    if (guard is not None and not guard.fits(pods)) or (not failed and session.evictions_spent):
        # It goes whole, once its budgets allow it.
        return
    short = ", ".join(
        f"{'' if x.name == DEFAULT else f'subgroup {x.name}: '}{x.used} of {x.minimum} left"
        for x in job.leaf_list
        if x.used < x.minimum
    )
    evictions: dict[str, Eviction] = {}
    for pod in pods:
        session.evict(pod)
        why = f"could not start: a member was refused, {short}" if failed else f"lost members: {short} since {clock(since)}"
        text = f"pod {pod.record.name} is evicted because its gang {why}"
        evictions[pod.uid] = Eviction(
            pod.uid, pod.record.namespace, pod.record.name, job.name, record.queue, pod.node_name, STALE, text,
            size=len(pods), ignored=ignored(session, pod), details={"rule": STALE},
        )  # fmt: skip
    session.commit_victims(evictions)
    if guard is not None:
        guard.forget()
