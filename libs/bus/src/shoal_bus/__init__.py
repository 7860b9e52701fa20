"""The only door to NATS."""

from shoal_bus.bus import Bus, Stored
from shoal_bus.connection import BusConfig
from shoal_bus.consume import Delivery
from shoal_bus.errors import BusError, Conflict, NotAllowed, Unavailable, Unknown
from shoal_bus.follow import Change
from shoal_bus.publish import Committed, Item

__all__ = [
    "Bus", "BusConfig", "BusError", "Change", "Committed", "Conflict", "Delivery", "Item", "NotAllowed", "Stored",
    "Unavailable", "Unknown",
]  # fmt: skip
