"""The scheduling policy as a library: state in, decisions and reasons out. No I/O, no clock, no randomness."""

from shoal_core.cluster import Cluster
from shoal_core.cycle import cycle, run
from shoal_core.kernels import warm
from shoal_core.results import CycleResult, Eviction, Gang, Placed, QueueShare, Staleness, Waiting
from shoal_core.session import Session
from shoal_core.settings import Settings
from shoal_core.times import next_change

__all__ = [
    "Cluster", "CycleResult", "Eviction", "Gang", "Placed", "QueueShare", "Session", "Settings", "Staleness", "Waiting",
    "cycle", "next_change", "run", "warm",
]  # fmt: skip
