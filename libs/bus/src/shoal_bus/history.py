"""What a stream holds, from its first message to the last one at the time of asking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import nats.errors
from nats.aio.msg import Msg
from nats.js import api
from nats.js import errors as js_errors

from shoal_bus.connection import Connection
from shoal_bus.errors import Unavailable
from shoal_bus.pull import Reset, pull, reader


async def history(connection: Connection, stream: str, filters: Sequence[str], batch: int = 256) -> AsyncIterator[Msg]:
    """The messages in order, once. Raises Unavailable where the stream is not there or breaks off."""
    try:
        made = await reader(connection, stream, filters, api.DeliverPolicy.ALL)
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
