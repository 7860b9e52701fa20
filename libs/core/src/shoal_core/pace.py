"""How many evictions a cycle, and a minute, may have."""

from __future__ import annotations

from collections import deque

from shoal_core.settings import Settings

MINUTE = 60.0


class Pace:
    """The evictions of the last minute; kept where there is a bound for them."""

    def __init__(self) -> None:
        self._decided: deque[tuple[float, int]] = deque()

    def decided(self, count: int, now: float) -> None:
        """So many were decided in the cycle at ``now``."""
        self._decided.append((now, count))

    def within(self, now: float) -> int:
        """Those of the minute before ``now``. A clock that was set back forgets what is later."""
        decided = self._decided
        while decided and decided[0][0] <= now - MINUTE:
            decided.popleft()
        while decided and decided[-1][0] > now:
            decided.pop()
        return sum(count for _, count in decided)

    def eases(self) -> float:
        """When the first of them is a minute old; 0 if there is none."""
        return self._decided[0][0] + MINUTE if self._decided else 0.0

    def spent(self, settings: Settings, count: int, now: float) -> bool:
        """Whether the cycle, which has decided ``count`` evictions, or the minute has had its evictions: no more are sought.
        What is decided is never parted."""
        if 0 < settings.evictions_per_cycle <= count:
            return True
        most = settings.evictions_per_minute
        return most > 0 and most <= count + self.within(now)
