"""What a cycle gives back: what starts where, what goes and for whom, what waits and why, and the shares of the queues."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec


class Placed(msgspec.Struct, frozen=True):
    """One pod that is to run on ``node``."""

    uid: str
    namespace: str
    pod: str
    node: str
    gpu_groups: tuple[str, ...] = ()
    """Shared devices that it uses, existing ones or new ones (``new-...``)."""
    portion: float = 0.0
    """Part of each shared device; 0 if it shares none."""
    memory_mib: int = 0
    """Memory of each shared device; 0 if it shares none."""
    zones: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = ()
    """NUMA zones (by number) with what it takes of each."""
    claims: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """(name of the pod's claim, allocation in the form of the resource.k8s.io API)."""
    extended: Mapping[str, Any] | None = None
    """Devices for extended resources that the node does not count: the claim to be made, as ``allocation``,
    ``deviceRequests`` (both in the form of the API) and ``containerMappings``."""
    volumes: tuple[tuple[str, str], ...] = ()
    """(claim that is not bound yet, the volume that it gets; empty: one is to be made for the node)."""


class Gang(msgspec.Struct, frozen=True):
    """Pods of one group that start together: all of them or none."""

    namespace: str
    group: str
    queue: str
    members: tuple[Placed, ...]
    starts: bool
    """The group had no pod running before."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """One pod that has to go."""

    uid: str
    namespace: str
    pod: str
    group: str
    queue: str
    node: str
    action: str
    """consolidation, reclaim, preempt or stalegangeviction."""
    message: str
    moved_to: str = ""
    """The node on which room was found for it; empty if there is none for now."""
    for_namespace: str = ""
    for_group: str = ""
    """The group that gets the room; empty for a stale gang."""
    size: int = 1
    """Pods that go for the same reason."""
    ignored: tuple[tuple[str, str], ...] = ()
    """PodDisruptionBudgets (name, uid) that it goes in spite of, as its queue has it."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """``rule`` and, for reclaim, of ``victim`` and ``reclaimer``: queue, quota, share, before, after (CPU, memory, GPUs)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a group waits. ``code`` is a word for programs, ``message`` has the numbers."""

    namespace: str
    group: str
    queue: str
    code: str
    message: str
    pods: tuple[str, ...] = ()
    """Uids of the pods that wait."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: ``nodes`` (reason -> number of nodes), or ``queue``, ``resource``, ``limit``, ``used``,
    ``asked``."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What keeps victims from going that would make room for a waiting group."""

    message: str
    budgets: Mapping[str, int] = field(default_factory=dict)
    """PodDisruptionBudget (``namespace/name``) -> so many more disruptions it would have to allow."""


@dataclass(frozen=True, slots=True)
class QueueShare:
    """A queue after the cycle; each tuple is CPU (millicores), memory (bytes), GPUs."""

    name: str
    share: tuple[float, ...]
    allocated: tuple[float, ...]
    request: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Staleness:
    """A gang that lost members: since when (seconds since the epoch); 0 if it is whole again."""

    namespace: str
    group: str
    since: float


@dataclass
class CycleResult:
    """The outcome of a cycle, in the order in which it was decided."""

    gangs: list[Gang] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    reserved: list[Placed] = field(default_factory=list)
    """Pods that have a place as soon as what is being released there is free; decided anew in the next cycle."""
    waiting: list[Waiting] = field(default_factory=list)
    queues: list[QueueShare] = field(default_factory=list)
    stale: list[Staleness] = field(default_factory=list)
    """Changes of the staleness of gangs, to be written on their groups."""
    units: int = 0
    """Work done: places tried."""


_ENCODER = msgspec.json.Encoder(order="deterministic")


def digest(result: CycleResult) -> str:
    """SHA-256 of the result as JSON: the same decisions and reasons have the same."""
    return hashlib.sha256(_ENCODER.encode(result)).hexdigest()
