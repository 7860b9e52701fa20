"""A mirror of the state plane in a process of its own: prints seconds to current, records, and resident MiB."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import structlog

from shoal_bus import Bus, BusConfig
from shoal_service.mirror import mirror


async def main(url: str) -> None:
    """Read until current."""
    before = machine.resident_mib(os.getpid())
    async with Bus.connect(BusConfig(url, "bench-reader")) as bus:
        context: Any = SimpleNamespace(bus=bus, config=SimpleNamespace(shard="default"), log=structlog.get_logger())
        held: dict[tuple[str, ...], object] = {}
        began = time.perf_counter()
        async for news in mirror(context, ["pod", "node"]):
            if news.record is not None:
                held[news.kind, *news.names] = news.record
            if news.current:
                break
        print(time.perf_counter() - began, len(held), machine.resident_mib(os.getpid()) - before)


asyncio.run(main(sys.argv[1]))
