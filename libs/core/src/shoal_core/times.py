"""When time alone changes what a cycle comes to: delays, graces and minimum runtimes that end."""

from __future__ import annotations

import math

from shoal_core.actions.stale import grace_of, is_stale
from shoal_core.cluster import Cluster
from shoal_core.history import last_start
from shoal_core.protection import delayed_until
from shoal_core.rows import Job

SOON = 1.0
"""Seconds until something is looked at again whose end has no time: a search that used up its work, budgets that catch up."""


def next_change(cluster: Cluster, now: float) -> float:
    """The first time after ``now`` at which a cycle on the unchanged cluster may decide something else; infinite if there is
    none. It looks at every group: for simulations."""
    found: list[float] = []
    held = cluster.settings.evictions_per_minute
    if 0 < held <= cluster.pace.within(now):
        found.append(cluster.pace.eases())
    elif cluster.tried or cluster.disruptions.waits:
        found.append(now + SOON)
    for key in cluster.doubtful:
        job = cluster.jobs[key]
        if is_stale(job) and (grace := grace_of(job, cluster.settings)) >= 0:
            found.append(job.history.stale_since + grace)
    if cluster.waiting:
        found += [delayed_until(cluster.jobs[key]) for key in cluster.waiting]
        found += [cluster.pods[uid].record.deleted + cluster.settings.stuck_after + SOON for uid in cluster.deleting]
        for job in cluster.jobs.values():
            found += _protected_until(cluster, job)
    return min((at for at in found if at > now), default=math.inf)


def _protected_until(cluster: Cluster, job: Job) -> list[float]:
    """When the group's minimum runtimes end, whoever asks for its room."""
    start = last_start(job) if job.active and job.queue is not None else 0.0
    if not start or job.queue is None:
        return []
    settings = cluster.settings
    records = [queue.record for queue in job.queue.line]
    lasting = {settings.preempt_min_runtime, settings.reclaim_min_runtime}
    lasting |= {r.preempt_min_runtime or 0.0 for r in records} | {r.reclaim_min_runtime or 0.0 for r in records}
    return [start + duration for duration in lasting if duration > 0]
