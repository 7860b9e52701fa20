"""Which replica owns which part of the nodes: one at a time, by Kubernetes Leases.

Each replica renews a Lease of its own: that it lives. One more Lease holds the table: part -> (owner, term). Only a part's
owner may hand it on while it lives; once its own Lease was not renewed for so long, anybody may take the part. A part
belongs to the living replica that ranks it highest (rendezvous hashing: few parts move when replicas come and go).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import msgspec

from shoal_bus import BusError
from shoal_contracts.subjects import GPU_PARTITIONS
from shoal_kube import Conflict, Kube, KubeError, NotFound
from shoal_kube.resources import LEASES
from shoal_model.objects import Meta
from shoal_model.quantity import rfc3339
from shoal_service import Context

MEMBER = "shoal.dev/member"
TABLE = "shoal-gpu-reservation"
OWNERS = "shoal.dev/owners"


class Part(msgspec.Struct, frozen=True):
    """Who owns a part, and in which term: it grows with every change of owner."""

    owner: str = ""
    term: int = 0


Owners = dict[int, Part]
_OWNERS = msgspec.json.Decoder(dict[int, Part])


def rank(part: int, identity: str) -> str:
    """The living replica with the highest rank of a part is to own it."""
    return hashlib.sha256(f"{part}/{identity}".encode()).hexdigest()


def wanted(part: int, alive: Collection[str]) -> str:
    """Who is to own the part."""
    return max(alive, key=lambda identity: rank(part, identity))


def moves(owners: Mapping[int, Part], alive: Collection[str], me: str) -> dict[int, Part]:
    """The parts whose owner this replica has to change: those of the dead that it is to own, and its own to hand on."""
    found = {}
    for part in range(GPU_PARTITIONS):
        now, heir = owners.get(part, Part()), wanted(part, alive)
        if now.owner == heir:
            continue
        if (now.owner not in alive and heir == me) or now.owner == me:
            found[part] = Part(heir, now.term + 1)
    return found


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str = ""


class _Lease(msgspec.Struct):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Leases(msgspec.Struct):
    items: list[_Lease] = []


_LIST = msgspec.json.Decoder(_Leases)
Change = Callable[[set[int]], Awaitable[None]]


class Ownership:
    """This replica's part in it. ``run`` in a task; ``serve(parts)`` is awaited each time round, and before the
    table shows a loss: it answers for these parts, and for no others."""

    def __init__(self, context: Context[Any], kube: Kube, serve: Change) -> None:
        self._context, self._kube, self._serve = context, kube, serve
        self.identity = context.identity
        self._duration = context.config.lease_seconds
        self._namespace = context.config.namespace
        self._name = f"{TABLE}-{hashlib.sha256(self.identity.encode()).hexdigest()[:12]}"
        self.parts: dict[int, int] = {}
        """Part -> term."""
        self._renewed = 0.0
        self._seen: dict[str, tuple[str, float]] = {}
        """Replica -> (version of its Lease, when that was first seen)."""
        self._made = False

    def valid(self) -> bool:
        """Whether this replica's parts are its own for sure."""
        return self._context.clock.monotonic() - self._renewed < self._duration * 0.7

    def term(self, part: int) -> int:
        """The term in which the part is owned; 0 if it is not."""
        return self.parts.get(part, 0) if self.valid() else 0

    async def run(self) -> None:
        """Renew, look, take and hand on, for ever; at the end hand everything on."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._duration / 2):
                        await self._turn()
                except (BusError, KubeError, TimeoutError, msgspec.DecodeError) as error:
                    self._context.log.info("ownership: again soon", error=str(error) or type(error).__name__)
                if self.parts and not self.valid():
                    self._context.log.warning("own lease not renewed: owning nothing")
                    await self._become({})
                await asyncio.sleep(self._duration / 6 * (0.8 + 0.4 * random.random()))
        finally:
            await asyncio.shield(self._leave())

    async def _turn(self) -> None:
        await self._renew()
        leases = _LIST.decode(await self._kube.get(f"{LEASES.path('', self._namespace)}?labelSelector={MEMBER}={TABLE}")).items
        table = next((lease for lease in leases if lease.metadata.name == TABLE), None)
        if table is None:
            await self._make_table()
            return
        owners = _OWNERS.decode((table.metadata.annotations or {}).get(OWNERS, "{}"))
        alive = self._alive(leases)
        if wanted(0, alive) == self.identity:
            await self._sweep(leases, alive)
        await self._become({p: found.term for p, found in owners.items() if found.owner == self.identity})
        if change := moves(owners, alive, self.identity):
            # What is handed on is let go first.
            await self._become({p: term for p, term in self.parts.items() if p not in change})
            await self._write({**owners, **change}, table.metadata.resource_version)

    def _alive(self, leases: list[_Lease]) -> set[str]:
        now = self._context.clock.monotonic()
        seen: dict[str, tuple[str, float]] = {}
        for lease in leases:
            holder, version = lease.spec.holder_identity, lease.metadata.resource_version
            if lease.metadata.name == TABLE or not holder:
                continue
            before = self._seen.get(holder)
            seen[holder] = before if before is not None and before[0] == version else (version, now)
        self._seen = seen
        return {self.identity} | {name for name, (_, at) in seen.items() if now - at < self._duration}

    async def _sweep(self, leases: list[_Lease], alive: set[str]) -> None:
        """Delete Leases of replicas that are dead for long."""
        now = self._context.clock.monotonic()
        for lease in leases:
            holder = lease.spec.holder_identity
            if lease.metadata.name == TABLE or holder in alive or now - self._seen.get(holder, ("", now))[1] < 60.0:
                continue
            try:
                await self._kube.delete(LEASES.path(lease.metadata.name, self._namespace), lease.metadata.uid)
            except NotFound:
                continue

    async def _become(self, parts: dict[int, int]) -> None:
        if parts != self.parts:
            self._context.log.info("owning", parts=sorted(parts))
        self.parts = parts
        await self._serve(set(parts))

    async def _renew(self) -> None:
        began = self._context.clock.monotonic()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "renewTime": rfc3339(self._context.clock.now()).replace("Z", ".000000Z"),
        }
        if self._made:
            try:
                await self._kube.merge_patch(LEASES.path(self._name, self._namespace), {"spec": spec})
                self._renewed = began
                return
            except NotFound:
                self._made = False
        await self._create(self._name, spec, {})
        self._made, self._renewed = True, began

    async def _make_table(self) -> None:
        try:
            await self._create(TABLE, {}, {OWNERS: "{}"})
        except Conflict:
            return

    async def _create(self, name: str, spec: dict[str, Any], notes: dict[str, str]) -> None:
        metadata = {"name": name, "namespace": self._namespace, "labels": {MEMBER: TABLE}, "annotations": notes}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        await self._kube.post(LEASES.path("", self._namespace), body)

    async def _write(self, owners: Owners, version: str) -> None:
        notes = {OWNERS: msgspec.json.encode(owners).decode()}
        body = {"metadata": {"resourceVersion": version, "annotations": notes}}
        try:
            await self._kube.merge_patch(LEASES.path(TABLE, self._namespace), body)
        except Conflict:
            return  # another replica wrote: look again next time

    async def _leave(self) -> None:
        try:
            await self._become({})
            await self._kube.call("DELETE", LEASES.path(self._name, self._namespace), retry=False)
        except (BusError, KubeError) as error:
            self._context.log.info("own lease not deleted", error=str(error))
