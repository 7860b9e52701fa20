"""Health, metrics and a look inside, over HTTP: /healthz /readyz /metrics /debug/stacks /debug/aside.

Health and metrics are for all who reach the port. The pages under /debug answer to the machine itself (in a cluster:
to ``kubectl port-forward``).
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from shoal_service.aside import ASIDE
from shoal_service.metrics import REGISTRY, generate_latest

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
WaitingFor = Callable[[], list[str]]
LEADERSHIP = "leadership"
"""What a standby waits for: it is as ready as it gets."""


def _stacks() -> str:
    out = io.StringIO()
    for task in asyncio.all_tasks():
        task.print_stack(limit=8, file=out)
    return out.getvalue()


def _near(request: web.Request) -> bool:
    """Whether the request comes from this machine (or this pod)."""
    with suppress(ValueError):
        return ipaddress.ip_address(request.remote or "").is_loopback
    return False


def for_near(page: Page) -> Page:
    """The page, for requests of this machine (or pod) alone."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        if not _near(request):
            raise web.HTTPForbidden(text="from this machine only: use kubectl port-forward\n")
        return await page(request)

    return guarded


@asynccontextmanager
async def serving(host: str, port: int, port_file: str, waiting_for: WaitingFor) -> AsyncIterator[int]:
    """Serve for the time of the block; gives the port. ``waiting_for`` is empty once the service is ready."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        missing = waiting_for()
        text = "ok\n" if not missing else "".join(f"waiting for {m}\n" for m in missing)
        return web.Response(text=text, status=503 if missing and LEADERSHIP not in missing else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def stacks(_: web.Request) -> web.Response:
        return web.Response(text=_stacks())

    async def aside(_: web.Request) -> web.Response:
        return web.json_response(list(ASIDE))

    app = web.Application(client_max_size=1 << 16)
    app.add_routes([
        web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics),
        web.get("/debug/stacks", for_near(stacks)), web.get("/debug/aside", for_near(aside)),
    ])  # fmt: skip
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    taken = int(runner.addresses[0][1])
    if port_file:
        temporary = Path(f"{port_file}.new")
        temporary.write_text(str(taken))
        temporary.rename(port_file)
    try:
        yield taken
    finally:
        await runner.cleanup()
