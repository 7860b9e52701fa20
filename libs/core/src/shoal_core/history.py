"""What happened to a pod group that its record does not show yet: annotations are written after the decision.

Kept with the group's ``Job`` for as long as the PodGroup of this UID exists. Times in seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal_core.rows import Job

SKEW = 5.0
"""Seconds that the clock of another leader may be ahead of ours."""


@dataclass(slots=True)
class History:
    """Of one PodGroup; 0: never."""

    started: float = 0.0
    """Its last start was decided."""
    evicted: float = 0.0
    """One of its pods was last evicted for another group."""
    stale_since: float = 0.0
    """It has been short of its minimum since then."""
    start_failed: bool = False
    """A member was refused while the gang started: it is not waited for."""
    spent: float = 0.0
    """The record's stale annotation that no longer holds: the gang was whole after it."""


def last_start(job: Job) -> float:
    """When the group last started (annotation ``last-start-timestamp``, or a start decided since)."""
    return max(job.record.last_start if job.record else 0.0, job.history.started)


def last_eviction(job: Job) -> float:
    """When the group last lost a pod to another (annotation ``last-eviction-timestamp``, or an eviction decided since)."""
    return max(job.record.last_eviction if job.record else 0.0, job.history.evicted)


def stale(job: Job, now: float, *, older: bool = False) -> float:
    """The gang is stale at ``now``: since when. A stamp from before it was whole, from the future, or (unless ``older``) from
    before this PodGroup was made does not count."""
    record, history = job.record, job.history
    stamp = record.stale_since if record else 0.0
    if record and stamp and stamp != history.spent and (older or stamp >= record.created) and stamp <= now + SKEW:
        history.stale_since = min(stamp, history.stale_since or stamp)
    elif not history.stale_since:
        history.stale_since = now
    return history.stale_since


def whole(job: Job) -> None:
    """The gang is not stale: the next time it is, its grace begins anew."""
    job.history.stale_since = 0.0
    job.history.start_failed = False
    job.history.spent = job.record.stale_since if job.record else 0.0
