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

T = TypeVar("T", objects.PodGroup, objects.Queue, objects.Topology)
_GROUPS = msgspec.json.Decoder(objects.PodGroup)
_QUEUES = msgspec.json.Decoder(objects.Queue)
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
    """A Queue: its amounts, and with a warning its place among ``others`` (None: not known, then nothing is said of it)."""
    found = _read(request, _QUEUES)
    if isinstance(found, Verdict):
        return found
    record = normalise.queue(found)
    warnings: list[str] = []
    if others is not None:
        tree = {**others, record.name: record}
        if told := queue.place_problem(record, tree):
            warnings.append(told)
        elif compare_quotas:
            warnings += queue.quota_warnings(record, tree)
    return Verdict(not record.error, record.error, tuple(warnings))


def validate_topology(request: Request) -> Verdict:
    """A Topology: each name means one level."""
    found = _read(request, _TOPOLOGIES)
    if isinstance(found, Verdict):
        return found
    problems = topology.alias_problems(normalise.topology(found))
    return Verdict(not problems, "invalid topology aliases: " + "; ".join(problems) if problems else "")
