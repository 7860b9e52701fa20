"""shoal simulate: one cycle, or cycles until nothing changes, on a cluster that was read from files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from shoal_client.budgets import Budgets
from shoal_client.objects import Snapshot
from shoal_contracts.state import PodRecord
from shoal_core import Cluster, CycleResult, Gang, cycle, next_change
from shoal_core.configuration import read
from shoal_core.results import Eviction

MOST_CYCLES = 50
MOST_WAITS = 200
"""So many times that nothing is decided are waited out."""


@dataclass
class Simulation:
    """What was decided, cycle by cycle."""

    cycles: list[CycleResult] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each of them ran: seconds after the first cycle of all, which may not be among them."""
    problems: list[str] = field(default_factory=list)
    stable: bool = False
    """The last cycle decided nothing, and none after it would."""

    @property
    def last(self) -> CycleResult:
        """The last cycle."""
        return self.cycles[-1]


def simulate(snapshot: Snapshot, *, now: float | None = None, until_stable: bool = False) -> Simulation:
    """Run the core on the snapshot. Between cycles what was bound runs, and what was evicted waits again.

    ``until_stable``: until nothing changes any more, delays, graces and minimum runtimes waited out; of cycles on end that
    decide nothing the last is kept. Bounded by MOST_CYCLES and MOST_WAITS.

    Raises BadConfiguration.
    """
    cluster = Cluster(read(snapshot.config, snapshot.params))
    pods: dict[str, PodRecord] = {}
    for record in snapshot.records:
        cluster.apply(record)
        if isinstance(record, PodRecord):
            pods[record.uid] = record
    budgets = Budgets(snapshot.records, pods)
    found = Simulation(problems=list(snapshot.problems))
    began = at = snapshot.now if now is None else now
    waits = 0
    while True:
        for budget in budgets.now():
            cluster.apply(budget)
        result = cycle(cluster, now=at)
        found.cycles.append(result)
        found.times.append(at - began)
        found.stable = not (result.gangs or result.evictions or result.reserved)
        if not until_stable:
            return found
        after = at + 1.0
        if not (result.gangs or result.evictions):
            change = next_change(cluster, at)
            if math.isinf(change):
                return found
            found.stable = False
            if waits == MOST_WAITS:
                return found
            waits += 1
            after = max(after, math.ceil(change))
            del found.cycles[-1], found.times[-1]
        elif len(found.cycles) == MOST_CYCLES:
            return found
        for gang in result.gangs:
            _run(cluster, pods, gang)
        for eviction in result.evictions:
            _again(cluster, pods, eviction, len(found.cycles))
        at = after


def _run(cluster: Cluster, pods: dict[str, PodRecord], gang: Gang) -> None:
    for member in gang.members:
        record = msgspec.structs.replace(
            pods[member.uid], node=member.node, phase="Running", ready=True, gpu_groups=list(member.gpu_groups)
        )
        pods[member.uid] = record
        cluster.apply(record)
        cluster.forget(member.uid)


def _again(cluster: Cluster, pods: dict[str, PodRecord], eviction: Eviction, number: int) -> None:
    """A controller makes the pod anew."""
    old = pods.pop(eviction.uid)
    cluster.remove("pod", old.namespace, old.name)
    cluster.forget(eviction.uid)
    fresh = msgspec.structs.replace(old, uid=f"{old.uid}+{number}", node="", phase="Pending", ready=False, gpu_groups=[])
    pods[fresh.uid] = fresh
    cluster.apply(fresh)
