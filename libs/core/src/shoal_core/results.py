"""What a cycle gives back: what starts where, what waits and why, and the shares of the queues."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Placed:
    """One pod that is to run on ``node``."""

    uid: str
    namespace: str
    pod: str
    node: str


@dataclass(frozen=True)
class Gang:
    """Pods of one group that start together: all of them or none."""

    namespace: str
    group: str
    queue: str
    members: tuple[Placed, ...]
    starts: bool
    """The group had no pod running before."""


@dataclass(frozen=True)
class Waiting:
    """Why a group waits. ``code`` is a word for programs, ``message`` has the numbers."""

    namespace: str
    group: str
    queue: str
    code: str
    message: str
    pods: tuple[str, ...] = ()
    """Uids of the pods that wait."""


@dataclass(frozen=True)
class QueueShare:
    """A queue after the cycle; each tuple is CPU (millicores), memory (bytes), GPUs."""

    name: str
    share: tuple[float, ...]
    allocated: tuple[float, ...]
    request: tuple[float, ...]


@dataclass
class CycleResult:
    """The outcome of a cycle, in the order in which it was decided."""

    gangs: list[Gang] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    queues: list[QueueShare] = field(default_factory=list)
    units: int = 0
    """Work done: nodes looked at."""
