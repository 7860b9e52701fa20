"""How saturated a queue is: what it has by its fair share (policy spec 4.7.2)."""

from __future__ import annotations

from shoal_core.fairness.division import UNLIMITED


def saturation(allocated: float, share: float) -> float:
    """Allocated by fair share; infinite for something of nothing, 0 for a share without bound."""
    if share == 0:
        return float("inf") if allocated > 0 else 0.0
    return 0.0 if share == UNLIMITED else allocated / share
