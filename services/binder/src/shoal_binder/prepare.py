"""Prepares a pod for its binding: its claims get volumes, its part of GPUs is reserved, its container told, its labels set.
Each step can be done again, and labels are taken back where the binding fails for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from shoal_binder import metrics, sharing
from shoal_binder.bind import Finish, Look, Post, Step
from shoal_binder.volumes import VolumeBinding
from shoal_bus import Delivery, Unavailable
from shoal_contracts import subjects
from shoal_contracts.decision import Decision, Result
from shoal_contracts.queries import Reserved, ReserveReply, ReserveRequest
from shoal_contracts.state import Toleration
from shoal_kube import AlreadyExists, Conflict, Kube, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import CONFIG_MAPS, PODS
from shoal_model import labels
from shoal_model.objects import Meta
from shoal_service import Context
from shoal_service.failpoint import reach

HEARTBEAT = 3.0
PAUSE = 0.05
ASK = 5.0
"""Seconds for one answer."""
_CONFIG_MAP = msgspec.json.Decoder(sharing.ConfigMap)
_REPLY = msgspec.json.Decoder(ReserveReply)


Aside = Callable[[], AbstractAsyncContextManager[None]]
"""For the time of a long wait: the decision does not count as one in flight."""


class _Head(msgspec.Struct):
    metadata: Meta = msgspec.field(default_factory=Meta)


_HEAD = msgspec.json.Decoder(_Head)


@dataclass(frozen=True)
class _Device:
    """A device, or why it can't be had."""

    uuid: str
    refusal: str = ""


def needed(decision: Decision) -> bool:
    """Whether the pod has to be prepared at all."""
    return bool(decision.labels or decision.gpu_groups or decision.volumes)


class Preparation:
    """Does it, and takes it back."""

    def __init__(self, context: Context[Any], kube: Kube, recorder: Recorder, aside: Aside) -> None:
        self._context, self._kube, self._recorder, self._aside = context, kube, recorder, aside
        self._volumes = VolumeBinding(kube, context.clock, context.config.volume_timeout)

    async def prepare(self, decision: Decision, pod: sharing.Pod, delivery: Delivery, *, again: bool = False) -> Step:
        """To be posted next, on condition of the version that the labels gave the pod; or looked at again, or refused.

        ``again``: most likely all of it stands already. Raises KubeError.
        """
        began = self._context.clock.monotonic()
        if decision.volumes:
            async with self._waiting(delivery):
                why = await self._volumes.bind(decision)
            if why:
                return Finish(Result.REFUSED, why)
            await reach("binder.after_volumes")
        devices: list[str] = []
        if decision.gpu_groups:
            if why := sharing.problem(pod):
                return Finish(Result.REFUSED, why)
            await reach("binder.before_reserve")
            found = await self._reserve(decision, pod, delivery)
            await reach("binder.after_reserve")
            if refusals := [d.refusal for d in found if d.refusal]:
                return Finish(Result.REFUSED, refusals[0])
            devices = [d.uuid for d in found]
            told = await self._tell_container(decision, pod, devices, again)
            if told is not None:
                return told
            await reach("binder.after_config")
        wanted = sharing.wanted_labels(pod, decision)
        version = pod.metadata.resource_version
        if changes := sharing.label_changes(pod.metadata.labels or {}, wanted):
            metadata = {"uid": decision.uid, "resourceVersion": version, "labels": changes}
            try:
                answer = await self._kube.merge_patch(PODS.path(decision.pod, decision.namespace), {"metadata": metadata})
            except (Conflict, NotFound):
                return Look()
            version = _HEAD.decode(answer).metadata.resource_version
        await reach("binder.after_labels")
        if decision.labels or decision.gpu_groups:
            about = Ref("v1", "Pod", decision.namespace, decision.pod, decision.uid)
            isolation = wanted.get(labels.ISOLATION, "")
            self._recorder.event(about, "Normal", "GpuShare", sharing.told(decision, devices, isolation))
        metrics.PREPARED_SECONDS.observe(self._context.clock.monotonic() - began)
        return Post(version)

    async def _reserve(self, decision: Decision, pod: sharing.Pod, delivery: Delivery) -> list[_Device]:
        """The devices of the decision's groups, in their order."""
        bears = [
            Toleration(key=t.key, operator=t.operator or "Equal", value=t.value, effect=t.effect)
            for t in pod.spec.tolerations or ()
        ]
        deadline = self._context.clock.monotonic() + self._context.config.reservation_timeout
        async with self._waiting(delivery), asyncio.TaskGroup() as tasks:
            found = [tasks.create_task(self._ask(decision, group, bears, deadline)) for group in decision.gpu_groups]
        return [task.result() for task in found]

    @asynccontextmanager
    async def _waiting(self, delivery: Delivery) -> AsyncIterator[None]:
        """For what may need long, or never come: those who need none of it are not to wait for it."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(HEARTBEAT)
                await delivery.in_progress()

        async with self._aside():
            heart = asyncio.create_task(beat())
            try:
                yield
            finally:
                heart.cancel()
                # Without a beat the decision is delivered again, no more.
                await asyncio.gather(heart, return_exceptions=True)

    async def _ask(self, decision: Decision, group: str, bears: list[Toleration], deadline: float) -> _Device:
        where = subjects.reserve(subjects.partition(decision.node))
        request = ReserveRequest(
            node=decision.node, group=group, namespace=decision.namespace, pod=decision.pod, tolerations=bears
        )
        last = "gpu-reservation does not answer: is it running?"
        while True:
            try:
                reply = _REPLY.decode(await self._context.bus.request(where, request, ASK))
            except (Unavailable, msgspec.DecodeError) as error:
                self._context.log.debug("no answer about a shared GPU", node=decision.node, error=str(error))
            else:
                if reply.state is Reserved.READY:
                    return _Device(reply.device)
                if reply.state is Reserved.REFUSED:
                    return _Device("", f"no GPU of {decision.node} could be reserved: {reply.message}")
                last = reply.message or last
            if self._context.clock.monotonic() > deadline:
                return _Device("", f"no GPU of {decision.node} was reserved in time: {last}")
            await asyncio.sleep(PAUSE)

    async def _tell_container(self, decision: Decision, pod: sharing.Pod, devices: list[str], again: bool) -> Step | None:
        """Write the ConfigMaps; None if they stand. A later decision's are left alone."""
        bodies = sharing.config_maps(pod, decision, devices, self._context.config.cdi)
        answers = await asyncio.gather(*(self._write(body, decision.namespace, again) for body in bodies))
        return next((answer for answer in answers if answer is not None), None)

    async def _write(self, body: dict[str, Any], namespace: str, again: bool) -> Step | None:
        try:
            if not again:
                await self._kube.post(CONFIG_MAPS.path("", namespace), body)
                return None
        except AlreadyExists:
            pass
        path = CONFIG_MAPS.path(body["metadata"]["name"], namespace)
        try:
            found = _CONFIG_MAP.decode(await self._kube.get(path))
        except NotFound:
            return Look() if not again else await self._write(body, namespace, again=False)
        why = sharing.stands(found, body)
        if why is None:
            return None
        if why:
            return Finish(Result.REFUSED, why)
        if sharing.is_newer(found, body):
            return Look()
        metadata = body["metadata"] | {"resourceVersion": found.metadata.resource_version}
        try:
            await self._kube.put(path, body | {"metadata": metadata})
        except (Conflict, NotFound):
            return Look()
        return None

    async def take_back(self, decision: Decision, pod: sharing.Pod) -> None:
        """The pod is not bound and won't be by this decision: its labels go. Its ConfigMaps go with the pod, or are
        written anew by the next decision."""
        changes = sharing.label_changes(pod.metadata.labels or {}, {})
        if not changes:
            return
        metadata = {"uid": decision.uid, "resourceVersion": pod.metadata.resource_version, "labels": changes}
        try:
            await self._kube.merge_patch(PODS.path(decision.pod, decision.namespace), {"metadata": metadata})
        except NotFound:
            return
        except KubeError as error:
            # A next binding writes all of it anew.
            self._context.log.info("preparation not taken back", pod=decision.pod, error=str(error))
