"""Prometheus instruments, re-exported: services declare theirs in their own ``metrics.py``."""

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

__all__ = ["REGISTRY", "Counter", "Gauge", "Histogram", "generate_latest"]

UNEXPECTED = Counter("shoal_unexpected_errors", "Errors that no rule foresaw, by place", ["place"])
SET_ASIDE = Counter("shoal_messages_set_aside", "Messages that could not be decoded", ["plane"])
