"""Request and response pairs of the query endpoints (``shoal.v1.q.<service>.<verb>``)."""

from __future__ import annotations

import enum

from shoal_contracts.base import Message
from shoal_contracts.state import Toleration


class HealthRequest(Message, frozen=True, kw_only=True, tag="health-request.v1"):
    """Ask a service how it is."""


class HealthReply(Message, frozen=True, kw_only=True, tag="health-reply.v1"):
    """How a service is: whether it is ready, and if not, what it waits for."""

    service: str
    instance: str
    ready: bool
    waiting_for: list[str] = []


class Problem(Message, frozen=True, kw_only=True, tag="problem.v1"):
    """Why a request could not be served."""

    error: str


class ReserveRequest(Message, frozen=True, kw_only=True, tag="reserve-request.v1"):
    """Hold a GPU of a node for a group of pods that share it, and say which it is. Asking again is the same request."""

    node: str
    group: str
    namespace: str = ""
    pod: str = ""
    """For whom."""
    tolerations: list[Toleration] = []
    """Of that pod: the reservation has to bear what its users bear."""


class Reserved(enum.StrEnum):
    """Where a reservation stands."""

    READY = "ready"
    PENDING = "pending"
    """It is being made: ask again."""
    REFUSED = "refused"
    """Not for now; ``message`` says why."""


class ReserveReply(Message, frozen=True, kw_only=True, tag="reserve-reply.v1"):
    """The device of the group."""

    state: Reserved
    device: str = ""
    """Its UUID."""
    message: str = ""
