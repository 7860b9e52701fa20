"""Three NATS servers with the configuration that the chart renders: one cluster, three copies, and it outlives a server."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal_bus import Bus, BusConfig, BusError
from shoal_contracts import streams, subjects
from shoal_testkit.chart import Rendered
from shoal_testkit.nats import binary, free_port

SIZE = 3
HEADLESS = "shoal-nats-headless.kai-scheduler.svc"


class Servers:
    """The pods of the StatefulSet as processes: their names and ports instead of DNS."""

    def __init__(self, found: Rendered, folder: Path) -> None:
        self.ports = [free_port() for _ in range(SIZE)]
        self.passwords, self.ca = found.passwords, folder / "ca.crt"
        for name, text in found.secret("shoal-nats-tls").items():
            (folder / name).write_text(text)
        routes = [free_port() for _ in range(SIZE)]
        self.processes = []
        for i in range(SIZE):
            text = found.secret("shoal-nats-config")["nats.conf"]
            for old, new in (
                ("/etc/nats/tls", str(folder)), ("/data", str(folder / f"js{i}")),
                ("0.0.0.0:4222", f"127.0.0.1:{self.ports[i]}"), ("127.0.0.1:8222", f"127.0.0.1:{free_port()}"),
                ("0.0.0.0:6222", f"127.0.0.1:{routes[i]}"),
                *((f"shoal-nats-{j}.{HEADLESS}:6222", f"127.0.0.1:{routes[j]}") for j in range(SIZE)),
            ):  # fmt: skip
                assert old in text, old
                text = text.replace(old, new)
            path = folder / f"{i}.conf"
            path.write_text(text)
            log = (folder / f"{i}.log").open("wb")
            environment = os.environ | {"POD_NAME": f"shoal-nats-{i}"}
            self.processes.append(subprocess.Popen([binary(), "-c", path], env=environment, stdout=log, stderr=log))

    def config(self, user: str, server: int) -> BusConfig:
        url = f"tls://127.0.0.1:{self.ports[server]}"
        return BusConfig(url, user, user, self.passwords[user], ca_file=str(self.ca), replicas=SIZE, connect_timeout=20.0)

    def kill(self, server: int) -> None:
        self.processes[server].kill()
        self.processes[server].wait(10)


@pytest.fixture
def servers(large: Rendered, tmp_path: Path) -> Iterator[Servers]:
    running = Servers(large, tmp_path)
    try:
        yield running
    finally:
        for i in range(SIZE):
            running.kill(i)


async def in_time(work: object, limit: float = 30.0) -> None:
    """Do it until it succeeds: a cluster that elects a leader refuses for a while."""
    async with asyncio.timeout(limit):
        while True:
            try:
                await work()  # type: ignore[operator]
                return
            except BusError:
                await asyncio.sleep(0.3)


async def test_a_cluster_of_three_keeps_three_copies_and_outlives_a_server(servers: Servers) -> None:
    async with Bus.connect(servers.config("scheduler", 0)) as bus:
        await in_time(lambda: bus.ensure([streams.DECISION, streams.EVENT, streams.LOG], [streams.BINDER]))
        where = subjects.decision("uid-1")
        await in_time(lambda: bus.publish(where, b"1"))
        servers.kill(2)
        await in_time(lambda: bus.publish(where, b"2"))
    # What one server took, another has.
    async with Bus.connect(servers.config("binder", 1)) as bus:

        async def seen() -> None:
            stored = await bus.last(streams.DECISION.name, where)
            assert stored is not None
            assert stored.data == b"2"

        await in_time(seen)
