"""shoal log: the scheduler's log of inputs and decisions from the bus, as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from shoal_bus import Bus, BusConfig
from shoal_contracts import streams, subjects

AUDITOR = "auditor"
"""The user of the bus that may read the log."""


async def fetch(url: str, password_file: Path, ca_file: Path | None, shard: str, out: BinaryIO) -> int:
    """Write the log to ``out``; returns the number of messages. Raises BusError, OSError."""
    config = BusConfig(
        url=url, name="shoal-log", user=AUDITOR, password_file=str(password_file), ca_file=str(ca_file or ""),
        connect_timeout=10.0,
    )  # fmt: skip
    count = 0
    async with Bus.connect(config) as bus:
        async for data in bus.history(streams.LOG.name, [subjects.log("*", shard=shard)]):
            out.write(data + b"\n")
            count += 1
    return count
