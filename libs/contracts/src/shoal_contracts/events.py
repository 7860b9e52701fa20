"""Events for users: CloudEvents 1.0 in structured JSON mode, on the event plane."""

from __future__ import annotations

import msgspec

from shoal_contracts.base import Part


class PodEvent(Part, frozen=True, kw_only=True):
    """What happened to a pod."""

    namespace: str
    pod: str
    uid: str
    group: str = ""
    queue: str = ""
    node: str = ""
    decision: str = ""
    reason: str = ""
    message: str = ""
    epoch: int = 0


class GroupEvent(Part, frozen=True, kw_only=True):
    """What happened to a pod group: why it waits, say."""

    namespace: str
    group: str
    queue: str = ""
    reason: str = ""
    message: str = ""


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A CloudEvent. ``type`` is ``dev.shoal.<family>.<what>.v1``; ``id`` with ``source`` is unique."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    """RFC 3339, UTC."""
    data: msgspec.Raw
    """A PodEvent or a GroupEvent."""
    specversion: str = "1.0"
    datacontenttype: str = "application/json"


class PodCloudEvent(CloudEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A CloudEvent about a pod: ``pod.decided``, ``pod.bound``, ``pod.refused``, ``pod.stale``, ``pod.gone``."""

    data: PodEvent  # type: ignore[assignment]


class GroupCloudEvent(CloudEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A CloudEvent about a pod group: ``group.waiting``."""

    data: GroupEvent  # type: ignore[assignment]
