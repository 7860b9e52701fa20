"""The streams and consumers of the suite, as data. ``shoal_bus.ensure`` makes them so."""

from __future__ import annotations

from typing import Literal

from shoal_contracts.base import Part

DAY = 86_400.0


class Stream(Part, frozen=True, kw_only=True):
    """A JetStream stream and its owner, the one service that makes it (and makes it again after a loss)."""

    name: str
    subjects: list[str]
    owner: str
    storage: Literal["memory", "file"]
    max_per_subject: int = -1
    """Messages kept for each subject; -1: all."""
    max_age: float = 0.0
    """Seconds; 0: for ever."""
    max_bytes: int = -1
    replicated: bool = False
    atomic: bool = False
    """Atomic batches (ADR-50) are allowed."""
    ttl: bool = False
    """Messages may carry their own time to live."""
    duplicate_window: float = 120.0


class Consumer(Part, frozen=True, kw_only=True):
    """A durable pull consumer that replicas share."""

    name: str
    stream: str
    owner: str
    filters: list[str]
    ack_wait: float = 30.0
    max_deliver: int = -1
    max_ack_pending: int = 4096


STATE = Stream(
    name="SHOAL_STATE",
    subjects=["shoal.v1.state.>"],
    owner="cluster-state",
    storage="memory",
    max_per_subject=1,
    ttl=True,
)
DECISION = Stream(
    name="SHOAL_DECISION",
    subjects=["shoal.v1.decision.>", "shoal.v1.outcome.>"],
    owner="scheduler",
    storage="file",
    max_per_subject=1,
    replicated=True,
    atomic=True,
    ttl=True,
)
EVENT = Stream(
    name="SHOAL_EVENT",
    subjects=["shoal.v1.event.>"],
    owner="scheduler",
    storage="file",
    max_age=3 * DAY,
    max_bytes=4 << 30,
    replicated=True,
)
LOG = Stream(
    name="SHOAL_LOG",
    subjects=["shoal.v1.log.>"],
    owner="scheduler",
    storage="file",
    max_age=3 * DAY,
    max_bytes=4 << 30,
)
BINDER = Consumer(name="binder", stream="SHOAL_DECISION", owner="scheduler", filters=["shoal.v1.decision.>"], ack_wait=10.0)

STREAMS = (STATE, DECISION, EVENT, LOG)
CONSUMERS = (BINDER,)
