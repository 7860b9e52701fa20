"""What the Kubernetes API says no with, by what the caller can do about it."""

from __future__ import annotations

import msgspec


class KubeError(Exception):
    """Any refusal. ``status`` is the HTTP status (0: no answer), ``reason`` the API's word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Conflict(KubeError):
    """A precondition did not hold: read again."""


class AlreadyExists(Conflict):
    """An object of that name is there."""


class NotFound(KubeError):
    """There is no such object or resource."""


class Gone(KubeError):
    """That version is too old: list again."""


class Forbidden(KubeError):
    """Not authenticated, or not allowed."""


class Invalid(KubeError):
    """The object is refused as it is."""


class Throttled(KubeError):
    """Too many requests (or an eviction that a budget forbids): later."""

    retry_after: float = 1.0
    budget: str = ""
    """What the API says of the disruption budget that forbids an eviction; empty where no budget does."""


class Unreachable(KubeError):
    """No answer, or a failure of the server: it may or may not have been done."""


class NotLeading(KubeError):
    """Not asked for: the caller may not lead any more."""


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float = 0.0
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_CLASSES: dict[int, type[KubeError]] = {
    400: Invalid, 401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 422: Invalid, 429: Throttled,
}  # fmt: skip


def from_response(status: int, body: bytes, retry_after: str | None) -> KubeError:
    """The error for an answer of 400 and more."""
    try:
        found = msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:
        found = _Status(message=body[:500].decode("utf-8", "replace"))
    kind = _CLASSES.get(status, Unreachable if status >= 500 else KubeError)
    if found.reason == "AlreadyExists":
        kind = AlreadyExists
    if found.reason == "Expired":
        kind = Gone
    error = kind(status, found.reason, found.message)
    if isinstance(error, Throttled):
        told = found.details.retry_after_seconds if found.details else 0.0
        error.retry_after = told or (float(retry_after) if retry_after and retry_after.isdigit() else 1.0)
        causes = (found.details.causes if found.details else None) or []
        error.budget = "; ".join(c.message or found.message for c in causes if c.reason == "DisruptionBudget")
        if not error.budget and "disruption budget" in found.message:
            error.budget = found.message
    return error
