"""Room that was only taken on paper: what was reserved in it starts in the same cycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from shoal_core.nodes import Bytes
from shoal_core.results import Gang
from shoal_core.rows import Job, Pod
from shoal_core.status import PENDING

if TYPE_CHECKING:
    from shoal_core.session import Session

Placer = Callable[[Job, list[Pod], Bytes], bool]
"""Places pods of a job on these nodes (uint8, 1: may), all or none; whether it did."""


def nowhere(job: Job, pods: list[Pod], among: Bytes) -> bool:
    """Places nothing."""
    return False


def start_reserved(session: Session) -> None:
    """Start what was reserved and fits into what is idle now, job by job, whole, on the nodes where it was reserved.

    The session has taken its reservations back.
    """
    cluster = session.cluster
    nodes_of = {r.uid: r for r in session.result.reserved}
    by_job: dict[int, list[Pod]] = {}
    for uid in nodes_of:
        pod = cluster.pods[uid]
        by_job.setdefault(id(pod.job), []).append(pod)
    for pods in by_job.values():
        job, start = pods[0].job, len(session.log)
        if job is None or job.record is None or any(p.status != PENDING for p in pods):
            continue
        started = job.counted > 0
        if any(p.shape.shared or p.shape.dynamic for p in pods):
            among = np.zeros_like(session.everywhere)
            among[[session.nodes.columns[nodes_of[p.uid].node] for p in pods]] = 1
            done = session.placer(job, pods, among) and not session.reserving()
        else:
            done = all(_as_reserved(session, pod, nodes_of[pod.uid].node, nodes_of[pod.uid].zones) for pod in pods)
        if not done or not job.root.satisfied:
            session.rollback(start)
            continue
        session.result.gangs.append(Gang(*job.key, job.record.queue, session.commit_places(), not started))
        job.history.started = job.history.started if started else session.now
        uids = {p.uid for p in pods}
        session.result.reserved = [r for r in session.result.reserved if r.uid not in uids]


def _as_reserved(session: Session, pod: Pod, name: str, zones: tuple) -> bool:
    """Give the pod the place that was reserved for it, if what it asks for is idle there."""
    column, rows = session.nodes.columns[name], pod.shape.rows
    if (pod.shape.request[rows] > session.nodes.idle[rows, column]).any():
        return False
    session.place(pod, column, False, (), zones)
    return True
