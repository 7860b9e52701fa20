"""Allocate: start waiting gangs where there is room, in the order of queues and jobs, all of a gang or none of it."""

from __future__ import annotations

from shoal_core.actions.singles import Singles
from shoal_core.gang import next_pods
from shoal_core.order.jobs import Serving
from shoal_core.placement.walk import Walk
from shoal_core.results import Gang
from shoal_core.rows import Job, Pod
from shoal_core.session import Session
from shoal_core.settings import ALLOCATE
from shoal_core.status import ACTIVE, PIPELINED

MOST_CHOICES = 16
"""So many choices of subgroups are tried for a group that can do without some."""


def allocate(session: Session, walk: Walk, jobs: list[Job]) -> list[Job]:
    """Try every job once, and again after each success while it has more to start. Returns those that found no place."""
    least = session.least_memory
    order = Serving(jobs, session.total, least, session.settings.queue_depth.get(ALLOCATE))
    failed: list[Job] = []
    singles = Singles(session, walk)
    while (job := order.pop()) is not None:
        if (job := singles.take(order, job)) is None:
            break
        try:
            found = _start(session, walk, job, least)
        except Exception as error:  # one odd group must not stop the rest
            session.abandon(job, error)
            continue
        if found is None:
            failed.append(job)
        elif found and job.pending:
            order.push(job)
    return failed


def _start(session: Session, walk: Walk, job: Job, least: float) -> bool | None:
    """Whether the next pods of the job have a place; None: there is none for them."""
    tasks = job.chunk(True, least)[0]
    started = job.counted > 0
    if not walk.place(job, tasks, session.everywhere, later=False):
        failure, tasks = walk.failure, _otherwise(session, walk, job, tasks)
        if not tasks:
            if job.pending:
                session.why[job.key] = failure
                return None
            return False
    postponed = _postpone(session, job, tasks)
    decided = session.commit_places()
    if decided:
        record = job.record
        assert record is not None
        starts = not started and not postponed
        session.result.gangs.append(Gang(*job.key, record.queue, decided, starts))
        if starts:
            job.history.started = session.now
    return True


def _otherwise(session: Session, walk: Walk, job: Job, tasks: list[Pod]) -> list[Pod]:
    """Where a group can do without some subgroups: what was placed without those that find no room; empty if nothing was.

    ``tasks`` found none together.
    """
    if len(job.leaf_list) == 1 or not tasks or session.settings.kai_0_17 or not job.root.optional:
        return []
    passed: set[str] = set()
    fits: set[str] = set()
    for _ in range(MOST_CHOICES):
        names = list(dict.fromkeys(t.leaf.name for t in tasks if t.leaf is not None))
        for name in names:
            if name not in fits:
                start = len(session.log)
                alone = walk.place(job, [t for t in tasks if t.leaf and t.leaf.name == name], session.everywhere, later=False)
                session.rollback(start)
                (fits if alone else passed).add(name)
        if passed.isdisjoint(names):
            # Each fits, but not all of them.
            passed.add(names[-1])
        tasks = next_pods(job.root, True, frozenset(passed))
        if not tasks or walk.place(job, tasks, session.everywhere, later=False):
            return tasks
    return []


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
