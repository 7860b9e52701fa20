"""Prometheus instruments, re-exported: services declare theirs in their own ``metrics.py``."""

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

__all__ = ["REGISTRY", "Bounded", "Counter", "Gauge", "Histogram", "generate_latest"]

UNEXPECTED = Counter("shoal_unexpected_errors", "Errors that no rule foresaw, by place", ["place"])
SET_ASIDE = Counter("shoal_messages_set_aside", "Messages that could not be decoded", ["plane"])
MOST_VALUES = 100
"""Values of a label that comes from messages; the others are counted as ``other``."""


class Bounded:
    """Keeps the values of a label few, whatever is told."""

    def __init__(self, most: int = MOST_VALUES) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """The value; ``other`` once there are too many different ones."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return "other"
            self._known.add(value)
        return value
