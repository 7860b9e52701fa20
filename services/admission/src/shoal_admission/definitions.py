"""Reviews of PodGroups, Queues and Topologies. Pure.

What is refused here is told on the object by cluster-state and the scheduler too: these hooks only tell it earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from shoal_contracts.state import QueueRecord
from shoal_kube.admission import Request, Verdict
from shoal_model import normalise, objects, podgroup, queue, topology


class _Status(objects.Obj):
    requested: dict[str, str | int | float] | None = None


class _Standing(objects.Obj):
    """A queue with its status."""

    metadata: objects.Meta = msgspec.field(default_factory=objects.Meta)
    status: _Status = msgspec.field(default_factory=_Status)


MOST = 10
"""Names of queues in a message."""
T = TypeVar("T", objects.PodGroup, objects.Queue, objects.Topology)
_GROUPS = msgspec.json.Decoder(objects.PodGroup)
_QUEUES = msgspec.json.Decoder(objects.Queue)
_STANDING = msgspec.json.Decoder(_Standing)
_TOPOLOGIES = msgspec.json.Decoder(objects.Topology)


def _read(request: Request, decoder: msgspec.json.Decoder[T]) -> T | Verdict:
    """The object, or the verdict where there is nothing to look at: it goes, its spec is as before, or it can't be read."""
    try:
        found = decoder.decode(request.object)
        if found.metadata.deletion_timestamp:
            return Verdict()
        if request.operation == "UPDATE" and decoder.decode(request.old_object).spec == found.spec:
            return Verdict()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Verdict(False, f"the object can't be read: {error}")
    return found


def validate_group(request: Request) -> Verdict:
    """A PodGroup: its structure, and minimums that fit it."""
    found = _read(request, _GROUPS)
    if isinstance(found, Verdict):
        return found
    record = normalise.group(found)
    if record.error:
        return Verdict(False, record.error)
    update = request.operation == "UPDATE"
    complaints = podgroup.minimum_complaints(record)
    hard = [c.text for c in complaints if (c.on_update if update else c.on_create)]
    warnings = tuple(c.text for c in complaints if c.text not in hard)
    return Verdict(not hard, "; ".join(hard), warnings)


def validate_queue(request: Request, others: Mapping[str, QueueRecord] | None, *, compare_quotas: bool) -> Verdict:
    """A Queue: its amounts, and with a warning its place among ``others`` (None: not known, then nothing is said of it).

    A parent that is not there is nothing to warn of: it may be the next object of the same apply. One that has queues below
    it, or work in it, is not deleted.
    """
    if request.operation == "DELETE":
        return _delete_queue(request, others or {})
    found = _read(request, _QUEUES)
    if isinstance(found, Verdict):
        return found
    record = normalise.queue(found)
    warnings: list[str] = []
    if others is not None:
        tree = {**others, record.name: record}
        if told := queue.place_problem(record, tree, missing=False):
            warnings.append(told)
        elif compare_quotas:
            warnings += queue.quota_warnings(record, tree)
    return Verdict(not record.error, record.error, tuple(warnings))


def _delete_queue(request: Request, others: Mapping[str, QueueRecord]) -> Verdict:
    """``others`` is a moment late: a queue that is missing in the status and one that was just deleted are both possible."""
    try:
        found = _STANDING.decode(request.old_object)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Verdict()  # what can't be read may go
    name = found.metadata.name or request.name
    if below := sorted(q.name for q in others.values() if q.parent == name and q.name != name):
        return Verdict(
            False,
            f"cannot delete queue {name}: it has child queues [{', '.join(below[:MOST])}{' …' if len(below) > MOST else ''}];"
            " delete them first, or give them another parent",
        )
    requested = {k: v for k, v in (found.status.requested or {}).items() if str(v) not in ("", "0")}
    if requested:
        amounts = ", ".join(f"{resource} {amount}" for resource, amount in sorted(requested.items()))
        return Verdict(
            False,
            f"cannot delete queue {name}: its workloads request {amounts}; delete them first, or move them"
            " (spec.queue of their PodGroups)",
        )
    return Verdict()


def validate_topology(request: Request) -> Verdict:
    """A Topology: each name means one level."""
    found = _read(request, _TOPOLOGIES)
    if isinstance(found, Verdict):
        return found
    problems = topology.alias_problems(normalise.topology(found))
    return Verdict(not problems, "invalid topology aliases: " + "; ".join(problems) if problems else "")
