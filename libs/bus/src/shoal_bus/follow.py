"""A mirror of a stream that holds one message per subject: ordered, resumable, and never blind.

Guarantee: after each ``caught_up`` the reader has seen, for every subject of its filters, the last message that the
stream held, and a deletion for every subject that it saw before and that is gone. Within one subject the changes come
in order. It may see a message twice, and it may miss one that was overwritten by a later one.

Messages with a time to live (outcomes, say) go without a word when it is over: their subjects are not remembered, for a
list of all that there ever were would grow for ever, and after a reload no deletion is told of them.

What may break a follower, and what it does: the consumer is lost, the server restarts, messages arrive out of order:
it resumes after its last sequence. The stream was made anew or emptied (another creation time, or a last sequence
below its own): it loads the last message of every subject again, and tells deletions of what it did not see.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from shoal_bus.connection import Connection
from shoal_bus.pull import Reset, pull, reader
from shoal_contracts.decision import Header

log = logging.getLogger(__name__)
TTL = "Nats-TTL"
"""Header of a message that the server deletes after a time."""


@dataclass(frozen=True)
class Change:
    """One change. ``data`` None: the subject is gone. An empty ``subject``: only says that it has caught up."""

    subject: str
    data: bytes | None
    seq: int
    headers: dict[str, str]
    caught_up: bool
    incarnation: str


class _Info(msgspec.Struct):
    created: datetime | None = None
    ts: datetime | None = None
    """When the server answered."""


@dataclass
class _Place:
    """How far the reader is."""

    incarnation: str = ""
    last: int = 0
    loading: bool = True


async def incarnation(connection: Connection, stream: str) -> tuple[str, int, int]:
    """(creation time, first sequence, last sequence) of a stream. Raises nats errors."""
    reply = await connection.js_of(stream).stream_info(stream)
    return str(reply.created), reply.state.first_seq, reply.state.last_seq


async def age(connection: Connection, stream: str) -> float:
    """Seconds since the stream was made, by the server's clock alone. Raises nats errors, and ValueError for an odd answer."""
    reply = await connection.nc.request(
        f"{connection.api(stream)}.STREAM.INFO.{stream}", b"", timeout=connection.config.timeout
    )
    found = msgspec.json.decode(reply.data, type=_Info)
    if found.created is None or found.ts is None:
        raise ValueError(f"no times in what the server says of stream {stream}")
    return (found.ts - found.created).total_seconds()


async def follow(
    connection: Connection, stream: str, filters: Sequence[str], batch: int = 512, after: int = 0
) -> AsyncIterator[Change]:
    """Changes for ever; see the module for what is guaranteed. A missing stream or server is waited for.

    ``after``: the reader knows all up to this sequence of the stream as it is now.
    """
    place, known = _Place(last=after, loading=not after), set[str]()
    wait = 0.05
    while True:
        try:
            created, first, last = await incarnation(connection, stream)
            place.incarnation = place.incarnation or created
            if created != place.incarnation or last < place.last or (place.last and first > place.last + 1):
                # Another stream, or one that lost what this reader has passed.
                place.incarnation, place.last, place.loading = created, 0, True
            seen: set[str] = set()
            policy = api.DeliverPolicy.LAST_PER_SUBJECT if place.loading else api.DeliverPolicy.BY_START_SEQUENCE
            made = await reader(connection, stream, filters, policy, None if place.loading else place.last + 1)
            if not made.num_pending:
                for gone in _unseen(place, known, seen):
                    yield gone
                yield Change("", None, place.last, {}, True, created)
            number = 0
            async for message in pull(connection, stream, made.name, batch):
                wait = 0.05
                meta, headers = message.metadata, message.headers or {}
                number += 1
                if meta.sequence.consumer != number:
                    raise Reset("out of order")
                place.last = max(place.last, meta.sequence.stream)
                deleted = Header.DELETED in headers
                if deleted or TTL in headers:
                    known.discard(message.subject)
                else:
                    known.add(message.subject)
                    if place.loading:
                        seen.add(message.subject)
                yield Change(message.subject, None if deleted else message.data, meta.sequence.stream, headers, False, created)
                if meta.num_pending == 0:
                    for gone in _unseen(place, known, seen):
                        yield gone
                    yield Change("", None, place.last, {}, True, created)
        except (Reset, nats.errors.Error, js_errors.Error, OSError, TimeoutError) as error:
            log.info("follower of %s: %s; again in %.2f s", stream, str(error) or type(error).__name__, wait)
            await asyncio.sleep(wait)
            wait = min(1.0, wait * 2)


def _unseen(place: _Place, known: set[str], seen: set[str]) -> list[Change]:
    """After a reload: deletions of what was known before and was not seen again."""
    if not place.loading:
        return []
    place.loading = False
    gone = sorted(known - seen)
    known.intersection_update(seen)
    return [Change(subject, None, place.last, {}, False, place.incarnation) for subject in gone]
