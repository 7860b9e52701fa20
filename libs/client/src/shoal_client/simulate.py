"""shoal simulate: one cycle, or cycles until nothing changes, on a cluster that was read from files."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from shoal_client.budgets import Budgets
from shoal_client.objects import Snapshot
from shoal_contracts.state import PodRecord
from shoal_core import Cluster, CycleResult, Gang, cycle
from shoal_core.configuration import read
from shoal_core.results import Eviction

MOST_CYCLES = 50


@dataclass
class Simulation:
    """What was decided, cycle by cycle."""

    cycles: list[CycleResult] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stable: bool = False
    """The last cycle decided nothing."""

    @property
    def last(self) -> CycleResult:
        """The last cycle."""
        return self.cycles[-1]


def simulate(snapshot: Snapshot, *, now: float | None = None, until_stable: bool = False) -> Simulation:
    """Run the core on the snapshot. Between cycles what was bound runs, and what was evicted waits again.

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
    at = snapshot.now if now is None else now
    for number in range(MOST_CYCLES if until_stable else 1):
        for budget in budgets.now():
            cluster.apply(budget)
        result = cycle(cluster, now=at + number)
        found.cycles.append(result)
        found.stable = not (result.gangs or result.evictions or result.reserved)
        if found.stable:
            break
        for gang in result.gangs:
            _run(cluster, pods, gang)
        for eviction in result.evictions:
            _again(cluster, pods, eviction, number)
    return found


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
    fresh = msgspec.structs.replace(old, uid=f"{old.uid}+{number + 1}", node="", phase="Pending", ready=False, gpu_groups=[])
    pods[fresh.uid] = fresh
    cluster.apply(fresh)
