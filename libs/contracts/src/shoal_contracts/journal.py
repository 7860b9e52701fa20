"""The scheduler's log: what a leader did to its cluster before each cycle, and what the cycle decided."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal_contracts.base import Message
from shoal_contracts.state import StateMessage


class _Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="step", tag=str.lower):
    """One change of the cluster."""


class Applied(_Step, frozen=True, kw_only=True):
    """A record that is new or changed."""

    record: StateMessage


class Removed(_Step, frozen=True, kw_only=True):
    """An object that is gone; ``what`` as in the state plane's subjects."""

    what: str
    namespace: str = ""
    name: str


class Assumed(_Step, frozen=True, kw_only=True):
    """The pod counts as placed on ``node``."""

    uid: str
    node: str
    groups: list[str] = []
    """Shared GPUs that it uses there."""


class AssumedGone(_Step, frozen=True, kw_only=True):
    """The pod counts as being released."""

    uid: str


class Forgotten(_Step, frozen=True, kw_only=True):
    """The decision on the pod is off, or the API shows it."""

    uid: str


class Barred(_Step, frozen=True, kw_only=True):
    """The pod may not be placed (``barred``), or may again."""

    uid: str
    barred: bool = False
    refused: bool = False
    """Its binding was refused."""


class EvictionBackoff(_Step, frozen=True, kw_only=True):
    """The pod may not be chosen as a victim (``on``), because its eviction was refused, or may again."""

    uid: str
    on: bool = False
    why: str = ""


class StartFailed(_Step, frozen=True, kw_only=True):
    """A member of the group was refused after the group had begun to start: what runs of it goes, if it is not whole."""

    namespace: str
    name: str


Step = Applied | Removed | Assumed | AssumedGone | Forgotten | Barred | EvictionBackoff | StartFailed


class Input(Message, frozen=True, kw_only=True, tag="input.v1"):
    """Steps in their order; after those of the last part of a cycle it ran, at ``now``."""

    epoch: int
    cycle: int
    part: int = 0
    steps: list[Step] = []
    last: bool = False
    """The cycle runs after these steps."""
    now: float = 0.0
    """Seconds since the epoch that the cycle was told."""
    settings: dict[str, Any] = {}
    """In the first message of a leader: the policy's settings. A replay begins there, with an empty cluster."""
    gap: int = 0
    """So many steps before these are lost: a replay ends here."""


class Decided(Message, frozen=True, kw_only=True, tag="decided.v1"):
    """What a cycle decided."""

    epoch: int
    cycle: int
    digest: str
    """SHA-256 of all that the cycle gave back, as JSON in a fixed order."""
    starts: int = 0
    evictions: int = 0
    waiting: int = 0
