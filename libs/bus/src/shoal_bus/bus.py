"""All that a service may do on NATS, in one object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import errors as js_errors

from shoal_bus import consume, follow, history, publish
from shoal_bus.connection import BusConfig, Callback, Connection, opened
from shoal_bus.ensure import ensure_consumer, ensure_stream
from shoal_bus.errors import BusError, Unavailable
from shoal_contracts.base import Message
from shoal_contracts.decision import Header
from shoal_contracts.streams import Consumer, Stream

log = logging.getLogger(__name__)
DELETED_TTL = 3600.0
"""Seconds that a deletion marker lives: longer than any reader may be away without a reload."""


@dataclass(frozen=True)
class Stored:
    """A message as the stream holds it."""

    subject: str
    data: bytes
    seq: int
    headers: dict[str, str]


class Served:
    """A subject on which requests are answered."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def stop(self) -> None:
        """Answer no more."""
        try:
            await self._subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            log.info("not unsubscribed: %s", str(error) or type(error).__name__)


class Bus:
    """The bus of one process. ``Bus.connect`` makes one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: BusConfig) -> AsyncIterator[Bus]:
        """Connect for the time of the block. Raises Unavailable when no server answers in time."""
        async with opened(config) as connection:
            yield cls(connection)

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._connection.connected

    async def ended(self) -> None:
        """Wait until the connection was closed for good. Raises Unavailable then."""
        await self._connection.ended()

    def on_reconnect(self, callback: Callback) -> None:
        """Call ``callback`` each time the server is back: owners make their streams again."""
        self._connection.on_reconnect(callback)

    async def ensure(self, streams: Iterable[Stream], consumers: Iterable[Consumer] = ()) -> None:
        """Make streams and consumers, or bring them up to date. Raises NotAllowed, Unavailable."""
        for stream in streams:
            await ensure_stream(self._connection, stream)
        for consumer in consumers:
            await ensure_consumer(self._connection, consumer)

    async def publish(
        self,
        subject: str,
        message: Message | bytes,
        *,
        expect: int | None = None,
        expect_subject: str | None = None,
        msg_id: str | None = None,
        ttl: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store one message; returns its sequence. Raises Conflict, Unavailable, Unknown."""
        item = publish.Item(subject, publish.body(message), headers or {}, expect, expect_subject, msg_id, ttl)
        return await publish.publish(self._connection, item)

    async def history(self, stream: str, filters: Sequence[str]) -> AsyncIterator[bytes]:
        """The messages that a stream holds, in order, once. Raises Unavailable."""
        async for message in history.history(self._connection, stream, filters):
            yield message.data

    async def snapshot(self, stream: str, filters: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """(subject, data) of what a stream with one message per subject holds now; deletions have no data. Raises
        Unavailable."""
        async for message in history.history(self._connection, stream, filters):
            yield message.subject, b"" if Header.DELETED in (message.headers or {}) else message.data

    async def publish_many(self, items: Sequence[publish.Item], window: int = 512) -> list[int]:
        """Store many in a pipeline, not atomic; returns their sequences. Raises as ``publish``."""
        return await publish.publish_many(self._connection, items, window)

    async def publish_each(self, items: Sequence[publish.Item], window: int = 512) -> list[int | BusError]:
        """Store many, each for itself; the sequence of each, or why it has none."""
        return await publish.publish_each(self._connection, items, window)

    async def commit(self, items: Sequence[publish.Item], batch_id: str) -> publish.Committed:
        """Store all or nothing. Raises Conflict, Unavailable, Unknown."""
        return await publish.commit(self._connection, items, batch_id)

    async def delete_marker(self, subject: str) -> int:
        """Tell followers that the subject is gone; the marker itself goes after an hour."""
        return await self.publish(subject, b"", ttl=DELETED_TTL, headers={Header.DELETED: "1"})

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject, or None. Raises Unavailable."""
        try:
            found = await self._connection.js_of(stream).get_last_msg(stream, subject, direct=False)
        except js_errors.NotFoundError:
            return None
        except (nats.errors.Error, js_errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error
        return Stored(found.subject or subject, found.data or b"", found.seq or 0, found.headers or {})

    async def purge(self, stream: str, subject: str) -> None:
        """Remove all messages of a subject (followers don't notice). Raises Unavailable."""
        try:
            await self._connection.js_of(stream).purge_stream(stream, subject=subject)
        except (nats.errors.Error, js_errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error

    async def incarnation(self, stream: str) -> str:
        """The creation time of a stream. Raises Unavailable when there is none."""
        try:
            return (await follow.incarnation(self._connection, stream))[0]
        except (nats.errors.Error, js_errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error

    async def age(self, stream: str) -> float:
        """Seconds since a stream was made, by the server's clock. Raises Unavailable where that is not known."""
        try:
            return await follow.age(self._connection, stream)
        except (nats.errors.Error, js_errors.Error, OSError, TimeoutError, ValueError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error

    async def last_seq(self, stream: str) -> int:
        """The last sequence of a stream. Raises Unavailable when there is none."""
        try:
            return (await follow.incarnation(self._connection, stream))[2]
        except (nats.errors.Error, js_errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error

    def follow(self, stream: str, filters: Sequence[str], after: int = 0) -> AsyncIterator[follow.Change]:
        """A mirror of the subjects; see ``shoal_bus.follow``."""
        return follow.follow(self._connection, stream, filters, after=after)

    def consume(self, consumer: Consumer, batch: int = 256) -> AsyncIterator[consume.Delivery]:
        """Work from a shared consumer; see ``shoal_bus.consume``."""
        return consume.consume(self._connection, consumer, batch)

    async def request(self, subject: str, message: Message | bytes, timeout: float = 5.0) -> bytes:
        """Ask and wait for one answer. Raises Unavailable."""
        try:
            return (await self._connection.nc.request(subject, publish.body(message), timeout=timeout)).data
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"{subject}: {str(error) or type(error).__name__}") from error

    async def serve(
        self,
        subject: str,
        handler: Callable[[bytes], Awaitable[Message]],
        queue: str = "",
        tasks: asyncio.TaskGroup | None = None,
        limit: int = 256,
    ) -> Served:
        """Answer requests on ``subject``; replicas with the same ``queue`` share them.

        With ``tasks`` up to ``limit`` requests are worked on at a time, else one after the other. A handler that fails
        with a BusError leaves the request without an answer. Raises Unavailable.
        """
        gate = asyncio.Semaphore(limit)

        async def answer(message: Msg) -> None:
            try:
                if message.reply:
                    await message.respond(publish.body(await handler(message.data)))
            except (BusError, nats.errors.Error, OSError) as error:
                log.info("no answer on %s: %s", subject, str(error) or type(error).__name__)

        async def answer_beside(message: Msg) -> None:
            await gate.acquire()
            assert tasks is not None
            tasks.create_task(answer(message)).add_done_callback(lambda _: gate.release())

        try:
            found = await self._connection.nc.subscribe(subject, queue=queue, cb=answer_beside if tasks else answer)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"{subject}: {str(error) or type(error).__name__}") from error
        served = Served(found)
        try:
            await self._connection.nc.flush()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            await served.stop()
            raise Unavailable(f"{subject}: {str(error) or type(error).__name__}") from error
        except asyncio.CancelledError:
            await served.stop()
            raise
        return served
