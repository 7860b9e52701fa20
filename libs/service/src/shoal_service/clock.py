"""Time, injected: services ask a Clock and tests give them one that they move by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a service may know of time."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()


class FakeClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, at: float = 1_700_000_000.0) -> None:
        self._at, self._started = at, at

    def now(self) -> float:
        """The time that was set."""
        return self._at

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._at - self._started

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._at += seconds
