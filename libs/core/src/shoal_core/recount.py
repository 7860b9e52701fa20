"""Counting anew what the cluster keeps up to date: for tests, and after something raised in the middle of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from shoal_core.cluster import Cluster


def recount(cluster: Cluster) -> None:
    """Charge every node anew and forget what was derived; queues are counted anew when they are next asked for."""
    for column in cluster.nodes.columns.values():
        cluster.rebuild_node(column)
    cluster.distrust_queues()
    cluster.demands.clear()
    for job in cluster.jobs.values():
        job.changed()


def check(cluster: Cluster) -> None:
    """Raises AssertionError where a column or roll-up differs from what the pods come to."""
    cluster.claims.check()
    idle, releasing = cluster.nodes.idle.copy(), cluster.nodes.releasing.copy()
    queues = {q.name: (q.allocated, q.fixed, q.pending) for q in cluster.tree.queues.values()}
    recount(cluster)
    np.testing.assert_allclose(idle, cluster.nodes.idle, atol=1e-6)
    np.testing.assert_allclose(releasing, cluster.nodes.releasing, atol=1e-6)
    for queue in cluster.tree.queues.values():
        np.testing.assert_allclose(queues[queue.name], (queue.allocated, queue.fixed, queue.pending), atol=1e-6)
