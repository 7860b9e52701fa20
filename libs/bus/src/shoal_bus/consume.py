"""Work from a durable consumer that replicas share: each delivery is acknowledged, put off or ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg

from shoal_bus.connection import Connection
from shoal_bus.pull import Reset, pull
from shoal_contracts.streams import Consumer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """One message to be worked on. Exactly one of ``ack``, ``nak``, ``term`` ends it; else it comes again."""

    subject: str
    data: bytes
    seq: int
    headers: dict[str, str]
    delivered: int
    """How often it was delivered, this time included."""
    _message: Msg

    async def _say(self, what: str) -> None:
        try:
            match what:
                case "ack":
                    await self._message.ack()
                case "term":
                    await self._message.term()
                case _:
                    await self._message.in_progress()
        except (nats.errors.Error, OSError) as error:
            # It is delivered again, and whoever works on it sees that it was done.
            log.info("could not %s %s: %s", what, self.subject, error)

    async def ack(self) -> None:
        """It is done."""
        await self._say("ack")

    async def nak(self, delay: float) -> None:
        """Deliver it again after ``delay`` seconds."""
        try:
            await self._message.nak(delay=delay)
        except (nats.errors.Error, OSError) as error:
            log.info("could not put off %s: %s", self.subject, error)

    async def term(self) -> None:
        """Never deliver it again."""
        await self._say("term")

    async def in_progress(self) -> None:
        """It is being worked on: start its time limit anew."""
        await self._say("in_progress")


async def consume(connection: Connection, consumer: Consumer, batch: int = 256) -> AsyncIterator[Delivery]:
    """Deliveries for ever. A consumer or server that is lost is waited for; whoever owns it makes it again."""
    wait = 0.05
    while True:
        try:
            async for message in pull(connection, consumer.stream, consumer.name, batch):
                wait = 0.05
                meta = message.metadata
                yield Delivery(
                    message.subject,
                    message.data,
                    meta.sequence.stream,
                    message.headers or {},
                    meta.num_delivered,
                    message,
                )
        except (Reset, nats.errors.Error, OSError) as error:
            log.info("consumer %s: %s; again in %.1f s", consumer.name, error, wait)
            await asyncio.sleep(wait)
            wait = min(2.0, wait * 2)
