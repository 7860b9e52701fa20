"""One cycle: fair shares, order, actions. State and work budget in, decisions and reasons out."""

from __future__ import annotations

from shoal_core.actions.allocate import Allocation, Job, job_of
from shoal_core.cluster import Cluster
from shoal_core.results import CycleResult, QueueShare


def cycle(cluster: Cluster, *, spread: bool = False) -> CycleResult:
    """Decide what starts now. What is decided is assumed in ``cluster`` at once: commit it, or ``forget`` it.

    The same cluster gives the same result. Groups of which nothing waits cost nothing.
    """
    result = CycleResult()
    cluster.refresh_requests()
    cluster.tree.share_out(cluster.nodes.total())
    jobs: list[Job] = []
    for key in sorted(cluster.waiting):
        group = cluster.groups.get(key)
        found = job_of(cluster, key, group) if group else None
        if isinstance(found, Job):
            jobs.append(found)
        elif found is not None:
            result.waiting.append(found)
        else:
            cluster.waiting.discard(key)
    Allocation(cluster, result, spread).run(jobs)
    for queue in cluster.tree.queues.values():
        result.queues.append(
            QueueShare(queue.name, tuple(queue.share.tolist()), tuple(queue.allocated.tolist()), tuple(queue.request.tolist()))
        )
    return result
