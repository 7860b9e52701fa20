"""The scheduling policy as a library: state in, decisions and reasons out. No I/O, no clock, no randomness."""

from shoal_core.cluster import Cluster
from shoal_core.cycle import cycle
from shoal_core.kernels.place import warm
from shoal_core.results import CycleResult, Gang, Placed, QueueShare, Waiting

__all__ = ["Cluster", "CycleResult", "Gang", "Placed", "QueueShare", "Waiting", "cycle", "warm"]
