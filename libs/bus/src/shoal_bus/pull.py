"""Continuous pull from one consumer: requests overlap, so that messages keep coming (ADR-37)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import nats.errors
from nats.aio.msg import Msg

from shoal_bus.connection import Connection

HEARTBEAT = 2.0
EXPIRES = 30.0


class Reset(Exception):
    """The consumer is gone, silent or out of order: make it anew."""


async def pull(connection: Connection, stream: str, consumer: str, batch: int) -> AsyncIterator[Msg]:
    """Messages as they come; between half a batch and a batch is always asked for.

    Raises Reset when the server says that the consumer ended, or says nothing for two heartbeats, or reconnected.
    """
    nc, since = connection.nc, connection.reconnects
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, pending_msgs_limit=0, pending_bytes_limit=0)
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
    asked = 0

    async def ask(count: int) -> None:
        request = {"batch": count, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        await nc.publish(subject, json.dumps(request).encode(), reply=inbox)

    try:
        await ask(batch)
        asked = batch
        while True:
            try:
                message = await subscription.next_msg(timeout=2 * HEARTBEAT + 0.5)
            except (nats.errors.TimeoutError, TimeoutError) as error:
                raise Reset("no heartbeat") from error
            except nats.errors.Error as error:
                raise Reset(str(error) or type(error).__name__) from error
            if connection.reconnects != since:
                raise Reset("reconnected")
            headers = message.headers or {}
            status = headers.get("Status")
            if status is None:
                asked -= 1
                yield message
            elif status == "100":
                continue
            elif status in ("408", "404") or (status == "409" and "completed" in headers.get("Description", "").lower()):
                asked -= int(headers.get("Nats-Pending-Messages", asked))
            else:
                raise Reset(f"{status} {headers.get('Description', '')}")
            if asked <= batch // 2:
                await ask(batch - asked)
                asked = batch
    finally:
        if nc.is_connected and not subscription._closed:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error:
                pass  # the connection went in between: the server has forgotten it already
