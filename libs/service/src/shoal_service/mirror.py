"""The state plane as a service sees it: records, deletions, and never a half-filled picture.

When the stream was made anew (NATS lost its data), it fills up again record by record. Until cluster-state says that it
is complete, nothing of it is told: else a reader would take room for free because its pods are not there yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shoal_contracts import streams, subjects
from shoal_contracts.state import StateMessage, SyncMark
from shoal_service.aside import decode
from shoal_service.main import Context

SYNCED = ("meta", "synced")


@dataclass(frozen=True)
class News:
    """One record that is new or changed (or gone: ``record`` None). An empty ``kind`` only says ``current``."""

    kind: str
    names: tuple[str, ...]
    record: StateMessage | None
    headers: dict[str, str]
    current: bool = False
    """All that the stream holds has been told."""
    mark: int = 0
    """Sequence of cluster-state's last mark: everything that the stream held before it has been told."""


async def mirror(context: Context[Any], kinds: Sequence[str]) -> AsyncIterator[News]:
    """News of these kinds, for ever. The first is told when the picture is complete."""
    filters = [subjects.state(kind, ">") for kind in (*kinds, "meta")]
    decoder = msgspec.json.Decoder(StateMessage)
    known: set[str] = set()
    incarnation = ""
    fresh: dict[str, News] | None = None
    marked = 0
    async for change in context.bus.follow(streams.STATE.name, filters):
        if change.incarnation != incarnation:
            incarnation, fresh, marked = change.incarnation, {}, 0
        if change.subject:
            try:
                kind, *names = subjects.parse(change.subject)[2]
            except ValueError as error:
                context.log.warning("message put aside", subject=change.subject, error=str(error))
                continue
            if change.data is None:
                if fresh is not None:
                    fresh.pop(change.subject, None)
                elif change.subject in known:
                    known.discard(change.subject)
                    yield News(kind, tuple(names), None, change.headers)
                continue
            record = decode(decoder, change.data, change.subject, context.log)
            if record is None:
                continue
            if isinstance(record, SyncMark):
                marked = change.seq
            elif fresh is not None:
                fresh[change.subject] = News(kind, tuple(names), record, change.headers)
            else:
                known.add(change.subject)
                yield News(kind, tuple(names), record, change.headers)
        if not change.caught_up:
            continue
        if fresh is None:
            yield News("", (), None, {}, current=True, mark=marked)
        elif marked:
            for subject in sorted(known - fresh.keys()):
                kind, *names = subjects.parse(subject)[2]
                yield News(kind, tuple(names), None, {})
            known = set(fresh)
            for news in fresh.values():
                yield news
            fresh = None
            yield News("", (), None, {}, current=True, mark=marked)
