"""An API server that answers by script: for answers that a real one gives only by chance (late, wrong, never).

Plain HTTP on 127.0.0.1. Each expected request takes the next answer of its list; the last one is given for ever.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web


@dataclass
class Answer:
    """One answer: ``body`` whole, or ``lines`` of a watch, one by one; ``hang`` says nothing more afterwards."""

    status: int = 200
    body: Any = None
    lines: list[Any] = field(default_factory=list)
    hang: bool = False
    drop: bool = False
    """Close the connection without an answer."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """``answers``: "VERB what" -> answers; ``what`` is ``list``, ``stream`` or ``watch`` for GETs of collections (with
    the path behind it for one alone), else the path. ``asked`` records (what, path with query, body)."""

    kubeconfig: Path
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    def take(self, what: str, path: str) -> Answer:
        """The next answer."""
        left = self.answers.get(f"{what} {path}") or self.answers.get(what)
        if not left:
            return Answer(404, status_object(404, "NotFound", f"nothing scripted for {what}"))
        return left.pop(0) if len(left) > 1 else left[0]


def status_object(code: int, reason: str, message: str = "scripted") -> dict[str, Any]:
    """A Status of the API."""
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


def _what(request: web.Request) -> str:
    query = request.query
    if request.method == "GET" and "watch" in query:
        return "GET stream" if "sendInitialEvents" in query else "GET watch"
    if request.method == "GET" and "limit" in query:
        return "GET list"
    return f"{request.method} {request.path}"


@asynccontextmanager
async def scripted_api(folder: Path) -> AsyncIterator[Script]:
    """A scripted API for the time of the block; its kubeconfig is written into ``folder``."""
    script = Script(folder / "kubeconfig")

    async def handle(request: web.Request) -> web.StreamResponse:
        what, text = _what(request), await request.text()
        script.asked.append((what, request.path_qs, json.loads(text) if text else None))
        answer = script.take(what, request.path)
        if answer.drop:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if not answer.lines and not answer.hang:
            return web.json_response(answer.body, status=answer.status, headers=answer.headers)
        out = web.StreamResponse(status=answer.status)
        await out.prepare(request)
        for line in answer.lines:
            await out.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
        if answer.hang:
            await asyncio.sleep(3600)
        return out

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    script.kubeconfig.write_text(yaml.safe_dump(config))
    try:
        yield script
    finally:
        await runner.cleanup()
