"""Answers requests for shared GPUs: makes the reservation of a group if there is none, and says which device it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shoal_contracts.queries import Reserved, ReserveReply, ReserveRequest
from shoal_contracts.subjects import partition
from shoal_gpu_reservation import metrics
from shoal_gpu_reservation.capacity import Capacity
from shoal_gpu_reservation.ledger import Key, Ledger, Reservation
from shoal_gpu_reservation.manifest import TERM, PodSettings, pod
from shoal_gpu_reservation.ownership import Ownership
from shoal_kube import AlreadyExists, Conflict, Kube, KubeError, NotFound, Throttled, Unreachable
from shoal_kube.resources import PODS
from shoal_model import labels
from shoal_service import Context
from shoal_service.failpoint import reach

PATIENCE = 2.0
"""Seconds that a request is kept waiting for its device."""
HOLD = 5.0
"""Seconds for which a group counts as used after a request: its decision may not have been seen yet."""
REFUSAL = 5.0
"""Seconds for which requests are refused after a reservation got no device."""
AGAIN = 1.0
"""Seconds after which the making of a reservation that nobody has seen since is tried again."""


class Desk:
    """One replica's. ``ledger`` is kept up to date by others, who say so with ``tell``."""

    def __init__(
        self, context: Context[Any], kube: Kube, ledger: Ledger, ownership: Ownership, settings: PodSettings, capacity: Capacity
    ) -> None:
        self._context, self._kube, self._ledger, self._ownership = context, kube, ledger, ownership
        self._settings, self._capacity = settings, capacity
        self._held: dict[Key, float] = {}
        self._refused: dict[Key, tuple[float, str]] = {}
        self._made: dict[Key, float] = {}
        self._terms: dict[str, int] = {}
        """Reservation uid -> term in which it was last given out."""
        self._news: dict[Key, asyncio.Event] = {}
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}

    def tell(self, key: Key) -> None:
        """The group changed."""
        if event := self._news.pop(key, None):
            event.set()
        group = self._ledger.groups.get(key)
        standing = group.reservation if group else None
        if standing and standing.device and (made := self._made.pop(key, None)):
            metrics.ALLOCATION.observe(self._context.clock.monotonic() - made)

    def is_held(self, key: Key) -> bool:
        """Whether the group was asked for a moment ago."""
        return self._held.get(key, 0.0) > self._context.clock.monotonic()

    def owns(self, node: str) -> bool:
        """Whether the node is this replica's own for sure."""
        return self._ownership.term(partition(node)) > 0

    def forget(self, uid: str) -> None:
        """The reservation is about to be deleted: it is not given out again without a look at the API."""
        self._terms.pop(uid, None)

    def held(self) -> set[Key]:
        """Groups that were asked for a moment ago."""
        now = self._context.clock.monotonic()
        self._held = {key: until for key, until in self._held.items() if until > now}
        self._made = {key: at for key, at in self._made.items() if now - at < 120}
        self._refused = {key: found for key, found in self._refused.items() if found[0] > now}
        known = {uid for group in self._ledger.groups.values() for uid in group.reservations}
        self._terms = {uid: term for uid, term in self._terms.items() if uid in known}
        if len(self._news) > 2 * len(self._held) + 64:
            # Nobody waits for those any more.
            self._news = {key: event for key, event in self._news.items() if key in self._held}
        return set(self._held)

    def refuse(self, key: Key, message: str) -> None:
        """Its reservation was given up: say so to those who ask."""
        self._refused[key] = (self._context.clock.monotonic() + REFUSAL, message)
        self._made.pop(key, None)
        self.tell(key)

    @asynccontextmanager
    async def alone(self, key: Key) -> AsyncIterator[None]:
        """Nobody else of this replica changes the group meanwhile."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """The device of the group on the node, now or soon."""
        key = (request.node, request.group)
        self._held[key] = self._context.clock.monotonic() + HOLD
        try:
            reply = await self._reserve(key, request)
        except (Unreachable, Throttled) as error:
            reply = ReserveReply(state=Reserved.PENDING, message=error.message)
        except KubeError as error:
            reply = ReserveReply(state=Reserved.REFUSED, message=f"the reservation can't be made: {error.message}")
        self._held[key] = self._context.clock.monotonic() + HOLD
        metrics.REQUESTS.labels(reply.state).inc()
        return reply

    async def _reserve(self, key: Key, request: ReserveRequest) -> ReserveReply:
        clock = self._context.clock
        deadline = clock.monotonic() + PATIENCE
        while True:
            if not (term := self._ownership.term(partition(request.node))):
                return ReserveReply(state=Reserved.PENDING, message="the node has another owner now")
            if found := self._refused.get(key):
                if found[0] > clock.monotonic():
                    return ReserveReply(state=Reserved.REFUSED, message=found[1])
                del self._refused[key]
            event = self._news.setdefault(key, asyncio.Event())
            async with self.alone(key):
                if reply := await self._look(key, request, term):
                    return reply
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - clock.monotonic())):
                    await event.wait()
            except TimeoutError:
                return ReserveReply(state=Reserved.PENDING, message="the reservation has no device yet")

    async def _look(self, key: Key, request: ReserveRequest, term: int) -> ReserveReply | None:
        """The answer, if there is one now; makes the reservation if there is none."""
        group = self._ledger.groups.get(key)
        standing = group.reservation if group else None
        if standing is None:
            if not (group and group.reservations):
                return await self._make(key, request, term)
        elif standing.lost:
            return ReserveReply(state=Reserved.REFUSED, message=standing.lost)
        elif standing.device and await self._renewed(standing, term):
            return ReserveReply(state=Reserved.READY, device=standing.device)
        return None

    async def _make(self, key: Key, request: ReserveRequest, term: int) -> ReserveReply | None:
        """Make the reservation; the answer if no device of the node is left for it."""
        now = self._context.clock.monotonic()
        if now - self._made.get(key, -AGAIN) < AGAIN:
            return None
        # Before anything is awaited: of two groups that ask at once for the last device the second sees the first.
        verdict = self._capacity.verdict(key, [made for made in self._made if self.is_held(made)])
        if not verdict.now:
            self._made.pop(key, None)
            return None if verdict.later else ReserveReply(state=Reserved.REFUSED, message=verdict.why)
        self._made.setdefault(key, now)
        body = pod(*key, str(term), request.tolerations, self._settings)
        await reach("gpu.before_create")
        try:
            await self._kube.post(PODS.path("", labels.RESERVATION_NAMESPACE), body)
        except AlreadyExists:
            return None  # made before, or not gone yet: the state plane will tell
        except (Unreachable, Throttled):
            raise
        except KubeError:
            self._made.pop(key, None)
            raise
        await reach("gpu.after_create")
        return None

    async def _renewed(self, standing: Reservation, term: int) -> bool:
        """Whether the reservation bears the mark of this term: a deletion that an owner before us has under way fails."""
        if self._terms.get(standing.uid) == term:
            return True
        metadata = {"uid": standing.uid, "resourceVersion": standing.version, "annotations": {TERM: str(term)}}
        await reach("gpu.before_renew")
        try:
            await self._kube.merge_patch(PODS.path(standing.name, labels.RESERVATION_NAMESPACE), {"metadata": metadata})
        except (Conflict, NotFound):
            return False  # it changed: what it is now comes by the state plane
        self._terms[standing.uid] = term
        return True
