"""One active replica: the others wait for its Lease."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shoal_kube import Election, Kube
from shoal_service.http import LEADERSHIP
from shoal_service.main import Context


class LostLease(Exception):
    """Another may lead now: the process ends, so that it can't go on by mistake."""


def writer(kube: Kube, election: Election | None) -> Kube:
    """The client whose writes need a valid Lease; ``kube`` itself where elections are off."""
    return kube.guarded(election.valid) if election else kube


@asynccontextmanager
async def leading(context: Context[Any], kube: Kube, lease: str) -> AsyncIterator[Election | None]:
    """Wait until this process leads, and lead for the time of the block. None where elections are off.

    A Lease that is lost ends the service (LostLease); leaving the block in order hands it over at once.
    """
    if not context.config.elect:
        yield None
        return
    context.wait_for(LEADERSHIP)
    election = Election(kube, context.config.namespace, lease, context.identity, context.clock, context.config.lease_seconds)

    async def stand() -> None:
        await election.run()
        raise LostLease(lease)

    task = context.start(stand(), f"lease {lease}")
    await election.leading.wait()
    context.have(LEADERSHIP)
    context.log.info("leading", lease=lease)
    try:
        yield election
    finally:
        task.cancel()
        await election.release()
