"""Marks on pods, by which whatever binders still hold of a lost stream fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal_core import Cluster
from shoal_kube import Forbidden, Invalid
from shoal_service import Context

if TYPE_CHECKING:
    from shoal_scheduler.app import Config


@dataclass(frozen=True)
class Target:
    """A pod to be marked."""

    namespace: str
    name: str
    uid: str


def pending(cluster: Cluster) -> list[Target]:
    """Pods of the shard that wait: a binder may have a binding of each in its hands."""
    return [
        Target(p.record.namespace, p.record.name, p.record.uid)
        for p in cluster.pods.values()
        # An eviction is judged by its record in the stream before it is asked for, a binding only the second time.
        if p.pending
        and p.record.scheduler_name == cluster.scheduler_name
        # Epochs of other shards are others: their decisions would be taken for old ones.
        and (p.record.namespace, p.record.group) not in cluster.elsewhere
    ]


async def fence(
    context: Context[Config],
    targets: Iterable[Target],
    epoch: int,
    mark: Callable[[Target, str], Awaitable[object]],
    refused: Callable[[Target, Exception], None],
) -> None:
    """Mark all, before ``epoch`` is stored: a leader that dies on the way leaves a stream without an epoch, so that its
    successor does the same again. ``refused`` hears of pods that the API lets nobody mark."""

    async def one(target: Target) -> None:
        try:
            await mark(target, f"before-{epoch}")
        except (Forbidden, Invalid) as error:
            refused(target, error)

    async with asyncio.TaskGroup() as tasks:
        for target in targets:
            tasks.create_task(context.retry("scheduler.fence", lambda target=target: one(target)))
