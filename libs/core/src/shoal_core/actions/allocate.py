"""Allocate: start waiting gangs where there is room, in the order of queues and jobs, all of a gang or none of it."""

from __future__ import annotations

from shoal_core.actions.singles import Singles
from shoal_core.order.jobs import Serving
from shoal_core.placement.walk import Walk
from shoal_core.results import Gang
from shoal_core.rows import Job, Pod
from shoal_core.session import Session
from shoal_core.settings import ALLOCATE
from shoal_core.status import ACTIVE, PIPELINED


def allocate(session: Session, walk: Walk, jobs: list[Job]) -> list[Job]:
    """Try every job once, and again after each success while it has more to start. Returns those that found no place."""
    least = session.least_memory
    order = Serving(jobs, session.total, least, session.settings.queue_depth.get(ALLOCATE))
    failed: list[Job] = []
    singles = Singles(session, walk)
    while (job := order.pop()) is not None:
        if (job := singles.take(order, job)) is None:
            break
        tasks = job.chunk(True, least)[0]
        started = job.counted > 0
        if not walk.place(job, tasks, session.everywhere, later=False):
            if job.pending and tasks:
                failed.append(job)
                session.why[job.key] = walk.failure
            continue
        postponed = _postpone(session, job, tasks)
        decided = session.commit_places()
        if decided:
            record = job.record
            assert record is not None
            starts = not started and not postponed
            session.result.gangs.append(Gang(*job.key, record.queue, decided, starts))
            if starts:
                job.history.started = session.now
        if job.pending:
            order.push(job)
    return failed


def _postpone(session: Session, job: Job, tasks: list[Pod]) -> bool:
    """A gang of which one member has to wait waits as a whole (policy spec 4.3)."""
    if not session.reserving():
        return False
    for leaf in job.leaf_list:
        waits = sum(p.status == PIPELINED for p in leaf.pods)
        if waits and sum(ACTIVE[p.status] for p in leaf.pods) - waits < leaf.minimum:
            session.postpone(0)
            return True
    return False
