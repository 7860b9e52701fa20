"""One process of the suite: settings, bus, health, one task group, an orderly end.

A task that dies takes the process with it (exit status 1): whoever runs it starts it again, and it rebuilds what it
knows from the API and the bus.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import uvloop
from structlog.typing import FilteringBoundLogger

from shoal_bus import Bus, BusConfig, BusError, NotAllowed
from shoal_contracts import subjects
from shoal_contracts.queries import HealthReply
from shoal_kube import Invalid, KubeError
from shoal_service import logging, telemetry
from shoal_service.clock import Clock, SystemClock
from shoal_service.config import BadConfig, Common, load
from shoal_service.http import serving
from shoal_service.metrics import UNEXPECTED

ConfigT = TypeVar("ConfigT", bound=Common)


def passes(error: Exception) -> bool:
    """Whether what failed may succeed when it is done again: bus or API are away, slow, busy or not set up yet."""
    if isinstance(error, BusError):
        return not isinstance(error, NotAllowed)
    if isinstance(error, KubeError):
        return not isinstance(error, Invalid)
    return isinstance(error, OSError)  # timeouts among them


@dataclass
class Context(Generic[ConfigT]):
    """What a service is given to work with."""

    name: str
    config: ConfigT
    bus: Bus
    clock: Clock
    log: FilteringBoundLogger
    tasks: asyncio.TaskGroup
    kubeconfig: str | None
    identity: str
    """Unique to this process."""
    waiting: set[str] = field(default_factory=set)

    def wait_for(self, what: str) -> None:
        """Not ready until ``have(what)``."""
        self.waiting.add(what)

    def have(self, what: str) -> None:
        """``what`` is there."""
        self.waiting.discard(what)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run work in the service's task group: if it fails, the service ends."""
        return self.tasks.create_task(work, name=name)

    async def retry(self, place: str, work: Callable[[], Awaitable[object]], wait: float = 0.2) -> None:
        """Do ``work`` until it succeeds; each failure that can pass is counted, logged and waited out (up to 5 s, with
        jitter). Raises what no repetition mends, with a line in the log that says where."""
        while True:
            try:
                await work()
                return
            except asyncio.CancelledError:
                raise
            except Exception as error:
                UNEXPECTED.labels(place).inc()
                if not passes(error):
                    self.log.error("given up", place=place, error=repr(error), exc_info=error)
                    raise
                self.log.warning("again soon", place=place, error=str(error) or type(error).__name__)
                await asyncio.sleep(wait * (0.75 + random.random() / 2))
                wait = min(5.0, wait * 2)


Start = Callable[[Context[ConfigT]], Awaitable[None]]


def _bus_config(name: str, config: Common) -> BusConfig:
    return BusConfig(
        config.nats_url, name, config.nats_user, config.nats_password, config.nats_password_file, config.nats_ca_file,
        config.nats_tls_first, config.nats_replicas,
    )  # fmt: skip


async def _serve(name: str, config: ConfigT, start: Start[ConfigT]) -> None:
    log = logging.set_up(name, config.log_level)
    telemetry.set_up(name, config.trace_ratio, config.trace_file)
    identity = f"{name}-{socket.gethostname()}-{os.getpid()}-{random.SystemRandom().getrandbits(40):010x}"
    waiting: set[str] = {"bus"}
    main = asyncio.current_task()
    assert main is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main.cancel)
    async with serving(config.http_host, config.http_port, config.http_port_file, lambda: sorted(waiting)) as port:
        log.info("starting", identity=identity, http_port=port)
        async with Bus.connect(_bus_config(name, config)) as bus, asyncio.TaskGroup() as tasks:
            tasks.create_task(bus.ended(), name="bus")
            context = Context(name, config, bus, SystemClock(), log, tasks, os.environ.get("KUBECONFIG"), identity, waiting)
            waiting.discard("bus")

            async def health(_: bytes) -> HealthReply:
                missing = sorted(waiting)
                return HealthReply(service=name, instance=identity, ready=not missing, waiting_for=missing)

            await bus.serve(subjects.query(name, "health"), health, queue=name)
            await start(context)


def run(name: str, kind: type[ConfigT], start: Start[ConfigT]) -> None:
    """Run a service until SIGTERM, SIGINT or a failure; exits with 0, or 1 (failed) or 2 (bad settings).

    ``start`` starts the service's tasks through the Context that it is given.
    """
    options = argparse.ArgumentParser(prog=f"shoal-{name}")
    options.add_argument("--config", help="YAML file of settings", default=os.environ.get("SHOAL_CONFIG"))
    options.add_argument("--log-level", choices=sorted(logging.LEVELS))
    given = options.parse_args()
    try:
        config = load(kind, given.config, os.environ)
    except BadConfig as error:
        print(f"shoal-{name}: {error}", file=sys.stderr)
        sys.exit(2)
    if given.log_level:
        config.log_level = given.log_level
    status = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(name, config, start))
    except asyncio.CancelledError:
        pass  # SIGTERM
    except BaseExceptionGroup as group:
        log = logging.set_up(name, config.log_level)
        for error in group.exceptions:
            log.error("ended by an error", error=repr(error), exc_info=error)
        status = 1
    except Exception as error:
        logging.set_up(name, config.log_level).error("ended by an error", error=repr(error), exc_info=error)
        status = 1
    finally:
        telemetry.shut_down()
    sys.exit(status)
