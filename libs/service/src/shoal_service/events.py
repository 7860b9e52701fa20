"""User-facing events from a bounded queue: what can't be published is counted, and holds nothing up."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from shoal_bus import BusError, Item
from shoal_contracts import subjects
from shoal_contracts.events import CloudEvent, GroupEvent, PodEvent
from shoal_model.quantity import rfc3339
from shoal_service.main import Context
from shoal_service.metrics import Counter

QUEUE = 20_000
DROPPED = Counter("shoal_events_dropped", "User events that could not be published")


class Events:
    """Publishes CloudEvents to the event plane in the background."""

    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._queue: asyncio.Queue[Item] = asyncio.Queue(QUEUE)

    def say(
        self, queue: str, family: str, what: str, name: str, data: PodEvent | GroupEvent, mark: str, shard: str = ""
    ) -> None:
        """Queue an event; ``mark`` with ``what`` makes it unique. ``shard``: the service's own where it isn't given."""
        event = CloudEvent(
            id=f"{mark}-{what}", source=f"/shoal/{self._context.name}", type=f"dev.shoal.{family}.{what}.v1",
            subject=f"{data.namespace}/{name}", time=rfc3339(self._context.clock.now()),
            data=msgspec.Raw(msgspec.json.encode(data)),
        )  # fmt: skip
        where = subjects.event(queue or "-", family, what, data.namespace, name, shard=shard or self._context.config.shard)
        try:
            self._queue.put_nowait(Item(where, msgspec.json.encode(event), msg_id=event.id))
        except asyncio.QueueFull:
            DROPPED.inc()

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            items = [await self._queue.get()]
            while len(items) < 512 and not self._queue.empty():
                items.append(self._queue.get_nowait())
            try:
                await self._context.bus.publish_many(items)
            except BusError as error:
                DROPPED.inc(len(items))
                self._context.log.info("events not published", count=len(items), error=str(error))
