"""After a failure, jobs that are no easier to place are not tried again in the same action (policy spec 4.4)."""

from __future__ import annotations

from shoal_core.gang import Member, PodSet
from shoal_core.rows import Job, Pod
from shoal_core.session import Session
from shoal_core.status import PENDING

Signature = tuple[tuple[object, ...], ...]


def signature(session: Session, job: Job) -> Signature:
    """What the pods demand of nodes besides room, and of topology. Requests and queue are not part of it.

    It is that of the cycle's beginning: pods that got a place in it still count, pods that it evicted don't.
    """
    found = job.signature_cache
    if found is None:
        found = job.signature_cache = tuple(sorted(_leaf(session, leaf) for leaf in job.leaf_list))
    return found


def _leaf(session: Session, leaf: PodSet) -> tuple[object, ...]:
    pods = [p for p in leaf.pods if not session.began_active(p)]
    if not pods:
        return ()
    chain: list[tuple[str, str, str]] = []
    at: Member | None = leaf
    while at is not None:
        if at.topology:
            chain.append((at.topology.topology, at.topology.required or "", at.topology.preferred or ""))
        at = at.parent
    return (tuple(chain), tuple(sorted(_pod(session, p) for p in pods)))


def _pod(session: Session, pod: Pod) -> int:
    """A number for what the pod demands, the same for all that demand the same."""
    record, shape, cluster = pod.record, pod.shape, session.cluster
    # What a claim is bound to changes: pods with claims are like no others.
    volumes = (record.namespace, *record.volumes) if record.volumes else ()
    short = (shape.number, record.priority_class, record.priority, volumes)
    found = cluster.demands.get(short)
    if found is None:
        full = (
            tuple(sorted(record.node_selector.items())), repr(record.affinity), repr(record.tolerations),
            record.priority_class, record.priority, repr(record.host_ports), volumes, shape.extended, shape.missing,
        )  # fmt: skip
        number = cluster.demands.setdefault(full, len(cluster.demands))
        found = cluster.demands[short] = number
    return found


class Failures:
    """Per signature the smallest job that failed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._smallest: dict[tuple[str, Signature], list[tuple[float, ...]]] = {}

    def _apart(self, job: Job) -> bool:
        """Whether pods on nodes would have its pods far away or near: others with the same demands may fare otherwise."""
        session = self._session
        if session.settings.kai_0_17 or not (session.cluster.social or session.social):
            return False
        return any(p.status == PENDING and session.census.concerned(p.record) for p in job.pods.values())

    def hopeless(self, scope: str, job: Job) -> bool:
        """Whether a job that is no harder than this one has failed already."""
        if self._apart(job):
            return False
        kept = self._smallest.get((scope, signature(self._session, job)))
        return kept is not None and not _easier(_requests(job), kept)

    def failed(self, scope: str, job: Job) -> None:
        """The job found nothing."""
        if self._apart(job):
            return
        key, mine = (scope, signature(self._session, job)), _requests(job)
        kept = self._smallest.get(key)
        if kept is None or (len(mine) <= len(kept) and all(_within(a, b) for a, b in zip(mine, kept, strict=False))):
            self._smallest[key] = mine


def _requests(job: Job) -> list[tuple[float, ...]]:
    found = job.requests_cache
    if found is None:
        found = job.requests_cache = sorted(p.shape.figures for p in job.pods.values() if p.status == PENDING)
    return found


def _within(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= (b[i] if i < len(b) else 0.0) for i, x in enumerate(a))


def _easier(mine: list[tuple[float, ...]], kept: list[tuple[float, ...]]) -> bool:
    if not mine or not kept:
        return False
    if len(kept) > len(mine):
        return True
    for i, request in enumerate(mine):
        if i >= len(kept):
            return False
        if _within(request, kept[i]) and request != kept[i]:
            return True
    return False
