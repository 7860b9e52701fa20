"""shoal replay: run the cycles of a scheduler again from its log, and compare what they decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from shoal_contracts.journal import (
    Applied,
    Assumed,
    AssumedGone,
    Barred,
    Decided,
    EvictionBackoff,
    Forgotten,
    Input,
    Removed,
    StartFailed,
    Step,
)
from shoal_core import Cluster, CycleResult, cycle
from shoal_core.results import digest
from shoal_core.settings import Settings

_MESSAGE: msgspec.json.Decoder[Input | Decided] = msgspec.json.Decoder(Input | Decided)


class BadLog(Exception):
    """A line is no message of the log; the message says which."""


@dataclass
class Replayed:
    """What came of it."""

    cycles: int = 0
    """Cycles that were run and compared."""
    different: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, cycle) of those that came to something else."""
    skipped: int = 0
    """Messages before the first leader's beginning, or after a gap."""
    last: CycleResult | None = None


def messages(lines: Iterable[bytes]) -> Iterable[Input | Decided]:
    """The messages of JSON lines. Raises BadLog."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _MESSAGE.decode(line)
            except msgspec.DecodeError as error:
                raise BadLog(f"line {number} is no message of the log: {error}") from error


def replay(log: Iterable[Input | Decided]) -> Replayed:
    """Run every cycle of the log again. Raises BadLog."""
    found = Replayed()
    cluster: Cluster | None = None
    epoch, result = 0, None
    for message in log:
        if isinstance(message, Decided):
            if result is None or message.epoch != epoch:
                found.skipped += 1
                continue
            found.cycles += 1
            if digest(result) != message.digest:
                found.different.append((message.epoch, message.cycle))
            found.last, result = result, None
            continue
        if message.gap:
            cluster = None
        elif message.settings:
            try:
                cluster = Cluster(msgspec.convert(message.settings, Settings))
            except msgspec.ValidationError as error:
                raise BadLog(f"settings of epoch {message.epoch}: {error}") from error
        epoch = message.epoch
        if cluster is None:
            found.skipped += 1
            continue
        for step in message.steps:
            _take(cluster, step)
        if message.last:
            result = cycle(cluster, now=message.now)
    return found


def _take(cluster: Cluster, step: Step) -> None:
    match step:
        case Applied(record=record):
            cluster.apply(record)
        case Removed(what=what, namespace=namespace, name=name):
            cluster.remove(what, namespace, name)
        case Assumed(uid=uid, node=node, groups=groups):
            cluster.assume(uid, node, tuple(groups))
        case AssumedGone(uid=uid):
            cluster.assume_gone(uid)
        case Forgotten(uid=uid):
            cluster.forget(uid)
        case Barred(uid=uid, barred=barred, refused=refused):
            cluster.bar(uid, barred, refused)
        case EvictionBackoff(uid=uid, on=on, why=why):
            cluster.set_eviction_backoff(uid, on, why)
        case StartFailed(namespace=namespace, name=name):
            cluster.start_failed(namespace, name)
