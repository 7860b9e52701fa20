"""What a stream holds, from its first message to the last one at the time of asking."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence

import nats.errors
from nats.aio.msg import Msg
from nats.js import api
from nats.js import errors as js_errors

from shoal_bus.connection import Connection
from shoal_bus.errors import Unavailable
from shoal_bus.pull import Reset, pull


async def history(connection: Connection, stream: str, filters: Sequence[str], batch: int = 256) -> AsyncIterator[Msg]:
    """The messages in order, once. Raises Unavailable where the stream is not there or breaks off."""
    config = api.ConsumerConfig(
        name=f"reader-{secrets.token_hex(8)}", ack_policy=api.AckPolicy.NONE,
        filter_subjects=list(filters), mem_storage=True, num_replicas=1,
        inactive_threshold=30, max_deliver=1, deliver_policy=api.DeliverPolicy.ALL,
    )  # fmt: skip
    try:
        made = await connection.js_of(stream).add_consumer(stream, config)
        left = made.num_pending or 0
        if not left:
            return
        number = 0
        async for message in pull(connection, stream, made.name, batch):
            number += 1
            if message.metadata.sequence.consumer != number:
                raise Unavailable(f"a message of {stream} was lost on the way")
            yield message
            left -= 1
            # What expires meanwhile does not come any more.
            if not left or not message.metadata.num_pending:
                return
    except (nats.errors.Error, js_errors.Error, Reset) as error:
        raise Unavailable(f"stream {stream} can't be read: {error}") from error
