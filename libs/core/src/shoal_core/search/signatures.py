"""After a failure, jobs that are no easier to place are not tried again in the same action (policy spec 4.4)."""

from __future__ import annotations

from shoal_core.gang import Member, PodSet
from shoal_core.rows import Job, Pod
from shoal_core.status import ACTIVE, PENDING


def signature(job: Job) -> int:
    """What the pods demand of nodes besides room, and of topology. Requests and queue are not part of it."""
    found = job.signature_cache
    if found is None:
        found = job.signature_cache = hash(tuple(sorted(hash(_leaf(leaf)) for leaf in job.leaf_list)))
    return found


def _leaf(leaf: PodSet) -> tuple[object, ...]:
    pods = [p for p in leaf.pods if not ACTIVE[p.status]]
    if not pods:
        return ()
    chain: list[object] = []
    at: Member | None = leaf
    while at is not None:
        if at.topology:
            chain.append((at.topology.topology, at.topology.required, at.topology.preferred))
        at = at.parent
    return (tuple(chain), tuple(sorted(_pod(p) for p in pods)))


def _pod(pod: Pod) -> int:
    record = pod.record
    return hash(
        (
            tuple(sorted(record.node_selector.items())), repr(record.affinity), repr(record.tolerations),
            record.priority_class, record.priority, repr(record.host_ports), tuple(record.volumes),
        )
    )  # fmt: skip


class Failures:
    """Per signature the smallest job that failed."""

    def __init__(self) -> None:
        self._smallest: dict[tuple[str, int], list[tuple[float, ...]]] = {}

    def hopeless(self, scope: str, job: Job) -> bool:
        """Whether a job that is no harder than this one has failed already."""
        kept = self._smallest.get((scope, signature(job)))
        return kept is not None and not _easier(_requests(job), kept)

    def failed(self, scope: str, job: Job) -> None:
        """The job found nothing."""
        key, mine = (scope, signature(job)), _requests(job)
        kept = self._smallest.get(key)
        if kept is None or (len(mine) <= len(kept) and all(_within(a, b) for a, b in zip(mine, kept, strict=False))):
            self._smallest[key] = mine


def _requests(job: Job) -> list[tuple[float, ...]]:
    return sorted(p.shape.figures for p in job.pods.values() if p.status == PENDING)


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
