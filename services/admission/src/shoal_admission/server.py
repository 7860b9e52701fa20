"""The HTTPS server that the API server asks: bounded requests in, verdicts out."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from shoal_admission import metrics
from shoal_kube import admission
from shoal_kube.admission import Request, Verdict
from shoal_service.metrics import UNEXPECTED

LARGEST = 8 << 20
"""Bytes of a review: an object and the one before, each of at most 3 MiB as the API server takes them."""
AT_A_TIME = 64
"""Reviews whose bodies are held at a time; further ones wait, within their time limit."""

Review = Callable[[Request], Verdict]


def tls_context(client_ca: str) -> ssl.SSLContext:
    """A server's context without a certificate yet; with ``client_ca`` (a file) callers must show a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _refusal(status: int, why: str, text: str) -> web.Response:
    metrics.FAILED.labels(why).inc()
    return web.Response(status=status, text=text + "\n")


def handler(
    hook: str, review: Review, limit: float, gate: asyncio.Semaphore, log: Any
) -> Callable[..., Awaitable[web.Response]]:
    """The handler of one hook."""
    seconds = metrics.SECONDS.labels(hook)

    async def handle(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _refusal(415, "content type", "send application/json")
        try:
            async with asyncio.timeout(limit), gate:
                with seconds.time():
                    asked = admission.decode(await request.read())
                    verdict = review(asked)
        except admission.BadReview as error:
            return _refusal(400, "not a review", str(error))
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, "too large", f"a review has at most {LARGEST} bytes")
        except TimeoutError:
            return _refusal(503, "too slow", f"no verdict within {limit:g} s")
        except (ConnectionError, web.RequestPayloadError):
            return _refusal(400, "cut off", "the body did not come whole")
        except Exception as error:
            # The API server does as the hook's failurePolicy says; the message must not be the user's riddle.
            UNEXPECTED.labels(f"review {hook}").inc()
            log.error("a review failed", hook=hook, error=repr(error), exc_info=error)
            return _refusal(500, "error", "the review failed; the log of admission says why")
        result = "refused" if not verdict.allowed else "patched" if verdict.patch else "accepted"
        metrics.REVIEWS.labels(hook, result).inc()
        if verdict.warnings:
            metrics.WARNED.labels(hook).inc()
        if not verdict.allowed:
            log.info("refused", hook=hook, namespace=asked.namespace, object=asked.name, why=verdict.message[:500])
        return web.Response(body=admission.encode(asked.uid, verdict), content_type="application/json")

    return handle


@asynccontextmanager
async def serving(
    reviews: Mapping[str, Review], context: ssl.SSLContext, log: Any, *, host: str, port: int, port_file: str, shared: bool,
    limit: float,
) -> AsyncIterator[int]:  # fmt: skip
    """Serve each path's review for the time of the block; gives the port. ``shared``: others may listen on it too."""
    gate = asyncio.Semaphore(AT_A_TIME)
    app = web.Application(client_max_size=LARGEST)
    for path, review in reviews.items():
        app.router.add_post(path, handler(path.lstrip("/"), review, limit, gate, log))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=limit)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context, reuse_port=shared or None, backlog=512).start()
        taken = int(runner.addresses[0][1])
        if port_file:
            temporary = Path(f"{port_file}.new")
            temporary.write_text(str(taken))
            temporary.rename(port_file)
        yield taken
    finally:
        await runner.cleanup()
