"""The headers that tell a message's story: what started it, when it was sent, in which trace."""

from __future__ import annotations

from shoal_contracts.decision import Header

TRACEPARENT = "traceparent"


def headers(*, cause: str = "", sent: float = 0.0, epoch: int = 0, traceparent: str = "") -> dict[str, str]:
    """Headers for a message; what is empty is left out. ``sent`` is in seconds since the epoch."""
    found: dict[str, str] = {}
    if cause:
        found[Header.CAUSE] = cause
    if sent:
        found[Header.SENT] = f"{sent:.6f}"
    if epoch:
        found[Header.EPOCH] = str(epoch)
    if traceparent:
        found[TRACEPARENT] = traceparent
    return found


def sent(found: dict[str, str]) -> float:
    """When the message was sent, in seconds since the epoch; 0 if it does not say."""
    try:
        return float(found.get(Header.SENT, "0"))
    except ValueError:
        return 0.0
