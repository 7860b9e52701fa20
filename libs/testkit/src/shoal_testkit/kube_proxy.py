"""A proxy before the real API server that counts requests and, by rules, makes them go wrong.

Plain HTTP on 127.0.0.1 to the clients, TLS to the server; the client's own token goes through, so that its rights are
the real ones.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

ENDS = ("cut", "expire")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}


@dataclass
class Rule:
    """What to do with matching requests, ``times`` times (None: always), with a probability.

    ``act``: ``status`` answers without asking the server; ``delay`` waits first; ``lose`` asks the server and drops
    the answer; ``cut`` ends a watch after ``events`` events; ``expire`` sends a 410 into a watch after them.
    """

    verb: str
    path: str
    act: str
    status: int = 500
    seconds: float = 0.0
    events: int = 1
    times: int | None = 1
    probability: float = 1.0
    fired: int = 0


@dataclass
class Proxy:
    """The running proxy: add to ``rules``, read ``counts``."""

    url: str = ""
    rules: list[Rule] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(user agent, verb) -> requests that reached the server."""
    paths: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(verb, kind of path) -> requests."""
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def pick(self, verb: str, path: str, *, running: bool = False) -> Rule | None:
        """The first rule that matches and fires; for a watch that is ``running`` only what ends one."""
        for rule in self.rules:
            if running and rule.act not in ENDS:
                continue
            if rule.verb != verb or not re.search(rule.path, path) or (rule.times is not None and rule.fired >= rule.times):
                continue
            if self.rng.random() < rule.probability:
                rule.fired += 1
                return rule
        return None

    def writes(self) -> int:
        """Requests that change something, by our services."""
        return sum(n for (agent, verb), n in self.counts.items() if agent.startswith("shoal-") and verb != "GET")


def _shape(path: str) -> str:
    return re.sub(r"/namespaces/[^/]+", "/namespaces/*", re.sub(r"(pods|podgroups|queues|leases|events)/[^/]+", r"\1/*", path))


def _failure(status: int) -> web.Response:
    reason = {409: "Conflict", 410: "Expired", 429: "TooManyRequests"}.get(status, "InternalError")
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason, "message": "injected"}
    return web.json_response(body, status=status, headers={"Retry-After": "1"} if status == 429 else {})


@asynccontextmanager
async def proxy(upstream: str, ca: str) -> AsyncIterator[Proxy]:
    """A proxy before ``upstream`` for the time of the block."""
    found = Proxy()
    tls = ssl.create_default_context(cafile=ca)
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, read_bufsize=1 << 21
    ) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            verb, path = request.method, request.path_qs
            rule = found.pick(verb, path)
            if rule and rule.act == "status":
                return _failure(rule.status)
            if rule and rule.act == "delay":
                await asyncio.sleep(rule.seconds)
            found.counts[request.headers.get("User-Agent", "?"), verb] += 1
            found.paths[verb, _shape(request.path)] += 1
            headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
            body = await request.read() if request.can_read_body else None
            async with session.request(verb, upstream + path, headers=headers, data=body) as answer:
                if rule and rule.act == "lose":
                    await answer.read()
                    assert request.transport is not None
                    request.transport.close()
                    return web.Response()
                out = web.StreamResponse(
                    status=answer.status, headers={k: v for k, v in answer.headers.items() if k.lower() not in HOP}
                )
                await out.prepare(request)
                seen = 0
                async for chunk in answer.content.iter_any():
                    await out.write(chunk)
                    if not rule and "watch=1" in path:
                        rule = found.pick(verb, path, running=True)
                    seen += chunk.count(b"\n")
                    if rule and rule.act in ENDS and seen >= rule.events:
                        if rule.act == "expire":
                            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "injected"}
                            await out.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                        assert request.transport is not None
                        request.transport.close()
                        return out
                await out.write_eof()
                return out

        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield found
        finally:
            await runner.cleanup()
