"""Tests that rule out victims that can't be enough, before anything is simulated (policy spec 4.6.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal_core.gang import Member, PodSet, leaves
from shoal_core.placement.feasible import selected
from shoal_core.rows import REGULAR, Pod
from shoal_core.search.scenario import Batch, Gone
from shoal_core.status import ACTIVE

if TYPE_CHECKING:
    from shoal_core.search.solve import Search


class Filters:
    """The filters for one probe: ``tasks`` are the pods that wait."""

    def __init__(self, search: Search, tasks: list[Pod]) -> None:
        self._search, self._tasks = search, tasks
        self._wanted = sorted((t.shape.quota for t in tasks), reverse=True)
        self._choosy = [
            t for t in tasks if t.record.node_selector or (t.record.affinity and t.record.affinity.node_required is not None)
        ]
        shapes = {t.shape.number for t in tasks}
        first = tasks[0].shape
        whole = len(shapes) == 1 and first.kind == REGULAR and first.gpus >= 1 and not first.claim_gpus
        self._each = first.gpus if whole else 0.0
        self._passed = False
        self._levels = list(self._required(search.job.root))
        self.alike = whole and not self._choosy and not self._levels
        """Whether ``enough`` says all: victims that are enough are accepted."""
        self._best: list[float] | None = None

    def accepts(self, gone: Gone) -> bool:
        """Whether these victims may be enough."""
        return self._gpus(gone) and (not self._choosy or self._affinity(gone)) and (not self._levels or self._topology(gone))

    def enough(self, batches: list[Batch]) -> bool:
        """Whether pods that all ask for as many whole GPUs find so many if just these victims go."""
        if not self._each:
            return True
        gone: Gone = {}
        for batch in batches:
            for pod in batch.pods:
                gone[pod.node] = gone.get(pod.node, 0.0) + pod.accepted[2]
        return self._slots(gone) >= len(self._tasks)

    def _slots(self, gone: Gone) -> int:
        """So many requests of ``_each`` GPUs fit."""
        free, each = self._search.free, self._each
        slots = self._search.slots(each)
        for column, gpus in gone.items():
            have = max(0.0, float(free[column]))
            slots += int((have + gpus) // each) - (int(have // each) if self._search.feasible[column] else 0)
        return slots

    def _gpus(self, gone: Gone) -> bool:
        """The GPUs asked for, largest first, fit into the nodes with most, by first fit."""
        free = self._search.free
        if not self._wanted[0] or self._passed:
            return True
        if self._each:
            # More victims only make more room: what passed once passes again.
            self._passed = self._slots(gone) >= len(self._tasks)
            return self._passed
        if self._best is None:
            self._best = [float(v) for v in np.sort(free)[::-1][: len(self._tasks)]]
        rest = self._best.copy()
        # Nodes with victims count with these; the plain list may hold some of them too low, never too high.
        rooms = sorted([float(free[c]) + v for c, v in gone.items()] + self._without(rest, gone), reverse=True)[
            : len(self._wanted)
        ]
        return _first_fit(self._wanted, rooms)

    def _without(self, rest: list[float], gone: Gone) -> list[float]:
        """``rest`` less the values of nodes that are counted with their victims."""
        free = self._search.free
        for column in gone:
            value = float(free[column])
            if value in rest:
                rest.remove(value)
        return rest

    def _affinity(self, gone: Gone) -> bool:
        """Every pod that chooses its nodes finds one among them."""
        nodes, feasible = self._search.session.nodes, self._search.feasible
        columns = {int(c) for c in np.flatnonzero(feasible)} | {c for c in gone if c >= 0}
        for task in self._choosy:
            if not any((r := nodes.records[c]) is not None and selected(task.record, r.name, r.labels) for c in columns):
                return False
        return True

    def _required(self, member: Member):
        if isinstance(member, PodSet):
            return
        if member.topology and member.topology.required:
            gpus = sum(p.shape.quota for leaf in leaves(member) for p in leaf.pods if ACTIVE[p.status] or p in self._tasks)
            yield member.topology.topology, member.topology.required, gpus
        for child in member.children:
            yield from self._required(child)

    def _topology(self, gone: Gone) -> bool:
        """Every set of pods that needs one domain finds one with enough GPUs."""
        search = self._search
        by_level: dict[tuple[str, str], list[float]] = {}
        for name, level, gpus in self._levels:
            record = search.session.cluster.topologies.get(name)
            aliases = {x.alias: x.label for x in record.levels if x.alias} if record else {}
            by_level.setdefault((name, aliases.get(level, level)), []).append(gpus)
        for (_, label), wanted in by_level.items():
            rooms: dict[str, float] = {}
            for column in search.session.nodes.columns.values():
                found = search.session.nodes.records[column]
                if found is not None and (value := found.labels.get(label)) is not None:
                    rooms[value] = rooms.get(value, 0.0) + float(search.free[column]) + gone.get(column, 0.0)
            if not _first_fit(sorted(wanted, reverse=True), sorted(rooms.values(), reverse=True)):
                return False
        return True


def _first_fit(wanted: list[float], rooms: list[float]) -> bool:
    """Whether requests, largest first, fit by first fit; a request of nothing ends it well."""
    rooms = list(rooms)
    for value in wanted:
        if value == 0:
            return True
        for i, room in enumerate(rooms):
            if room >= value:
                rooms[i] = room - value
                break
        else:
            return False
    return True
