"""One connection to NATS for a process: connect, stay connected, say when the server came back."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from shoal_bus.errors import Unavailable
from shoal_contracts.permissions import api_prefix

log = logging.getLogger(__name__)
Callback = Callable[[], Awaitable[None]]
TRY = 10.0
"""Seconds that one try of the first connection may take."""
CLOSING = 2.0


@dataclass(frozen=True)
class BusConfig:
    """Where the bus is and who we are on it."""

    url: str
    name: str
    user: str = ""
    password: str = ""
    password_file: str = ""
    """Read anew before each connection, so that a password may change; wins over ``password``."""
    ca_file: str = ""
    """Certificates of the authorities that may have signed the server's; empty: those of the system (``tls://`` only)."""
    tls_first: bool = True
    """Where TLS is spoken: before anything else, as a server with ``handshake_first`` expects it. False: the server says
    first whether it wants TLS, so that someone between could have the password sent in the clear."""
    replicas: int = 1
    """Servers that keep a copy of each replicated stream."""
    timeout: float = 5.0
    """Seconds that a request may take."""
    connect_timeout: float = 30.0
    """Seconds until a first connection must stand."""

    def secret(self) -> str:
        """The password as it is now. Raises OSError."""
        return Path(self.password_file).read_text().strip() if self.password_file else self.password


class Connection:
    """The client and what hangs on it. Reconnects for ever, every half second."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self.nc = Client()
        self.reconnects = 0
        self._callbacks: list[Callback] = []
        self._pending: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._last: Exception | None = None

    @property
    def js(self) -> JetStreamContext:
        """The JetStream context of our own account: for publishing."""
        return self.nc.jetstream(timeout=self.config.timeout)

    def api(self, stream: str) -> str:
        """Where the JetStream API of a stream is."""
        return api_prefix(self.config.user, stream)

    def js_of(self, stream: str) -> JetStreamContext:
        """The JetStream context of the account in which a stream is: for all that is asked about it."""
        return self.nc.jetstream(timeout=self.config.timeout, prefix=self.api(stream))

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self.nc.is_connected

    def on_reconnect(self, callback: Callback) -> None:
        """Call ``callback`` each time the server is back; its errors are logged, not raised."""
        self._callbacks.append(callback)

    async def _reconnected(self) -> None:
        self.reconnects += 1
        for callback in self._callbacks:
            task = asyncio.create_task(self._call(callback))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _call(self, callback: Callback) -> None:
        try:
            await callback()
        except Exception:
            log.exception("a callback after a reconnect failed")

    async def _disconnected(self) -> None:
        """Before the client connects again."""
        try:
            self.nc.options["password"] = self.config.secret()
        except OSError as error:
            log.warning("bus: the password can't be read: %s", error)

    async def _was_closed(self) -> None:
        self._closed.set()

    async def ended(self) -> None:
        """Wait until the client has given up for good (the server refuses us). Raises Unavailable then."""
        await self._closed.wait()
        raise Unavailable(f"the connection to {self.config.url} was closed: {self.nc.last_error or 'no reason given'}")

    async def _error(self, error: Exception) -> None:
        self._last = error
        log.warning("bus: %s", str(error) or type(error).__name__)

    async def open(self) -> None:
        """Connect. Raises Unavailable when no server answers within ``connect_timeout``, OSError for a missing CA file."""
        options: dict[str, Any] = {"reconnect_time_wait": 0.5}
        if self.config.ca_file or self.config.url.startswith("tls:"):
            options["tls"] = ssl.create_default_context(cafile=self.config.ca_file or None)
            options["tls_handshake_first"] = self.config.tls_first
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.connect_timeout
        while True:
            try:
                if self.config.user:
                    options |= {"user": self.config.user, "password": self.config.secret()}
                # The client tries for ever by itself: an end, so that a password that changed is read.
                async with asyncio.timeout(min(TRY, max(0.1, deadline - loop.time()))):
                    await self.nc.connect(
                        self.config.url,
                        name=self.config.name,
                        error_cb=self._error,
                        reconnected_cb=self._reconnected,
                        disconnected_cb=self._disconnected,
                        closed_cb=self._was_closed,
                        max_reconnect_attempts=-1,
                        ping_interval=5,
                        max_outstanding_pings=2,
                        connect_timeout=5,
                        inbox_prefix=f"_INBOX_{self.config.user}" if self.config.user else "_INBOX",
                        allow_reconnect=True,
                        **options,
                    )
                return
            except (nats.errors.Error, OSError, TimeoutError) as error:
                reason = str(error) or str(self._last or "") or type(error).__name__
                await self._let_go()
                self._closed.clear()
                if loop.time() >= deadline:
                    raise Unavailable(f"no NATS at {self.config.url}: {reason}") from error
                self.nc = Client()
                await asyncio.sleep(0.3)

    async def close(self) -> None:
        """Close, cancelling callbacks that still run."""
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        await self._let_go()

    async def _let_go(self) -> None:
        """Close the client; after a handshake that failed it would wait for ever for its socket's end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await self.nc.close()


@asynccontextmanager
async def opened(config: BusConfig) -> AsyncIterator[Connection]:
    """A connection for the time of the block."""
    connection = Connection(config)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()
