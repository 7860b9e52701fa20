"""Kubernetes Events on the objects concerned: the same event within ten minutes is counted, not written again."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from shoal_kube.errors import AlreadyExists, KubeError
from shoal_kube.resources import EVENTS
from shoal_kube.transport import Kube
from shoal_model.quantity import rfc3339

log = logging.getLogger(__name__)
QUIET = 600.0
QUEUE = 2000
LONGEST = 1000


@dataclass(frozen=True)
class Ref:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Recorder:
    """Writes events from a bounded queue; what does not fit is counted in ``dropped``."""

    def __init__(self, kube: Kube, component: str, clock: Any) -> None:
        self._kube, self._component, self._clock = kube, component, clock
        self._queue: asyncio.Queue[tuple[Ref, str, str, str]] = asyncio.Queue(QUEUE)
        self._said: dict[tuple[str, str, str], float] = {}
        self.dropped = 0

    def event(self, about: Ref, kind: str, reason: str, message: str) -> None:
        """Queue an event of ``kind`` Normal or Warning."""
        key = (about.uid, reason, message)
        now = self._clock.monotonic()
        if now - self._said.get(key, -QUIET) < QUIET:
            return
        if len(self._said) > 20_000:
            self._said = {k: at for k, at in self._said.items() if now - at < QUIET}
        self._said[key] = now
        try:
            self._queue.put_nowait((about, kind, reason, message))
        except asyncio.QueueFull:
            self.dropped += 1

    @property
    def backlog(self) -> int:
        """Events that are not written yet."""
        return self._queue.qsize()

    async def run(self) -> None:
        """Write the queued events until cancelled."""
        while True:
            about, kind, reason, message = await self._queue.get()
            at = rfc3339(self._clock.now())
            namespace = about.namespace or "default"
            mark = hashlib.sha256(f"{about.uid}{reason}{message}{at}".encode()).hexdigest()[:16]
            body = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{about.name[:200]}.{mark}", "namespace": namespace},
                "involvedObject": {
                    "apiVersion": about.api_version,
                    "kind": about.kind,
                    "namespace": about.namespace,
                    "name": about.name,
                    "uid": about.uid,
                },
                "type": kind,
                "reason": reason,
                "message": message[:LONGEST],
                "source": {"component": self._component},
                "firstTimestamp": at,
                "lastTimestamp": at,
                "count": 1,
            }
            try:
                await self._kube.post(EVENTS.path("", namespace), body)
            except AlreadyExists:
                continue
            except KubeError as error:
                self.dropped += 1
                log.info("event %s on %s/%s not written: %s", reason, about.kind, about.name, error)
