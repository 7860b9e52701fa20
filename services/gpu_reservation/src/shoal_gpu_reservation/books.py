"""Publishes the ledger on the state plane, one record for each shared GPU of the nodes that this replica owns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shoal_bus import BusError, Item
from shoal_bus.bus import DELETED_TTL
from shoal_contracts import streams, subjects
from shoal_contracts.base import encode
from shoal_contracts.decision import Header
from shoal_contracts.state import GpuGroupRecord, NodeRecord
from shoal_gpu_reservation.ledger import Group, Key, Ledger
from shoal_model import labels
from shoal_model.quantity import number
from shoal_service import Context

EVERY = 0.5
COMPARE = 10.0
"""Seconds between two looks at what the stream really holds: it may have lost it, or have it from an owner before."""


def device_mib(node: NodeRecord | None) -> float:
    """Memory of each GPU of the node; 0 where it does not say."""
    text = node.labels.get(labels.GPU_MEMORY_LABEL, "") if node else ""
    return float(number(text, 15) or 0)


def record(group: Group, memory: float) -> GpuGroupRecord:
    """The group as others are to see it."""
    standing = group.reservation
    return GpuGroupRecord(
        node=group.node, group=group.name, device=standing.device if standing else "",
        reservation=standing.name if standing else "", used=round(group.used(memory), 6),
        users=sorted(f"{u.namespace}/{u.pod}" for u in group.users.values()),
    )  # fmt: skip


class Books:
    """Keeps what is published in step. ``touch`` when a group changed."""

    def __init__(
        self, context: Context[Any], ledger: Ledger, nodes: dict[str, NodeRecord], mine: Callable[[str], bool]
    ) -> None:
        self._context, self._ledger, self._nodes, self._mine = context, ledger, nodes, mine
        self._touched: set[Key] = set()

    def touch(self, key: Key) -> None:
        """The group changed."""
        self._touched.add(key)

    def _item(self, key: Key) -> Item:
        where = subjects.state("gpu", *key)
        group = self._ledger.groups.get(key)
        if group is None:
            return Item(where, b"", {Header.DELETED: "1"}, ttl=DELETED_TTL)
        return Item(where, encode(record(group, device_mib(self._nodes.get(group.node)))))

    async def run(self) -> None:
        """Publish, for ever."""
        clock = self._context.clock
        compared = -COMPARE
        while True:
            await asyncio.sleep(EVERY)
            keys = {key for key in self._touched if self._mine(key[0])}
            self._touched.clear()
            try:
                if clock.monotonic() - compared >= COMPARE:
                    async with asyncio.timeout(COMPARE):
                        keys |= await self._differing()
                    compared = clock.monotonic()
                if keys:
                    await self._context.bus.publish_many([self._item(key) for key in sorted(keys)])
            except (BusError, TimeoutError) as error:
                self._touched |= keys
                self._context.log.info("ledger not published, again soon", error=str(error) or type(error).__name__)

    async def _differing(self) -> set[Key]:
        """Groups of our nodes that the stream has otherwise than the ledger. Raises BusError."""
        held: dict[Key, bytes] = {}
        async for subject, data in self._context.bus.snapshot(streams.STATE.name, [subjects.state("gpu", ">")]):
            _, node, group = subjects.parse(subject)[2]
            held[node, group] = data
        wanted = {key: self._item(key).data for key in self._ledger.groups if self._mine(key[0])}
        stale = {key for key, data in held.items() if data and key not in wanted and self._mine(key[0])}
        return stale | {key for key, data in wanted.items() if held.get(key) != data}
