"""Kubernetes Events on the objects concerned: the same event within ten minutes is counted, not written again.

An event is written when it first happens; when its ten minutes are over, and it was repeated in them, its ``count`` and
``lastTimestamp`` are brought up to date.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from shoal_kube.errors import AlreadyExists, KubeError, NotFound
from shoal_kube.resources import EVENTS
from shoal_kube.transport import Kube
from shoal_model.quantity import rfc3339

log = logging.getLogger(__name__)
QUIET = 600.0
QUEUE = 2000
REMEMBERED = 20_000
"""So many events of the last ten minutes are known; of more the oldest are forgotten."""
FORGOTTEN = 8
"""So many events are forgotten at most when another comes: it must not take long."""
SWEEP = 30.0
"""Seconds between two looks for repeated events whose ten minutes are over."""
LONGEST = 1000


@dataclass(frozen=True)
class Ref:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass
class _Event:
    """An event that was queued: when first, when last (wall clock), and how often."""

    about: Ref
    kind: str
    reason: str
    message: str
    at: str
    last: str
    count: int = 1

    @property
    def namespace(self) -> str:
        """That of the Event object."""
        return self.about.namespace or "default"

    @property
    def name(self) -> str:
        """That of the Event object, the same whenever it is asked for."""
        about = self.about
        mark = hashlib.sha256(f"{about.uid}{about.kind}{self.reason}{self.message}{self.at}".encode()).hexdigest()[:16]
        return f"{about.name[:200]}.{mark}"


class Recorder:
    """Writes events from a bounded queue; what does not fit is counted in ``dropped``."""

    def __init__(self, kube: Kube, component: str, clock: Any) -> None:
        self._kube, self._component, self._clock = kube, component, clock
        self._queue: asyncio.Queue[tuple[_Event, bool]] = asyncio.Queue(QUEUE)
        """Events to write, and whether only their count changed."""
        self._said: OrderedDict[Hashable, float] = OrderedDict()
        """Events of the last ten minutes -> when first (monotonic), oldest first."""
        self._events: dict[Hashable, _Event] = {}
        self.dropped = 0

    def event(self, about: Ref, kind: str, reason: str, message: str) -> None:
        """Queue an event of ``kind`` Normal or Warning."""
        key = (about.uid, about.kind, about.namespace, about.name, reason, message)
        self._forget(FORGOTTEN)
        at = rfc3339(self._clock.now())
        if known := self._events.get(key):
            known.count += 1
            known.last = at
            return
        self._said[key] = self._clock.monotonic()
        found = self._events[key] = _Event(about, kind, reason, message, at, at)
        self._put(found, False)

    def _forget(self, most: int) -> None:
        """Forget up to ``most`` events that are ten minutes old, or too many; what was repeated is told by its count."""
        now, said = self._clock.monotonic(), self._said
        while said and most:
            most -= 1
            key, since = next(iter(said.items()))
            if now - since < QUIET and len(said) < REMEMBERED:
                return
            del said[key]
            known = self._events.pop(key, None)
            if known is not None and known.count > 1:
                self._put(known, True)

    def _put(self, found: _Event, again: bool) -> None:
        try:
            self._queue.put_nowait((found, again))
        except asyncio.QueueFull:
            self.dropped += 1

    @property
    def backlog(self) -> int:
        """Events that are not written yet."""
        return self._queue.qsize()

    async def run(self) -> None:
        """Write the queued events until cancelled."""
        while True:
            try:
                async with asyncio.timeout(SWEEP):
                    found, again = await self._queue.get()
            except TimeoutError:
                self._forget(REMEMBERED)
                continue
            try:
                await (self._count(found) if again else self._write(found))
            except (AlreadyExists, NotFound):
                continue
            except KubeError as error:
                self.dropped += 1
                about = found.about
                log.info("event %s on %s/%s not written: %s", found.reason, about.kind, about.name, error)

    async def _count(self, found: _Event) -> None:
        patch = {"count": found.count, "lastTimestamp": found.last}
        await self._kube.merge_patch(EVENTS.path(found.name, found.namespace), patch)

    async def _write(self, found: _Event) -> None:
        about = found.about
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": found.name, "namespace": found.namespace},
            "involvedObject": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
            "type": found.kind,
            "reason": found.reason,
            "message": found.message[:LONGEST],
            "source": {"component": self._component},
            "firstTimestamp": found.at,
            "lastTimestamp": found.last,
            "count": 1,
        }
        await self._kube.post(EVENTS.path("", found.namespace), body)
