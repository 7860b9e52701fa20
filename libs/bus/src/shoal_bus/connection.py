"""One connection to NATS for a process: connect, stay connected, say when the server came back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from shoal_bus.errors import Unavailable

log = logging.getLogger(__name__)
Callback = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class BusConfig:
    """Where the bus is and who we are on it."""

    url: str
    name: str
    user: str = ""
    password: str = ""
    timeout: float = 5.0
    """Seconds that a request may take."""
    connect_timeout: float = 30.0
    """Seconds until a first connection must stand."""


class Connection:
    """The client and what hangs on it. Reconnects for ever, every half second."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self.nc = Client()
        self.reconnects = 0
        self._callbacks: list[Callback] = []
        self._pending: set[asyncio.Task[None]] = set()

    @property
    def js(self) -> JetStreamContext:
        """The JetStream context."""
        return self.nc.jetstream(timeout=self.config.timeout)

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

    async def _error(self, error: Exception) -> None:
        log.warning("bus: %s", error or type(error).__name__)

    async def open(self) -> None:
        """Connect. Raises Unavailable when no server answers within ``connect_timeout``."""
        options: dict[str, Any] = {"reconnect_time_wait": 0.5}
        if self.config.user:
            options |= {"user": self.config.user, "password": self.config.password}
        deadline = asyncio.get_running_loop().time() + self.config.connect_timeout
        while True:
            try:
                await self.nc.connect(
                    self.config.url,
                    name=self.config.name,
                    error_cb=self._error,
                    reconnected_cb=self._reconnected,
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
                await self.nc.close()
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"no NATS at {self.config.url}: {error or type(error).__name__}") from error
                self.nc = Client()
                await asyncio.sleep(0.3)

    async def close(self) -> None:
        """Close, cancelling callbacks that still run."""
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
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
