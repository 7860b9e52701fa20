"""Keeps the log of inputs and decisions, from which every cycle of a leader can be run again (``shoal replay``)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from shoal_contracts import subjects
from shoal_contracts.base import encode, kind_of
from shoal_contracts.journal import (
    Applied,
    Assumed,
    AssumedGone,
    Barred,
    Decided,
    EvictionBackoff,
    Forgotten,
    Input,
    Removed,
    StartFailed,
    Step,
)
from shoal_contracts.state import ObjectRecord, StateMessage
from shoal_core import Cluster, CycleResult
from shoal_core.results import digest
from shoal_model.storage import KINDS
from shoal_scheduler import metrics
from shoal_service import Context

if TYPE_CHECKING:
    from shoal_scheduler.app import Config

MOST = 500_000
"""Steps that wait for the bus; more are dropped, and the log says so."""
PART = 200
"""Steps of one message."""
LARGEST = 512 * 1024
"""Bytes of one message, about: a message of more steps is parted."""


class Journal:
    """Changes the cluster and writes down how. ``run`` publishes what was written down."""

    def __init__(self, context: Context[Config], cluster: Cluster) -> None:
        self._context, self._cluster = context, cluster
        self._steps: list[Step] = []
        self._standing: dict[tuple[str, str, str], Applied] | None = {}
        """Until ``begin``: the last word on each object, for the log begins with what is there then."""
        self._waiting: deque[Input | Decided] = deque()
        self._held = 0
        self._gap = 0
        self._told = False
        self._some = asyncio.Event()
        self.epoch = 0

    def begin(self) -> None:
        """This process leads from now on."""
        assert self._standing is not None
        self._steps = list(self._standing.values())
        self._standing = None

    # changes

    def apply(self, record: StateMessage) -> None:
        """See Cluster."""
        if self._standing is None:
            self._steps.append(Applied(record=record))
        else:
            self._standing[_key(record)] = Applied(record=record)
        self._cluster.apply(record)

    def remove(self, what: str, namespace: str, name: str) -> None:
        """See Cluster."""
        if self._standing is None:
            self._steps.append(Removed(what=what, namespace=namespace, name=name))
        else:
            self._standing.pop((what, namespace, name), None)
        self._cluster.remove(what, namespace, name)

    def assume(self, uid: str, node: str, groups: tuple[str, ...] = ()) -> None:
        """See Cluster."""
        self._steps.append(Assumed(uid=uid, node=node, groups=list(groups)))
        self._cluster.assume(uid, node, groups)

    def assume_gone(self, uid: str) -> None:
        """See Cluster."""
        self._steps.append(AssumedGone(uid=uid))
        self._cluster.assume_gone(uid)

    def forget(self, uid: str) -> None:
        """See Cluster."""
        self._steps.append(Forgotten(uid=uid))
        self._cluster.forget(uid)

    def bar(self, uid: str, barred: bool, refused: bool = False) -> None:
        """See Cluster."""
        self._steps.append(Barred(uid=uid, barred=barred, refused=refused))
        self._cluster.bar(uid, barred, refused)

    def set_eviction_backoff(self, uid: str, on: bool, why: str = "") -> None:
        """See Cluster."""
        self._steps.append(EvictionBackoff(uid=uid, on=on, why=why))
        self._cluster.set_eviction_backoff(uid, on, why)

    def start_failed(self, namespace: str, name: str) -> None:
        """See Cluster."""
        self._steps.append(StartFailed(namespace=namespace, name=name))
        self._cluster.start_failed(namespace, name)

    # cycles

    def begins(self, number: int, now: float) -> None:
        """The cycle of this number runs on the cluster as it stands."""
        steps, self._steps = self._steps, []
        if self._held + len(steps) > MOST:
            self._gap += len(steps)
            metrics.LOG_DROPPED.labels(self._context.config.shard).inc(len(steps))
            return
        parts = [steps[i : i + PART] for i in range(0, len(steps), PART)] or [[]]
        for i, part in enumerate(parts):
            first = not self._told
            self._waiting.append(
                Input(
                    epoch=self.epoch, cycle=number, part=i, steps=part, last=i == len(parts) - 1, now=now, gap=self._gap,
                    settings=msgspec.to_builtins(self._cluster.settings) if first else {},
                )
            )  # fmt: skip
            self._told, self._gap = True, 0
        self._held += len(steps)
        self._some.set()

    def ended(self, number: int, result: CycleResult) -> None:
        """The cycle of this number gave this back."""
        starts = sum(len(g.members) for g in result.gangs)
        self._waiting.append(
            Decided(
                epoch=self.epoch, cycle=number, digest=digest(result), starts=starts, evictions=len(result.evictions),
                waiting=len(result.waiting),
            )
        )  # fmt: skip
        self._some.set()

    # publishing

    async def run(self) -> None:
        """Publish in order, for ever; waits where the bus is not there."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                message = self._waiting.popleft()
                await self._publish(message)
                if isinstance(message, Input):
                    self._held -= len(message.steps)

    async def _publish(self, message: Input | Decided) -> None:
        if isinstance(message, Input) and len(message.steps) > 1 and len(encode(message)) > LARGEST:
            await self._halves(message)
            return
        what = "input" if isinstance(message, Input) else "decision"
        where = subjects.log(what, shard=self._context.config.shard)

        async def write() -> None:
            await self._context.bus.publish(where, message)

        await self._context.retry("scheduler.log", write)

    async def _halves(self, message: Input) -> None:
        half = len(message.steps) // 2
        replace = msgspec.structs.replace
        await self._publish(replace(message, steps=message.steps[:half], last=False))
        await self._publish(replace(message, steps=message.steps[half:], gap=0, settings={}))


def _key(record: StateMessage) -> tuple[str, str, str]:
    """(kind, namespace, name), as a later ``remove`` names it; for the kinds that the scheduler follows."""
    kind = KINDS[record.type][0] if isinstance(record, ObjectRecord) else kind_of(record).partition(".")[0]
    return kind, getattr(record, "namespace", ""), getattr(record, "name", "")
