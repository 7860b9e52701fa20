"""What a cycle gave back, as decisions for binders. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from shoal_contracts.decision import Decision, Verb
from shoal_contracts.subjects import DEFAULT_SHARD
from shoal_core import Cluster, CycleResult
from shoal_core.placement.numa_zones import text
from shoal_core.results import Eviction, Gang
from shoal_model import gpu, labels
from shoal_scheduler.commit import MOST

EVICTIONS = "-out"
"""Ends the name of a set of evictions: the decision before may have given its id to a gang."""


@dataclass(frozen=True)
class Naming:
    """What the decisions of one cycle have in common."""

    epoch: int
    cycle: int
    at: float
    shard: str = DEFAULT_SHARD

    def id(self, number: int) -> str:
        """Of the decision of this number; no other decision has it, of any shard."""
        own = f"{self.epoch}-{self.cycle}-{number}"
        return own if self.shard == DEFAULT_SHARD else f"{self.shard}-{own}"


@dataclass(frozen=True)
class Origin:
    """The news of a pod that its decision follows."""

    cause: str = ""
    seen: float = 0.0
    traceparent: str = ""


NOTHING = Origin()


def decisions(
    result: CycleResult,
    cluster: Cluster,
    naming: Naming,
    origins: Mapping[str, Origin],
    implied: Set[str],
    *,
    dry_run: bool = False,
) -> list[list[Decision]]:
    """Lists of decisions that are to be committed together. ``implied``: pods that don't show their group yet; ``dry_run``:
    admission may refuse bindings, so that each of a gang that starts is tried before the first is made."""
    found: list[list[Decision]] = []
    number = 0
    for gang in result.gangs:
        members = _binds(gang, cluster, naming, number, origins, implied, dry_run)
        number += len(members)
        # A gang that no batch can hold is staged in chunks, and goes when all of it is prepared.
        found += [members[i : i + MOST] for i in range(0, len(members), MOST)]
    together: dict[tuple[str, str], list[Eviction]] = {}
    for eviction in result.evictions:
        whole = (eviction.for_namespace, eviction.for_group) if eviction.for_group else (eviction.namespace, eviction.group)
        together.setdefault(whole, []).append(eviction)
    for victims in together.values():
        going = _evictions(victims, cluster, naming, number)
        number += len(going)
        found += [going[i : i + MOST] for i in range(0, len(going), MOST)]
    return found


def _evictions(victims: list[Eviction], cluster: Cluster, naming: Naming, number: int) -> list[Decision]:
    """All that has to go for one workload, or all of one gang. Several are staged: none goes before all may."""
    size = len(victims)
    name = naming.id(number) + EVICTIONS if size > 1 else ""
    return [
        Decision(
            id=naming.id(number + i), verb=Verb.EVICT, namespace=victim.namespace,
            pod=victim.pod, uid=victim.uid, resource_version=cluster.pods[victim.uid].record.resource_version,
            node=victim.node, epoch=naming.epoch, cycle=naming.cycle, group=victim.group, queue=victim.queue,
            gang=name, gang_size=size if name else 0, staged=bool(name),
            reason=victim.message, ignored_budgets=dict(victim.ignored),
            budget=cluster.disruptions.taken(victim.uid), at=naming.at,
        )
        for i, victim in enumerate(victims, 1)
    ]  # fmt: skip


def _binds(
    gang: Gang, cluster: Cluster, naming: Naming, number: int, origins: Mapping[str, Origin], implied: Set[str], dry_run: bool
) -> list[Decision]:
    """The members of a gang. They are staged where one binding may fail long after another was posted."""
    size = len(gang.members)
    begins = size > 1 and gang.starts and sum(leaf.minimum for leaf in cluster.jobs[gang.namespace, gang.group].leaf_list) > 1
    staged = size > MOST or (begins and dry_run) or (size > 1 and any(m.gpu_groups or m.volumes for m in gang.members))
    name = naming.id(number) if staged else ""
    found = []
    for member in gang.members:
        number += 1
        pod = cluster.pods[member.uid].record
        origin = origins.get(member.uid, NOTHING)
        notes = {labels.RECEIVED_TYPE: "Fraction" if member.gpu_groups else "Regular"}
        if member.uid in implied:
            notes[labels.GROUP] = gang.group
        if member.zones:
            notes[labels.NUMA_PREDICTED] = text(cluster.numa.names(member.node, member.zones))
        tags = gpu.group_labels(member.gpu_groups)
        if isolation := gpu.isolation(pod):
            tags[labels.ISOLATION] = isolation
        found.append(
            Decision(
                id=naming.id(number), verb=Verb.BIND, namespace=member.namespace, pod=member.pod,
                uid=member.uid, resource_version=pod.resource_version, node=member.node, epoch=naming.epoch,
                cycle=naming.cycle, group=gang.group, queue=gang.queue, gang=name, gang_size=size if staged else 0,
                staged=staged, begins=begins, annotations=notes, labels=tags, gpu_groups=list(member.gpu_groups),
                portion=member.portion, memory_mib=member.memory_mib, volumes=dict(member.volumes), at=naming.at,
                cause=origin.cause, seen=origin.seen,
            )
        )  # fmt: skip
    return found
