"""The decision plane: what the scheduler decides, what binders make of it, and in which order the two may follow."""

from __future__ import annotations

import enum

from shoal_contracts.base import Message, Part


class Verb(enum.StrEnum):
    """What is to be done to the pod."""

    BIND = "bind"
    EVICT = "evict"


class Decision(Message, frozen=True, kw_only=True, tag="decision.v1"):
    """Bind or evict one pod. Valid for this UID only, by the leader of ``epoch``."""

    id: str
    """Unique: ``<epoch>-<cycle>-<number>``, after the shard and a ``-`` where that is not the default one."""
    verb: Verb
    namespace: str
    pod: str
    uid: str
    resource_version: str = ""
    """The pod's resourceVersion that the leader saw."""
    node: str = ""
    epoch: int
    cycle: int = 0
    group: str = ""
    queue: str = ""
    gang: str = ""
    """Id of the gang whose ``GangGo`` a staged decision waits for; empty: go at once."""
    gang_size: int = 0
    """So many members the staged gang has."""
    staged: bool = False
    begins: bool = False
    """A member of a gang of which nothing ran before: if it is refused after others were bound, those are taken back."""
    annotations: dict[str, str] = {}
    """Merged into the pod in the same write as the binding."""
    labels: dict[str, str] = {}
    """Set on the pod before its binding."""
    gpu_groups: list[str] = []
    """Shared GPUs on the node that it gets a part of each of; a group that nobody uses yet is a device to be reserved."""
    portion: float = 0.0
    """Part of each shared GPU."""
    memory_mib: int = 0
    """Memory of each shared GPU that it gets."""
    volumes: dict[str, str] = {}
    """Claims without a volume -> the volume that each is to be bound to; empty: one is to be made for the node."""
    reason: str = ""
    """For an eviction: for whom and by which rule."""
    ignored_budgets: dict[str, str] = {}
    """For an eviction: PodDisruptionBudgets (name -> uid) in spite of which the pod goes, because its queue lets it."""
    budget: str = ""
    """For an eviction: the PodDisruptionBudget that it takes one of, as ``<namespace>/<name>``."""
    at: float = 0.0
    cause: str = ""
    """``uid@resourceVersion`` of the watch event that started it."""
    seen: float = 0.0
    """When that event was seen by cluster-state."""


class GangGo(Message, frozen=True, kw_only=True, tag="gang.v1"):
    """All members of a staged gang are prepared: bind."""

    gang: str
    epoch: int
    members: list[str] = []


class Epoch(Message, frozen=True, kw_only=True, tag="epoch.v1"):
    """The reign of a leader. A batch of decisions is stored only while this record is unchanged."""

    epoch: int
    holder: str
    at: float = 0.0


class Result(enum.StrEnum):
    """What became of a decision. The values that end it: bound, evicted, refused, stale, gone."""

    PREPARED = "prepared"
    BOUND = "bound"
    EVICTED = "evicted"
    REFUSED = "refused"
    STALE = "stale"
    GONE = "gone"


TERMINAL = frozenset({Result.BOUND, Result.EVICTED, Result.REFUSED, Result.STALE, Result.GONE})


class Outcome(Message, frozen=True, kw_only=True, tag="outcome.v1"):
    """What became of the decision with this id. Written on condition of the decision's sequence."""

    decision: str
    sequence: int
    """The decision's stream sequence."""
    uid: str
    namespace: str = ""
    pod: str = ""
    node: str = ""
    result: Result
    reason: str = ""
    message: str = ""
    binder: str = ""
    at: float = 0.0


class Header(Part, frozen=True, kw_only=True):
    """Names of the headers that the suite sets on messages."""

    CAUSE = "Shoal-Cause"
    EPOCH = "Shoal-Epoch"
    SENT = "Shoal-Sent"
    DELETED = "Shoal-Deleted"
