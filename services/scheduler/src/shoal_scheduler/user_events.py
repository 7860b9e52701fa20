"""Events for users of what a cycle decided: who is evicted, what was decided, and once for each wait, why a group waits."""

from __future__ import annotations

from collections.abc import Callable

from shoal_contracts.decision import Decision
from shoal_contracts.events import GroupEvent, PodEvent
from shoal_core import CycleResult, Waiting
from shoal_scheduler.reporter import SILENT
from shoal_service.events import Events

Key = tuple[str, str]


class UserEvents:
    """Publishes what is new in each cycle's result. It keeps only what waits now."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._codes: dict[Key, str] = {}
        """Waiting group -> the reason that was published."""
        self._last: list[Waiting] | None = None
        self._number = 0

    def cycle(self, result: CycleResult, decision_of: Callable[[str], Decision | None], epoch: int) -> None:
        """Take in a result. ``decision_of``: pod's uid -> its open decision."""
        for found in result.evictions:
            data = GroupEvent(
                namespace=found.namespace, group=found.group, queue=found.queue, reason=found.action, message=found.message
            )
            self._events.say(found.queue, "group", "evicting", found.group, data, f"{found.uid}/{found.action}")
        for uid in (m.uid for g in result.gangs for m in g.members):
            if (d := decision_of(uid)) is None:
                continue
            data = PodEvent(
                namespace=d.namespace, pod=d.pod, uid=d.uid, group=d.group, queue=d.queue, node=d.node, decision=d.id,
                epoch=d.epoch,
            )  # fmt: skip
            self._events.say(d.queue, "pod", "decided", d.pod, data, d.id)
        # A cycle without news gives back the same list.
        if result.waiting is not self._last:
            self._last = result.waiting
            self._waits(result.waiting, epoch)

    def _waits(self, waiting: list[Waiting], epoch: int) -> None:
        before, self._codes = self._codes, {}
        for found in waiting:
            key = (found.namespace, found.group)
            # The first is the group's own reason; others are of single pods.
            if found.code in SILENT or key in self._codes:
                continue
            self._codes[key] = found.code
            if before.get(key) == found.code:
                continue
            self._number += 1
            data = GroupEvent(
                namespace=found.namespace, group=found.group, queue=found.queue, reason=found.code, message=found.message
            )
            mark = f"{found.namespace}/{found.group}/{found.code}/{epoch}.{self._number}"
            self._events.say(found.queue, "group", "waiting", found.group, data, mark)
