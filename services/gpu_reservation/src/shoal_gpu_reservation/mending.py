"""Carries repairs out: looks at the API once more, then deletes reservations and evicts users, each on condition of its
UID (and version), and says so in events."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from shoal_gpu_reservation import metrics
from shoal_gpu_reservation.desk import Desk
from shoal_gpu_reservation.ledger import Key, Reservation, User
from shoal_gpu_reservation.manifest import pod_name
from shoal_gpu_reservation.repair import Found, Repair
from shoal_kube import Conflict, Kube, KubeError, NotFound, Recorder, Ref, Throttled
from shoal_kube.resources import PODS
from shoal_model import gpu, labels, normalise, objects
from shoal_service import Context
from shoal_service.failpoint import reach

AT_A_TIME = 16
LIMIT = 10.0
"""Seconds for one repair."""


class _Pods(msgspec.Struct):
    items: list[objects.Pod] = []


_PODS = msgspec.json.Decoder(_Pods)
_POD = msgspec.json.Decoder(objects.Pod)


class Mender:
    """Mends what ``repair.Watch`` found."""

    def __init__(self, context: Context[Any], kube: Kube, recorder: Recorder, desk: Desk) -> None:
        self._context, self._kube, self._recorder, self._desk = context, kube, recorder, desk

    async def mend(self, repairs: list[Repair]) -> None:
        """All of them, some at a time. What fails is found again."""
        gate = asyncio.Semaphore(AT_A_TIME)

        async def one(repair: Repair) -> None:
            async with gate:
                try:
                    async with asyncio.timeout(LIMIT), self._desk.alone(repair.key):
                        await self._mend(repair)
                except (Conflict, NotFound) as error:
                    self._context.log.info("repair: looked old", found=repair.found, error=str(error))
                except (KubeError, TimeoutError, msgspec.DecodeError) as error:
                    self._context.log.warning("not repaired yet", found=repair.found, what=repair.message, error=str(error))

        async with asyncio.TaskGroup() as tasks:
            for repair in repairs:
                tasks.create_task(one(repair))

    async def _mend(self, repair: Repair) -> None:
        idle = repair.found in (Found.RELEASED, Found.UNUSED)
        if idle and (self._desk.is_held(repair.key) or await self._used(repair.key) or self._desk.is_held(repair.key)):
            return
        if repair.found is Found.UNPROTECTED and await self._protected(repair.key):
            return
        for user in repair.evict:
            if not self._desk.owns(repair.key[0]):
                return
            await self._evict(user, repair)
        for reservation in repair.delete:
            await reach("gpu.before_delete")
            await self._delete(reservation, repair)
            await reach("gpu.after_delete")
        if repair.found is Found.SILENT:
            self._desk.refuse(repair.key, repair.message)
        metrics.REPAIRS.labels(repair.found).inc()
        log = self._context.log.info if repair.found is Found.RELEASED else self._context.log.warning
        log("repaired", found=repair.found, what=repair.message)

    async def _used(self, key: Key) -> bool:
        """Whether a pod of the node names the group, as the API has it. Raises KubeError."""
        node, group = key
        for selector in (f"{labels.GPU_GROUP}={group}", f"{labels.GPU_GROUP_PREFIX}{group}"):
            path = f"{PODS.everywhere}?labelSelector={selector}&fieldSelector=spec.nodeName={node}"
            found = _PODS.decode(await self._kube.get(path)).items
            if any(gpu.is_user(normalise.pod(p)) for p in found):
                return True
        return False

    async def _protected(self, key: Key) -> bool:
        try:
            path = PODS.path(pod_name(*key), labels.RESERVATION_NAMESPACE)
            found = _POD.decode(await self._kube.get(path))
        except NotFound:
            return False
        return found.metadata.deletion_timestamp is None and gpu.groups_of(found.metadata.labels or {}) == [key[1]]

    async def _evict(self, user: User, repair: Repair) -> None:
        about = Ref("v1", "Pod", user.namespace, user.pod, user.uid)
        try:
            await self._kube.evict(user.namespace, user.pod, user.uid)
        except NotFound:
            return
        except Throttled as error:
            self._recorder.event(about, "Warning", repair.found, f"{repair.message}; it can't be evicted: {error.message}")
            raise
        self._recorder.event(about, "Warning", repair.found, f"{repair.message}; the pod is evicted")

    async def _delete(self, reservation: Reservation, repair: Repair) -> None:
        namespace = labels.RESERVATION_NAMESPACE
        grace = 0 if repair.found is Found.LOST else None
        path = PODS.path(reservation.name, namespace)
        self._desk.forget(reservation.uid)
        await self._kube.delete(path, reservation.uid, reservation.version, grace)
        kind = "Normal" if repair.found is Found.RELEASED else "Warning"
        about = Ref("v1", "Pod", namespace, reservation.name, reservation.uid)
        self._recorder.event(about, kind, repair.found, f"{repair.message}; the reservation is deleted")
