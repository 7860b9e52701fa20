"""A plain client of the Kubernetes API for tests and benchmarks.

It shares no code with ``shoal_kube``, so that what checks the suite does not trust it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml


class ApiError(Exception):
    """The API server refused; ``status`` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


def _material(entry: dict[str, Any], key: str) -> bytes:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data)
    return Path(entry[key]).read_bytes()


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=_material(cluster, "certificate-authority").decode())
    if "client-certificate" in user or "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as folder:
            pem = Path(folder, "client.pem")
            pem.touch(mode=0o600)
            pem.write_bytes(_material(user, "client-certificate") + b"\n" + _material(user, "client-key"))
            context.load_cert_chain(pem)
    return context


class Api:
    """Requests as the user of a kubeconfig. ``Api.connect`` makes one."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: str | Path, *, agent: str = "shoal-testkit") -> AsyncIterator[Api]:
        """A client for the first cluster and user of the kubeconfig."""
        config = yaml.safe_load(Path(kubeconfig).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        headers = {"User-Agent": agent}
        if token := user.get("token"):
            headers["Authorization"] = f"Bearer {token}"
        connector = aiohttp.TCPConnector(ssl=_tls(cluster, user) if cluster["server"].startswith("https") else False, limit=64)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, read_bufsize=1 << 21, timeout=aiohttp.ClientTimeout(total=60)
        ) as session:
            yield cls(session, cluster["server"])

    async def call(self, verb: str, path: str, body: Any = None, *, content: str = "application/json") -> Any:
        """The decoded answer. Raises ApiError for a status of 400 and more."""
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            verb, self.url + path, data=data, headers={"Content-Type": content} if body is not None else {}
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, text)
            return json.loads(text) if text.startswith("{") else text

    async def get(self, path: str) -> Any:
        """GET."""
        return await self.call("GET", path)

    async def post(self, path: str, body: Any) -> Any:
        """POST."""
        return await self.call("POST", path, body)

    async def patch(self, path: str, body: Any) -> Any:
        """A merge patch."""
        return await self.call("PATCH", path, body, content="application/merge-patch+json")

    async def delete(self, path: str) -> Any:
        """DELETE."""
        return await self.call("DELETE", path)

    async def delete_queue(self, name: str, limit: float = 30.0) -> None:
        """Delete a queue, if it is there, as soon as its status says that nothing is in it; after ``limit`` s it stays."""
        try:
            async with asyncio.timeout(limit):
                while True:
                    try:
                        await self.delete(f"/apis/scheduling.run.ai/v2/queues/{name}")
                        return
                    except ApiError as error:
                        if error.status == 404:
                            return
                        if error.status != 403:
                            raise
                    await asyncio.sleep(0.5)
        except TimeoutError:
            return

    async def items(self, path: str) -> list[dict[str, Any]]:
        """All objects of a list."""
        return (await self.get(path))["items"]

    async def watch(self, path: str, version: str, *, query: str = "") -> AsyncIterator[dict[str, Any]]:
        """Events after ``version``, across cut connections and restarts of the server.

        Raises ApiError 410 when the history is gone.
        """
        while True:
            try:
                async for line in self.lines(path, version, query="&allowWatchBookmarks=true" + query):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), json.dumps(event["object"]))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.2)
            except ApiError as error:
                # A server that has just begun refuses until its rules and caches are there.
                if error.status == 410:
                    raise
                await asyncio.sleep(0.2)

    async def lines(self, path: str, version: str, *, query: str = "") -> AsyncIterator[bytes]:
        """One watch's events after ``version``, as they come. Raises ApiError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
        where = f"{self.url}{path}?watch=1&resourceVersion={version}{query}"
        async with self._session.get(where, timeout=timeout) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            async for line in response.content:
                yield line


async def gather_limited(coroutines: list[Any], limit: int = 32) -> list[Any]:
    """Results of all coroutines, at most ``limit`` at a time."""
    gate = asyncio.Semaphore(limit)

    async def one(coroutine: Any) -> Any:
        async with gate:
            return await coroutine

    return list(await asyncio.gather(*(one(c) for c in coroutines)))
