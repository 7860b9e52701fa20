"""gpu-reservation: on the bus and healthy; sharing itself is work to come."""

from __future__ import annotations

import asyncio

from shoal_service import Common, Context, run

NAME = "gpu-reservation"


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of gpu-reservation."""


async def start(context: Context[Config]) -> None:
    """Stay: health is answered by the frame, on HTTP and on the bus."""
    context.log.info("no sharing yet: pods that ask for a share of a GPU wait, with that as their reason")
    await asyncio.Event().wait()


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
