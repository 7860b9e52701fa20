"""Continuous pull from one consumer: requests overlap, so that messages keep coming (ADR-37)."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api

from shoal_bus.connection import Connection

HEARTBEAT = 2.0
EXPIRES = 30.0
RENEW = 256
"""Requests after which another inbox is taken: the server remembers each request that went into another account until the
inbox of its answers is gone."""


async def reader(
    connection: Connection, stream: str, filters: Sequence[str], policy: api.DeliverPolicy, start: int | None = None
) -> api.ConsumerInfo:
    """Make a consumer for one reader, which the server forgets 30 s after it was last used. Raises nats errors."""
    config = api.ConsumerConfig(
        name=f"reader-{secrets.token_hex(8)}", ack_policy=api.AckPolicy.NONE, filter_subjects=list(filters), mem_storage=True,
        num_replicas=1, inactive_threshold=30, max_deliver=1, deliver_policy=policy, opt_start_seq=start,
    )  # fmt: skip
    return await connection.js_of(stream).add_consumer(stream, config)


class Reset(Exception):
    """The consumer is gone, silent or out of order: make it anew."""


class _Inbox:
    """An inbox, and how many messages may still come to it."""

    def __init__(self, connection: Connection, queue: asyncio.Queue[tuple[_Inbox, Msg]]) -> None:
        self._nc = connection.nc
        self._queue = queue
        self.subject = self._nc.new_inbox()
        self._subscription: Subscription | None = None
        self.asked = 0
        self.requests = 0

    async def _take(self, message: Msg) -> None:
        self._queue.put_nowait((self, message))

    async def ask(self, subject: str, count: int) -> None:
        """Ask for ``count`` messages more."""
        if self._subscription is None:
            self._subscription = await self._nc.subscribe(
                self.subject, cb=self._take, pending_msgs_limit=0, pending_bytes_limit=0
            )
        request = {"batch": count, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        await self._nc.publish(subject, json.dumps(request).encode(), reply=self.subject)
        self.asked += count
        self.requests += 1

    async def close(self) -> None:
        """Take no more."""
        if self._subscription and self._nc.is_connected and not self._subscription._closed:
            try:
                await self._subscription.unsubscribe()
            except nats.errors.Error:
                pass  # the connection went in between: the server has forgotten it already


async def pull(connection: Connection, stream: str, consumer: str, batch: int) -> AsyncIterator[Msg]:
    """Messages as they come; between half a batch and a batch is always asked for.

    Raises Reset when the server says that the consumer ended, or says nothing for two heartbeats, or reconnected.
    """
    since = connection.reconnects
    subject = f"{connection.api(stream)}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
    # Bounded by what is asked for, and a heartbeat each two seconds.
    queue: asyncio.Queue[tuple[_Inbox, Msg]] = asyncio.Queue()
    inboxes = [_Inbox(connection, queue)]
    try:
        await inboxes[-1].ask(subject, batch)
        while True:
            if queue.empty():
                try:
                    async with asyncio.timeout(2 * HEARTBEAT + 0.5):
                        inbox, message = await queue.get()
                except TimeoutError as error:
                    raise Reset("no heartbeat") from error
            else:
                inbox, message = queue.get_nowait()
            if connection.reconnects != since:
                raise Reset("reconnected")
            headers = message.headers or {}
            status = headers.get("Status")
            if status is None:
                inbox.asked -= 1
                yield message
            elif status == "100":
                continue
            elif status in ("408", "404") or (status == "409" and "completed" in headers.get("Description", "").lower()):
                inbox.asked -= int(headers.get("Nats-Pending-Messages", inbox.asked))
            else:
                raise Reset(f"{status} {headers.get('Description', '')}")
            while len(inboxes) > 1 and inboxes[0].asked <= 0:
                await inboxes.pop(0).close()
            asked = sum(i.asked for i in inboxes)
            if asked <= batch // 2:
                if inboxes[-1].requests >= RENEW:
                    inboxes.append(_Inbox(connection, queue))
                await inboxes[-1].ask(subject, batch - asked)
    except nats.errors.Error as error:
        raise Reset(str(error) or type(error).__name__) from error
    finally:
        for inbox in inboxes:
            await inbox.close()
