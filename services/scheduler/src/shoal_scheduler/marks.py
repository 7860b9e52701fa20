"""Scheduler state that must survive the bus: annotations of pod groups, and the events of evictions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from shoal_core import CycleResult
from shoal_kube import Conflict, Kube, KubeError, NotFound, Recorder, Ref
from shoal_kube.resources import POD_GROUPS
from shoal_model import labels
from shoal_model.quantity import rfc3339
from shoal_service import Context

Key = tuple[str, str]
PAUSE = 0.5
WRITERS = 4


class Marks:
    """Collects what cycles decide and writes it, the newest of each annotation, from a bounded number of tasks."""

    def __init__(self, context: Context[Any], kube: Kube, recorder: Recorder) -> None:
        self._context, self._kube, self._recorder = context, kube, recorder
        self._open: dict[Key, dict[str, str | None]] = {}
        self._writing: set[Key] = set()
        self._starts = False
        self.uids: Callable[[Key], str] = lambda _: ""
        """UID of the PodGroup of a name: a group that was made again under its name gets no annotation of the one before."""

    def need_starts(self, running: Iterable[tuple[Key, float]] = ()) -> None:
        """A minimum runtime asks how long groups have run: from now on starts are written, and those of ``running`` groups
        (key, seconds since the epoch), which nobody needed before. One write for each start of a group that is saved else."""
        if self._starts:
            return
        self._starts = True
        for key, at in running:
            self._open.setdefault(key, {}).setdefault(labels.LAST_START, rfc3339(at))

    def cycle(self, result: CycleResult) -> None:
        """Take in a cycle's decisions."""
        now = rfc3339(self._context.clock.now())
        for gang in result.gangs:
            if gang.starts and self._starts:
                self._open.setdefault((gang.namespace, gang.group), {})[labels.LAST_START] = now
        for eviction in result.evictions:
            key = (eviction.namespace, eviction.group)
            if eviction.for_group:
                self._open.setdefault(key, {})[labels.LAST_EVICTION] = now
            about = Ref("scheduling.run.ai/v2alpha2", "PodGroup", *key, self.uids(key))
            self._recorder.event(about, "Normal", "Evict", eviction.message)
            pod = Ref("v1", "Pod", eviction.namespace, eviction.pod, eviction.uid)
            self._recorder.event(pod, "Normal", "Evict", eviction.message)
        for found in result.stale:
            since = rfc3339(found.since) if found.since else None
            self._open.setdefault((found.namespace, found.group), {})[labels.STALE_SINCE] = since

    async def run(self) -> None:
        """Write, for ever."""
        gate = asyncio.Semaphore(WRITERS)
        async with asyncio.TaskGroup() as tasks:
            while True:
                found, self._open = self._open, {}
                for key, notes in found.items():
                    await gate.acquire()
                    if key in self._writing:
                        # Two writes of one group at a time could end with the older one.
                        self._open[key] = notes | self._open.get(key, {})
                        gate.release()
                        continue
                    self._writing.add(key)
                    tasks.create_task(self._write(key, notes, gate))
                await asyncio.sleep(PAUSE)

    async def _write(self, key: Key, notes: dict[str, str | None], gate: asyncio.Semaphore) -> None:
        uid = self.uids(key)
        same = {"uid": uid} if uid else {}
        try:
            await self._kube.merge_patch(POD_GROUPS.path(key[1], key[0]), {"metadata": {**same, "annotations": notes}})
        except (NotFound, Conflict):
            return  # gone, or another group by now
        except KubeError as error:
            self._context.log.info("annotations not written, again soon", group=key, error=str(error))
            for name, value in notes.items():
                self._open.setdefault(key, {}).setdefault(name, value)
        finally:
            self._writing.discard(key)
            gate.release()
