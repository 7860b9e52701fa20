"""Leader election by a Kubernetes Lease, and the epoch that it guards.

A holder that has not renewed for the lease's duration may be replaced; followers measure that from when they saw the
Lease change, by their own monotonic clock. A leader that can't renew stops leading before others may begin.
"""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, datetime
from typing import Any

import msgspec

from shoal_kube.errors import Conflict, KubeError, NotFound
from shoal_kube.resources import LEASES
from shoal_kube.transport import Kube
from shoal_model import labels
from shoal_model.objects import Meta
from shoal_model.quantity import number

log = logging.getLogger(__name__)


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str = ""
    renew_time: str = ""
    lease_duration_seconds: int = 0
    lease_transitions: int = 0


class _Lease(msgspec.Struct):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_DECODER = msgspec.json.Decoder(_Lease)


def _micro(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Election:
    """One candidate for one Lease. ``run`` in a task; ``leading`` is set while it leads."""

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str, clock: Any, duration: float = 6.0) -> None:
        self._kube, self._namespace, self._name, self.identity = kube, namespace, name, identity
        self._clock, self.duration = clock, duration
        self.renew_every = duration / 8
        self.leading = asyncio.Event()
        self.lost = asyncio.Event()
        """Set when a leader has lost the Lease."""
        self._seen: tuple[str, float] = ("", 0.0)
        self._theirs = duration
        """How long the Lease of the other lasts, as it states."""
        self._renewed = 0.0
        self._mine: tuple[str, int] | None = None
        """(resourceVersion, transitions) of the Lease as we wrote it last."""
        self._recorded = 0
        """The epoch that it records then."""
        self._write = asyncio.Lock()

    async def _read(self) -> _Lease | None:
        try:
            return _DECODER.decode(await self._kube.call("GET", LEASES.path(self._name, self._namespace), retry=False))
        except NotFound:
            return None

    def _body(self, transitions: int, version: str = "") -> dict[str, Any]:
        now = _micro(self._clock.now())
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if version:
            metadata["resourceVersion"] = version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, math.ceil(self.duration)),
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    async def _try(self) -> bool:
        """Take or renew the Lease; True if it is ours now. Raises KubeError."""
        began = self._clock.monotonic()
        async with self._write:
            if self._mine is not None:
                # Nobody else has written it, or the version is refused and it is read the next time.
                version, transitions = self._mine
                self._mine = None
                self._note(await self._patch(self._body(transitions, version)), began)
                return True
            lease = await self._read()
            if lease is None:
                path = LEASES.path("", self._namespace)
                self._note(await self._kube.call("POST", path, self._body(0), retry=False), began)
                return True
            holder, version = lease.spec.holder_identity, lease.metadata.resource_version
            if self._seen[0] != version:
                self._seen = (version, began)
            self._theirs = lease.spec.lease_duration_seconds if lease.spec.lease_duration_seconds > 0 else self.duration
            if holder not in ("", self.identity) and began - self._seen[1] < self._theirs:
                return False
            transitions = lease.spec.lease_transitions + (holder != self.identity)
            self._note(await self._patch(self._body(transitions, version)), began)
            return True

    async def _patch(self, body: dict[str, Any]) -> bytes:
        path = LEASES.path(self._name, self._namespace)
        return await self._kube.call("PATCH", path, body, content="application/merge-patch+json", retry=False)

    def _note(self, answer: bytes, began: float) -> None:
        """The Lease is ours, renewed when the request began."""
        lease = _DECODER.decode(answer)
        self._mine, self._renewed = (lease.metadata.resource_version, lease.spec.lease_transitions), began
        self._recorded = recorded_epoch(lease.metadata)

    async def run(self) -> None:
        """Stand for election until cancelled; returns (with ``lost`` set) when the Lease was lost."""
        try:
            while True:
                why = ""
                try:
                    async with asyncio.timeout(self.duration / 2):
                        ours = await self._try()
                except (KubeError, TimeoutError) as error:
                    why = str(error) or type(error).__name__
                    log.info("lease %s: %s", self._name, why)
                    # A conflict may be our own write, answered too late: the next look says who holds it.
                    ours = self.leading.is_set()
                if self.leading.is_set():
                    if not ours or self._clock.monotonic() - self._renewed > self.duration * 0.7:
                        silence = self._clock.monotonic() - self._renewed
                        log.warning(
                            "lease %s is lost, not renewed for %.1f s: %s", self._name, silence, why or "somebody holds it"
                        )
                        return
                elif ours:
                    log.info("lease %s is ours", self._name)
                    self.leading.set()
                await asyncio.sleep(self._pause())
        finally:
            if self.leading.is_set():
                self.leading.clear()
                self.lost.set()

    def _pause(self) -> float:
        """Seconds to the next look. A follower looks twice for each renewal, since it counts from when it saw one, and again
        right when the Lease that it saw runs out."""
        if self.leading.is_set():
            return self.renew_every
        left, often = self._seen[1] + self._theirs - self._clock.monotonic(), self.renew_every / 2
        return min(often, left + 0.005) if left > 0 else often

    def valid(self) -> bool:
        """Whether the Lease is ours for sure: nobody else may have taken it yet."""
        return self.leading.is_set() and self._clock.monotonic() - self._renewed < self.duration * 0.7

    async def release(self) -> None:
        """Let the next one take over at once; call it when the work has stopped."""
        try:
            lease = await self._read()
            if lease and lease.spec.holder_identity == self.identity:
                patch = {
                    "metadata": {"resourceVersion": lease.metadata.resource_version},
                    "spec": {"holderIdentity": ""},
                }
                await self._patch(patch)
        except KubeError as error:
            log.info("lease %s not released: %s", self._name, error)

    async def raise_epoch(self, at_least: int) -> int:
        """Write max(recorded epoch, ``at_least``) + 1 to the Lease and return it.

        Raises Conflict when somebody else wrote the Lease meanwhile, or holds it.
        """
        async with self._write:
            if self._mine is not None:
                version, recorded = self._mine[0], self._recorded
            else:
                lease = await self._read()
                if lease is None or lease.spec.holder_identity != self.identity:
                    raise Conflict(409, "NotLeader", "the lease is not ours")
                version, recorded = lease.metadata.resource_version, recorded_epoch(lease.metadata)
            epoch = max(recorded, at_least) + 1
            self._mine = None
            await self._patch({"metadata": {"resourceVersion": version, "annotations": {labels.EPOCH: str(epoch)}}})
            return epoch


def recorded_epoch(meta: Meta) -> int:
    """The epoch that a Lease's annotations record; 0 if none."""
    text = (meta.annotations or {}).get(labels.EPOCH, "0")
    return number(text) or 0


async def epoch_of(kube: Kube, namespace: str, name: str) -> int:
    """The epoch recorded on a Lease; 0 where there is no Lease. Raises KubeError."""
    try:
        return recorded_epoch(_DECODER.decode(await kube.get(LEASES.path(name, namespace))).metadata)
    except NotFound:
        return 0
