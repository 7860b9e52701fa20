"""Writes to streams: one, many in a pipeline, or an atomic batch (ADR-50), each under conditions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import nats.errors
from nats.js import errors as js_errors

from shoal_bus.connection import Connection
from shoal_bus.errors import BusError, Conflict, NotAllowed, Unavailable, Unknown
from shoal_contracts.base import Message, encode

EXPECT = "Nats-Expected-Last-Subject-Sequence"
EXPECT_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
MAX_BATCH = 1000
CONFLICTS = frozenset({10071, 10164, 10070})
Headers = dict[str, str]


@dataclass(frozen=True)
class Item:
    """A message to be stored. ``expect`` is the last sequence that its subject (or ``expect_subject``) must have."""

    subject: str
    data: bytes
    headers: Headers = field(default_factory=dict)
    expect: int | None = None
    expect_subject: str | None = None
    msg_id: str | None = None
    ttl: float | None = None
    """Seconds that the message lives; None: as long as the stream keeps it."""

    def all_headers(self) -> Headers | None:
        """The headers with the conditions among them."""
        found = dict(self.headers)
        if self.expect is not None:
            found[EXPECT] = str(self.expect)
            if self.expect_subject:
                found[EXPECT_SUBJECT] = self.expect_subject
        if self.msg_id:
            found["Nats-Msg-Id"] = self.msg_id
        if self.ttl is not None:
            found["Nats-TTL"] = f"{max(1, round(self.ttl))}s"
        return found or None


@dataclass(frozen=True)
class Committed:
    """The sequences that an atomic batch was stored under: ``first`` to ``last``."""

    first: int
    last: int


def body(message: Message | bytes) -> bytes:
    """The bytes of a message."""
    return message if isinstance(message, bytes) else encode(message)


def _refused(code: int, text: str) -> BusError:
    if code in CONFLICTS:
        return Conflict(code, text)
    return NotAllowed(f"{code}: {text}") if 400 <= code < 500 else Unavailable(f"{code}: {text}")


async def publish(connection: Connection, item: Item) -> int:
    """Store one message and return its sequence. Raises Conflict, Unavailable (no such stream, or no connection),
    Unknown (no answer in time)."""
    try:
        ack = await connection.js.publish(item.subject, item.data, headers=item.all_headers())
    except js_errors.NoStreamResponseError as error:
        raise Unavailable(f"no stream takes {item.subject}") from error
    except js_errors.APIError as error:
        raise _refused(error.err_code or error.code or 0, error.description or "") from error
    except (nats.errors.TimeoutError, TimeoutError) as error:
        raise Unknown(f"no answer for {item.subject}") from error
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(str(error) or type(error).__name__) from error
    return ack.seq


async def publish_many(connection: Connection, items: Sequence[Item], window: int = 512) -> list[int]:
    """Store many, in order, up to ``window`` unanswered at a time; not atomic. Returns the sequences.

    Raises as ``publish`` for the first that failed, after all answers are in: what was stored stays stored.
    """
    found: list[int] = []
    for answer in await publish_each(connection, items, window):
        if isinstance(answer, BusError):
            raise answer
        found.append(answer)
    return found


async def publish_each(connection: Connection, items: Sequence[Item], window: int = 512) -> list[int | BusError]:
    """Store many, each for itself, up to ``window`` unanswered at a time; the sequence of each, or why it has none."""
    found: list[int | BusError] = []
    for start in range(0, len(items), window):
        part = await asyncio.gather(
            *(publish(connection, item) for item in items[start : start + window]), return_exceptions=True
        )
        for answer in part:
            if isinstance(answer, BaseException) and not isinstance(answer, BusError):
                raise answer
            found.append(answer)
    return found


async def commit(connection: Connection, items: Sequence[Item], batch_id: str) -> Committed:
    """Store all or nothing (ADR-50). At most 1,000 items, into one stream.

    Raises Conflict (refused, nothing stored), Unavailable (nothing stored), Unknown (read back), ValueError.
    """
    if not 1 <= len(items) <= MAX_BATCH:
        raise ValueError(f"a batch holds 1 to {MAX_BATCH} messages, not {len(items)}")
    last = len(items)
    committing = False
    try:
        for number, item in enumerate(items, 1):
            headers = (item.all_headers() or {}) | {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number == last:
                headers["Nats-Batch-Commit"] = "1"
                committing = True
            if number in (1, last):
                # The first is answered at once, so that a refusal is known before the rest is sent.
                reply = await connection.nc.request(item.subject, item.data, headers=headers, timeout=connection.config.timeout)
                answer = json.loads(reply.data) if reply.data else {}
                if error := answer.get("error"):
                    raise _refused(error.get("err_code", 0), error.get("description", ""))
                if number == last:
                    seq, count = int(answer["seq"]), int(answer.get("count", last))
                    return Committed(seq - count + 1, seq)
            else:
                await connection.nc.publish(item.subject, item.data, headers=headers)
    except nats.errors.NoRespondersError as error:
        raise Unavailable(f"no stream takes {items[0].subject}") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        if committing:
            raise Unknown(f"batch {batch_id}: {str(error) or type(error).__name__}") from error
        raise Unavailable(str(error) or type(error).__name__) from error
    raise AssertionError("the last message returns or raises")
