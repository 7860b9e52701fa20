"""Request and response pairs of the query endpoints (``shoal.v1.q.<service>.<verb>``)."""

from __future__ import annotations

from shoal_contracts.base import Message


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
