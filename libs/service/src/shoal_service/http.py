"""Health, metrics and a look inside, over HTTP: /healthz /readyz /metrics /debug/stacks /debug/aside."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from shoal_service.aside import ASIDE
from shoal_service.metrics import REGISTRY, generate_latest

WaitingFor = Callable[[], list[str]]


def _stacks() -> str:
    out = io.StringIO()
    for task in asyncio.all_tasks():
        task.print_stack(limit=8, file=out)
    return out.getvalue()


@asynccontextmanager
async def serving(host: str, port: int, port_file: str, waiting_for: WaitingFor) -> AsyncIterator[int]:
    """Serve for the time of the block; gives the port. ``waiting_for`` is empty once the service is ready."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        missing = waiting_for()
        text = "ok\n" if not missing else "".join(f"waiting for {m}\n" for m in missing)
        return web.Response(text=text, status=503 if missing else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def stacks(_: web.Request) -> web.Response:
        return web.Response(text=_stacks())

    async def aside(_: web.Request) -> web.Response:
        return web.json_response(list(ASIDE))

    app = web.Application(client_max_size=1 << 16)
    app.add_routes([
        web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics),
        web.get("/debug/stacks", stacks), web.get("/debug/aside", aside),
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
