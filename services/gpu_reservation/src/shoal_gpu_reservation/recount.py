"""Holds the ledger against a recount, from what it was told and from the API: the difference is a metric that stays 0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from shoal_gpu_reservation import metrics
from shoal_gpu_reservation.ledger import Key, Ledger
from shoal_kube import Kube, KubeError
from shoal_kube.resources import PODS
from shoal_model import gpu, labels, normalise, objects
from shoal_service import Context

COUNTED = (labels.ISOLATION, labels.GPU_GROUP)
"""Labels by which the API finds users: those with several devices, bound by others than our binders, are not found."""
SETTLE = 3.0
"""Seconds after which a difference is looked at again: the ledger may have been behind for a moment."""


class _Pods(msgspec.Struct):
    items: list[objects.Pod] = []


_PODS = msgspec.json.Decoder(_Pods)


async def from_api(kube: Kube) -> Ledger:
    """A ledger of what the API shows now; it knows no decisions. Raises KubeError."""
    found = Ledger()
    reservations = f"{PODS.path('', labels.RESERVATION_NAMESPACE)}?labelSelector={labels.APP}={labels.RESERVATION_APP}"
    for path in (reservations, *(f"{PODS.everywhere}?labelSelector={label}" for label in COUNTED)):
        for pod in _PODS.decode(await kube.get(path)).items:
            found.pod(normalise.pod(pod))
    return found


class Recount:
    """Compares, now and then."""

    def __init__(self, context: Context[Any], kube: Kube, ledger: Ledger) -> None:
        self._context, self._kube, self._ledger = context, kube, ledger

    async def run(self, mine: Callable[[str], bool]) -> None:
        """For ever, on the nodes that are ``mine``."""
        while True:
            await asyncio.sleep(self._context.config.recount)
            try:
                drift = await self._differences(mine)
                if drift:
                    await asyncio.sleep(SETTLE)
                    drift &= await self._differences(mine)
            except (KubeError, msgspec.DecodeError) as error:
                self._context.log.info("not recounted", error=str(error))
                continue
            metrics.DRIFT.set(len(drift))
            if drift:
                self._context.log.error("the ledger differs from a recount", groups=sorted(drift)[:20])

    async def _differences(self, mine: Callable[[str], bool]) -> set[Key]:
        own = self._ledger.differs(self._ledger.recounted())
        seen = await from_api(self._kube)
        known = Ledger()
        for record in self._ledger.pods.values():
            if gpu.is_reservation(record) or not record.labels.keys().isdisjoint(COUNTED):
                known.pod(record)
        return {key for key in own | _who_differs(known, seen) if mine(key[0])}


def _who_differs(known: Ledger, seen: Ledger) -> set[Key]:
    """Groups of which users or devices are not the same; a version alone is no difference."""

    def told(ledger: Ledger, key: Key) -> object:
        group = ledger.groups.get(key)
        return group and (set(group.users), {(r.uid, r.device) for r in group.reservations.values()})

    return {key for key in known.groups.keys() | seen.groups.keys() if told(known, key) != told(seen, key)}
