"""Why a pod found no node: how many nodes fail for what, in words and for programs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from shoal_core.fairness.division import UNLIMITED
from shoal_core.kernels.place import count_short
from shoal_core.nodes import Bytes, is_gpu
from shoal_core.queues import NAMES, Queue
from shoal_core.rows import Job, Pod, Vector
from shoal_core.status import PENDING
from shoal_core.vocabulary import GPU

if TYPE_CHECKING:
    from shoal_core.session import Session

SHORT = {"cpu": "CPU cores", "memory": "memory", "nvidia.com/gpu": "GPUs", "pods": "room for pods"}


def amount(resource: int, value: float) -> str:
    """A number of a queue's resource as people read it: cores, MB, devices."""
    if value == UNLIMITED:
        return "unlimited"
    return f"{value / 1e6:g} MB" if resource == 1 else f"{value / 1000:g}" if resource == 0 else f"{value:g}"


def over_limit(queue: Queue, resource: int, asked: Vector) -> tuple[str, str, dict[str, object]]:
    """(code, message, details) for a limit that would be broken."""
    r = resource
    text = (
        f"queue {queue.name} may use {amount(r, queue.limit[r])} {NAMES[r]} and uses {amount(r, queue.allocated[r])}:"
        f" {amount(r, asked[r])} more are over its limit"
    )
    details = {
        "queue": queue.name,
        "resource": NAMES[r],
        "limit": queue.limit[r],
        "used": queue.allocated[r],
        "asked": asked[r],
    }
    return "OverLimit", text, details


def over_quota(queue: Queue, resource: int, asked: Vector) -> tuple[str, str, dict[str, object]]:
    """(code, message, details) for a quota that non-preemptible work would break."""
    r = resource
    text = (
        f"queue {queue.name} has a quota of {amount(r, queue.quota[r])} {NAMES[r]}, of which non-preemptible work uses"
        f" {amount(r, queue.fixed[r])}: {amount(r, asked[r])} more are over its quota"
    )
    details = {"queue": queue.name, "resource": NAMES[r], "quota": queue.quota[r], "used": queue.fixed[r], "asked": asked[r]}
    return "NonPreemptibleOverQuota", text, details


def no_node(session: Session, pod: Pod, among: Bytes, narrowed: Bytes | None, why: str) -> dict[str, int]:
    """Reason -> number of nodes, for a pod that found none of ``among``. ``narrowed``: what rules on running pods left."""
    nodes, shape = session.nodes, pod.shape
    inside = among.astype(bool)
    there = int(inside.sum())
    reasons: Counter[str] = Counter()
    unusable = int((inside & (nodes.open_to(pod.record) == 0)).sum())
    if unusable:
        reasons["node(s) are not ready or not schedulable"] = unusable
    allowed = nodes.allowed(shape, pod.record, session.settings.restrict_nodes) & among
    excluded = there - unusable - int(allowed.sum())
    if excluded:
        reasons["node(s) excluded by node selector, affinity, taints or kind of GPU"] = excluded
    if narrowed is not None:
        left = allowed & narrowed
        if lost := int(allowed.sum() - left.sum()):
            reasons[why or "node(s) excluded by rules on running pods"] = lost
        allowed = left
    request, rows = shape.request, shape.rows
    if shape.shared:
        rows = rows[rows != GPU]
    short = np.zeros(rows.shape[0], np.int64)
    count_short(nodes.idle, allowed, request, rows, short)
    for resource, _ in shape.extended:
        at = np.flatnonzero(rows == nodes.resources.number(resource))
        if at.size and not is_gpu(resource):
            # Nodes that don't count it may have devices for it.
            counting = (allowed & (nodes.allocatable[rows[at[0]]] != 0.0)).astype(np.uint8)
            count_short(nodes.idle, counting, request, rows[at], short[at[0] : at[0] + 1])
    for r, count in zip(rows, short, strict=True):
        if count:
            name = nodes.resources.values[int(r)]
            reasons[f"node(s) didn't have enough resources: {SHORT.get(name, name)}"] = int(count)
    if shape.shared and not any(short):
        reasons["node(s) didn't have enough resources: GPUs"] = int(allowed.sum())
    return {what: count for what, count in sorted(reasons.items()) if count}


def no_node_text(reasons: dict[str, int], there: int) -> str:
    """The same in words."""
    listed = "; ".join(f"{count} {what}" for what, count in reasons.items())
    return f"no nodes with enough resources were found: of {there}, {listed or 'none is left'}"


def gang_text(job: Job, pod: Pod, found: int, needed: int, why: str) -> str:
    """The sentence about the gang, or the pod alone."""
    leaf = pod.leaf
    if needed == 1 or leaf is None or leaf.used >= leaf.minimum or all(x.minimum <= 1 for x in job.leaf_list):
        return why if needed == 1 else f"no room for pod {pod.record.name}: {why}"
    if len(job.leaf_list) > 1:
        return f"subgroup {leaf.name}: resources were found for {found} pods while {leaf.minimum} must start together; {why}"
    return f"resources were found for {found} pods while {needed} must start together; {why}"


def not_ready(job: Job) -> str:
    """Which pods are missing."""
    short = [
        f"{'' if leaf.name == 'default' else f'subgroup {leaf.name}: '}{leaf.minimum} pods are needed,"
        f" {leaf.alive - leaf.gated} exist" + (f" and {leaf.gated} are gated" if leaf.gated else "")
        for leaf in job.leaf_list
        if not leaf.ready
    ]
    return "; ".join(short) or f"{job.root.minimum} subgroups are needed, fewer can be complete"


def held(job: Job) -> tuple[str, str]:
    """(code, message) for a group none of whose waiting pods may be placed for now."""
    barred = sorted((p for p in job.pods.values() if p.pending and p.barred), key=lambda p: p.order)
    if refused := [p for p in barred if p.refused]:
        text = f"{_pods(len(refused))} {_is(len(refused))} held back for a while after a refused binding: {_listed(refused)}"
        return "Held", text
    return "Starting", f"starting: {len(barred)} of {_pods(len(job.pods))} {_is(len(barred))} being bound"


def _pods(count: int) -> str:
    return f"{count} pod{'' if count == 1 else 's'}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(pods: list[Pod], most: int = 3) -> str:
    return ", ".join(p.record.name for p in pods[:most]) + (" …" if len(pods) > most else "")


def waiting_uids(job: Job) -> tuple[str, ...]:
    """Uids of the pods that wait."""
    return tuple(sorted(uid for uid, p in job.pods.items() if p.status == PENDING))
