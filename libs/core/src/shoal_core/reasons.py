"""Why a pod found no node: how many nodes fail for what, in words and for programs."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shoal_contracts.state import NodeRecord, PodRecord
from shoal_core.fairness.division import UNLIMITED
from shoal_core.kernels.place import count_short
from shoal_core.nodes import NVIDIA_ALONE, Bytes, gpu_memory
from shoal_core.placement.feasible import names_nodes, selected, tolerated
from shoal_core.queues import NAMES, Queue
from shoal_core.rows import GPU_MEMORY, Job, Pod, Shape, Vector
from shoal_core.status import PENDING
from shoal_core.vocabulary import GPU
from shoal_model import labels
from shoal_model.quantity import rfc3339
from shoal_model.resources import gpus_of

if TYPE_CHECKING:
    from shoal_core.session import Session

SHORT_OF_GPUS = "node(s) didn't have enough resources: GPUs"
MOST_EXCLUSIONS = 5
SHORT = {
    "cpu": "CPU cores", "memory": "memory", "nvidia.com/gpu": "GPUs", "pods": "room for pods", NVIDIA_ALONE: "GPUs of NVIDIA",
}  # fmt: skip
UNKNOWN_MEMORY = f"node(s) don't say how much memory their GPUs have: label {labels.GPU_MEMORY_LABEL} is missing or no number"


def amount(resource: int, value: float) -> str:
    """A number of a queue's resource as people read it: cores, MB, devices."""
    if value == UNLIMITED:
        return "unlimited"
    return f"{value / 1e6:g} MB" if resource == 1 else f"{value / 1000:g}" if resource == 0 else f"{value:g}"


def measured(resource: int, value: float) -> str:
    """The same with its unit."""
    if value == UNLIMITED:
        return f"unlimited {NAMES[resource]}"
    if resource == 1:
        return f"{amount(1, value)} of memory"
    text = amount(resource, value)
    return f"{text} {'CPU core' if resource == 0 else 'GPU'}{'' if text == '1' else 's'}"


def clock(at: float) -> str:
    """A time, as people read it: to the second, not before it."""
    text = rfc3339(math.ceil(at))
    return f"{text[11:19]} UTC on {text[:10]}"


def over_limit(queue: Queue, resource: int, asked: Vector) -> tuple[str, str, dict[str, object]]:
    """(code, message, details) for a limit that would be broken."""
    r = resource
    text = (
        f"over the limit of queue {queue.name}, {measured(r, queue.limit[r])}: {amount(r, queue.allocated[r])} in use,"
        f" {amount(r, asked[r])} more requested"
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
        f"non-preemptible work may use only the quota of queue {queue.name}, {measured(r, queue.quota[r])}:"
        f" {amount(r, queue.fixed[r])} in use by such work, {amount(r, asked[r])} more requested; raise the quota, or use a"
        " preemptible priority class such as train"
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
        reasons += _excluded(session, pod, inside & (nodes.open_to(pod.record) != 0) & (allowed == 0))
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
        row = nodes.resources.find(resource)
        at = np.flatnonzero(rows == (-1 if row is None else row))
        if at.size and resource != labels.GPU:
            # Nodes that don't count it may have devices for it.
            counting = (allowed & (nodes.allocatable[rows[at[0]]] != 0.0)).astype(np.uint8)
            count_short(nodes.idle, counting, request, rows[at], short[at[0] : at[0] + 1])
    for r, count in zip(rows, short, strict=True):
        if count:
            name = nodes.resources.values[int(r)]
            reasons[f"node(s) didn't have enough resources: {SHORT.get(name, name)}"] = int(count)
    if shape.shared and not any(short):
        small = int((allowed & (nodes.devices > 0) & (nodes.gpu_memory < shape.memory)).sum())
        reasons["node(s) didn't have enough resources: GPU memory"] = small
        reasons[SHORT_OF_GPUS] = int(allowed.sum()) - small
    return {what: count for what, count in sorted(reasons.items()) if count}


def _excluded(session: Session, pod: Pod, columns: NDArray[np.bool_]) -> Counter[str]:
    """What the node selector, the affinity, taints or the kind of GPU exclude, by what does; the rest in one."""
    nodes, record = session.nodes, pod.record
    worker = (labels.CPU_WORKER if pod.shape.cpu_only else labels.GPU_WORKER) if session.settings.restrict_nodes else ""
    found: Counter[str] = Counter()
    for one, count in nodes.alike(columns, each=names_nodes(record)):
        found[_excludes(pod.shape, record, one, worker)] += count
    if len(found) > MOST_EXCLUSIONS:
        kept = Counter(dict(sorted(found.items(), key=lambda x: (-x[1], x[0]))[:MOST_EXCLUSIONS]))
        kept["node(s) excluded by other labels, affinity, taints or kind of GPU"] += found.total() - kept.total()
        return kept
    return found


def _excludes(shape: Shape, pod: PodRecord, node: NodeRecord, worker: str) -> str:
    for key, value in sorted(pod.node_selector.items()):
        if node.labels.get(key) != value:
            return f"node(s) lack the label {key}={value} of the node selector"
    if not selected(pod, node.name, node.labels):
        return "node(s) don't match the required node affinity"
    for taint in node.taints:
        if not tolerated(pod, [taint]):
            value = f"={taint.value}" if taint.value else ""
            return f"node(s) have the taint {taint.key}{value}:{taint.effect}, which is not tolerated"
    if worker and worker not in node.labels:
        return f"node(s) lack the label {worker}"
    if shape.kind == GPU_MEMORY and gpus_of(node.allocatable) and not gpu_memory(node)[1]:
        return UNKNOWN_MEMORY
    if missing := shape.missing:
        names = ", ".join(missing[:4]) + (f" and {len(missing) - 4} others" if len(missing) > 4 else "")
        return f"node(s) didn't have enough resources: {names}"
    return "node(s) have another kind of GPU than is requested"


def gpus_text(session: Session, pod: Pod, among: Bytes) -> str:
    """How many whole GPUs a pod requests, and what the nodes that it may use have; empty where that is not what is short."""
    nodes, shape = session.nodes, pod.shape
    if shape.shared or not shape.gpus or shape.claim_gpus:
        return ""
    allowed = nodes.allowed(shape, pod.record, session.settings.restrict_nodes) & among
    if not allowed.any():
        return ""
    columns = allowed.astype(bool)
    size = int(nodes.allocatable[GPU][columns].max())
    if shape.gpus > size:
        return f" ({shape.gpus:g} requested, the largest node has {size})"
    free = max(0, int(nodes.idle[GPU][columns].max()))
    return f" ({shape.gpus:g} requested, at most {free} free on a node)" if shape.gpus > free else ""


def no_node_text(reasons: dict[str, int], there: int, gpus: str = "") -> str:
    """The same in words. ``gpus``: of ``gpus_text``."""
    if not there:
        return "there are no nodes"
    listed = "; ".join(f"{count} {what}{gpus if what == SHORT_OF_GPUS else ''}" for what, count in reasons.items())
    return f"none of {there} node{'' if there == 1 else 's'} fits: {listed or 'no reason is known'}"


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
    if not barred:
        barred = list(job.unsure.values())
    if not barred:
        return "NotEnoughPods", not_ready(job)
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
