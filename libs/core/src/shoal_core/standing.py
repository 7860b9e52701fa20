"""Where a pod stands: its status, node and shared devices, after its record and what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal_core.rows import Place, Pod
from shoal_core.status import BINDING, BOUND, FAILED, GATED, GONE, PENDING, RELEASING, RUNNING, STUCK, SUCCEEDED
from shoal_model.pinned import pinned_node

if TYPE_CHECKING:
    from shoal_core.cluster import Cluster


def standing(cluster: Cluster, pod: Pod) -> Place:
    """What the pod's record and what was decided say of it (policy spec 1.3)."""
    record = pod.record
    groups = tuple(record.gpu_groups)
    match record.phase:
        case "Succeeded":
            return SUCCEEDED, "", ()
        case "Failed":
            return FAILED, "", ()
        case "Pending":
            if record.deleted or pod.uid in cluster.going:
                return RELEASING, record.node, groups
            if record.node:
                known = cluster.assumed.get(pod.uid)
                return BOUND, record.node, groups or (known[1] if known and known[0] == record.node else ())
            if known := cluster.assumed.get(pod.uid):
                return BINDING, known[0], known[1]
            if record.scheduler_name != cluster.scheduler_name:
                # Another scheduler will put it on the only node that it may use: that room is promised.
                name = pinned_node(record)
                return (BINDING, name, ()) if cluster.could_hold(pod, name) else (GONE, "", ())
            return (GATED if record.gated else PENDING), "", ()
        case _ if not record.node and record.phase != "Running":
            return GONE, "", ()
        case _:
            # Nobody hears of a pod that is neither running nor ended, but it may well run: it holds its room, as in Kubernetes.
            if record.deleted:
                late = cluster.now - record.deleted > cluster.settings.stuck_after
                return STUCK if late else RELEASING, record.node, groups
            return (RELEASING if pod.uid in cluster.going else RUNNING), record.node, groups
