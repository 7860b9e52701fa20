"""Requests to the Kubernetes API: rate limit, retries of what may be repeated, errors as classes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from shoal_kube import auth
from shoal_kube.errors import KubeError, NotLeading, Throttled, Unreachable, from_response

MERGE = "application/merge-patch+json"
JSON = "application/json"
_REPEATABLE = frozenset({"GET", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True)
class KubeConfig:
    """How to reach the API and how hard to press it."""

    kubeconfig: str | None = None
    agent: str = "shoal"
    qps: float = 1000.0
    burst: int = 2000
    timeout: float = 15.0
    """Seconds that one try may take."""
    patience: float = 20.0
    """Seconds in which a request that may be repeated is tried again."""


class Bucket:
    """A token bucket: ``burst`` at once, ``qps`` in the long run."""

    def __init__(self, qps: float, burst: int) -> None:
        self._qps, self._burst = qps, burst
        self._tokens, self._at = float(burst), 0.0

    async def take(self) -> None:
        """Wait for a token."""
        now = asyncio.get_running_loop().time()
        if self._at:
            self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._qps)
        self._at = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._qps)


class Kube:
    """The API as one of our services sees it. ``Kube.connect`` makes one."""

    def __init__(self, session: aiohttp.ClientSession, access: auth.Access, config: KubeConfig) -> None:
        self._session, self._access, self._config = session, access, config
        self._bucket = Bucket(config.qps, config.burst)
        self._may_write: Callable[[], bool] | None = None

    def guarded(self, may_write: Callable[[], bool]) -> Kube:
        """The same client, whose writes raise NotLeading instead of being sent while ``may_write()`` is false; it is asked
        right before each try."""
        found = Kube(self._session, self._access, self._config)
        found._bucket, found._may_write = self._bucket, may_write
        return found

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: KubeConfig) -> AsyncIterator[Kube]:
        """A client for the time of the block. Raises auth.BadKubeconfig."""
        access = auth.access(config.kubeconfig)
        connector = aiohttp.TCPConnector(ssl=access.tls if access.tls else False, limit=128)
        async with aiohttp.ClientSession(
            connector=connector, read_bufsize=1 << 21, headers={"User-Agent": config.agent}
        ) as session:
            yield cls(session, access, config)

    def _headers(self, content: str | None, accept: str | None) -> dict[str, str]:
        found = {"Accept": accept or JSON, "Accept-Encoding": "identity"}
        if token := self._access.token():
            found["Authorization"] = f"Bearer {token}"
        if content:
            found["Content-Type"] = content
        return found

    async def _once(self, verb: str, path: str, data: bytes | None, content: str | None, accept: str | None) -> bytes:
        await self._bucket.take()
        if self._may_write is not None and verb != "GET" and not self._may_write():
            raise NotLeading(0, "NotLeading", f"{verb} {path}")
        try:
            async with self._session.request(
                verb,
                self._access.url + path,
                data=data,
                headers=self._headers(content, accept),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout),
            ) as response:
                body = await response.read()
                if response.status >= 400:
                    raise from_response(response.status, body, response.headers.get("Retry-After"))
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(0, type(error).__name__, f"{verb} {path}: {error}") from error

    async def call(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        content: str = JSON,
        accept: str | None = None,
        retry: bool = True,
    ) -> bytes:
        """The answer's body. Raises a KubeError.

        A verb that may be repeated is tried again while the server is unreachable or throttles, within the patience;
        POST is tried again only when it was throttled (then nothing was done).
        """
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        deadline = asyncio.get_running_loop().time() + self._config.patience
        wait = 0.1
        while True:
            try:
                return await self._once(verb, path, data, content if data is not None else None, accept)
            except Throttled as error:
                pause = error.retry_after
                failed: KubeError = error
            except Unreachable as error:
                if verb not in _REPEATABLE:
                    raise
                pause = wait = min(3.0, wait * 2)
                failed = error
            pause *= 0.75 + random.random() / 2
            if not retry or asyncio.get_running_loop().time() + pause > deadline:
                raise failed
            await asyncio.sleep(pause)

    async def get(self, path: str, *, accept: str | None = None) -> bytes:
        """GET."""
        return await self.call("GET", path, accept=accept)

    async def post(self, path: str, body: Any) -> bytes:
        """POST."""
        return await self.call("POST", path, body)

    async def merge_patch(self, path: str, body: Any) -> bytes:
        """A JSON merge patch; a resourceVersion in its metadata is a precondition."""
        return await self.call("PATCH", path, body, content=MERGE)

    async def put(self, path: str, body: Any) -> bytes:
        """PUT."""
        return await self.call("PUT", path, body)

    async def delete(self, path: str, uid: str = "", version: str = "", grace: int | None = None) -> bytes:
        """DELETE, on condition of UID and resourceVersion if given; ``grace``: seconds that a pod has to end."""
        conditions = {k: v for k, v in (("uid", uid), ("resourceVersion", version)) if v}
        options: dict[str, Any] = {"preconditions": conditions} if conditions else {}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        return await self.call("DELETE", path, options or None)

    async def bind(
        self, namespace: str, pod: str, uid: str, version: str, node: str, annotations: dict[str, str], *, dry_run: bool = False
    ) -> None:
        """Bind a pod on condition of UID and resourceVersion; the annotations are merged in the same write.
        ``dry_run``: only ask whether it would be done.

        Raises Conflict (another pod, another version, or bound already), NotFound, Unreachable (it may be bound).
        """
        metadata: dict[str, Any] = {"name": pod, "namespace": namespace, "uid": uid, "resourceVersion": version}
        if annotations:
            metadata["annotations"] = annotations
        await self.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods/{pod}/binding" + ("?dryRun=All" if dry_run else ""),
            {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": metadata,
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            },
        )

    async def evict(self, namespace: str, pod: str, uid: str, version: str = "", *, dry_run: bool = False) -> None:
        """Evict a pod through the Eviction API, on condition of its UID and, if given, its resourceVersion.

        Raises Throttled (a disruption budget forbids it), Conflict, NotFound, Unreachable.
        """
        conditions = {"uid": uid, "resourceVersion": version} if version else {"uid": uid}
        options: dict[str, Any] = {"preconditions": conditions}
        if dry_run:
            options["dryRun"] = ["All"]
        await self.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction",
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod, "namespace": namespace},
                "deleteOptions": options,
            },
            retry=False,
        )

    @asynccontextmanager
    async def stream(self, path: str, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of a watch. Raises KubeError, also for ``silence`` seconds without a byte."""
        await self._bucket.take()
        try:
            async with self._session.get(
                self._access.url + path,
                headers=self._headers(None, None),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.timeout, sock_read=silence),
            ) as response:
                if response.status >= 400:
                    body = await response.read()
                    raise from_response(response.status, body, response.headers.get("Retry-After"))
                yield _lines(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(0, type(error).__name__, f"watch {path}: {error}") from error


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines without their end; a line may be as long as an object (1.5 MiB and more)."""
    rest = b""
    async for chunk in response.content.iter_any():
        parts = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        rest = parts.pop()
        for line in parts:
            if line:
                yield line
