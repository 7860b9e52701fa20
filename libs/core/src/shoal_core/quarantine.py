"""Odd input must not stop the rest: groups whose evaluation raised are put aside, records that can't be taken in as well.

Part of the cluster's state: the same inputs quarantine the same groups, so a replay comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal_contracts import state
from shoal_core.rows import Job, Key
from shoal_core.status import PENDING

FIRST, LONGEST = 10.0, 640.0
"""Seconds until a quarantined group is tried again: the first time, and at most; twice as long each time."""
MOST_ERRORS = 64
Object = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass
class _Case:
    """A group that is put aside: until when, how often, as it was then, and why."""

    until: float
    failures: int
    seen: object
    text: str


def _seen(job: Job) -> object:
    """What a group and its pods ask for: where that changes, it is tried anew."""
    record = job.record
    group = record and (record.uid, record.queue, record.min_member, record.min_subgroup, record.subgroups, record.topology,
                        record.priority_class, record.labels)  # fmt: skip
    pods = [
        (
            p.record.uid, p.record.subgroup, p.record.requests, p.record.share, p.record.node_selector, p.record.affinity,
            p.record.tolerations, p.record.spread, p.record.claims, p.record.volumes, p.record.labels, p.record.annotations,
        )
        for p in job.pods.values()
        if p.status == PENDING
    ]  # fmt: skip
    return group, pods


def _name(record: state.StateMessage) -> Object:
    kind = type(record).__name__.removesuffix("Record").lower()
    return kind, getattr(record, "namespace", ""), getattr(record, "name", "")


class Quarantine:
    """Which groups are put aside, and which records could not be taken in."""

    def __init__(self) -> None:
        self._cases: dict[Key, _Case] = {}
        self.refused: dict[Object, tuple[state.StateMessage | None, str]] = {}
        """Records that are not counted, and why."""
        self.errors: list[tuple[str, Exception]] = []
        """What was raised, for whoever logs it: (object, exception); the last ones."""

    def put(self, job: Job, now: float, error: Exception) -> None:
        """The evaluation of the group raised: it is put aside, longer each time."""
        before = self._cases.get(job.key)
        failures = before.failures + 1 if before else 1
        text = (
            f"put aside: its evaluation failed with an error of the scheduler ({type(error).__name__}: {error}"[:400]
            + "); it is tried again when the group or its pods change, and from time to time; please report this"
        )
        until = now + min(LONGEST, FIRST * 2.0 ** (failures - 1))
        self._cases[job.key] = _Case(until, failures, _seen(job), text)
        self._tell(f"group {job.key[0]}/{job.key[1]}", error)

    def holds(self, job: Job, now: float) -> str:
        """Why the group is put aside; empty if it is not."""
        if not self._cases or (case := self._cases.get(job.key)) is None:
            return ""
        if now < case.until and case.seen == _seen(job):
            return case.text
        return ""

    def reason(self, job: Job) -> tuple[str, str]:
        """(code, message) for the group's owner."""
        return "Quarantined", self._cases[job.key].text

    def gone(self, key: Key) -> None:
        """The group is gone."""
        self._cases.pop(key, None)

    def until(self, now: float) -> float:
        """When the next group is tried again, in seconds since the epoch."""
        return min((case.until for case in self._cases.values() if case.until > now), default=float("inf"))

    def taken(self, record: state.StateMessage) -> None:
        """The record was taken in."""
        if self.refused:
            self.refused.pop(_name(record), None)

    def removed(self, kind: str, namespace: str, name: str) -> None:
        """The object is gone."""
        if self.refused:
            self.refused.pop((kind, namespace, name), None)

    def refuse(self, record: state.StateMessage, error: Exception) -> None:
        """The record could not be taken in."""
        self.refused[_name(record)] = (record, f"{type(error).__name__}: {error}"[:400])
        self._tell(" ".join(_name(record)), error)

    def failed(self, what: str, error: Exception) -> None:
        """Something else about an object raised."""
        self._tell(what, error)

    def new_errors(self) -> list[tuple[str, Exception]]:
        """What was raised since this was last asked."""
        found, self.errors = self.errors, []
        return found

    def _tell(self, what: str, error: Exception) -> None:
        self.errors.append((what, error))
        del self.errors[:-MOST_ERRORS]


def attempt(quarantine: Quarantine, what: str, work: Callable[[], object]) -> bool:
    """Do ``work``; False if it raised."""
    try:
        work()
    except Exception as error:
        quarantine.failed(what, error)
        return False
    return True
