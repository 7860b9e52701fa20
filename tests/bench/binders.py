"""Bindings per second with 1, 2 and 4 binders of 8 in flight each, before an API that answers each after 20 ms.

The API is a stand-in that says yes; NATS is real. Beside it the same without the delay and with 64 in flight: then the
cores are the bound.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent))

import machine
import uvloop
import yaml

from shoal_bus import Bus, BusConfig
from shoal_contracts import streams
from shoal_contracts.decision import Decision, Verb
from shoal_local.process import Child
from shoal_scheduler.commit import Committer, Terms, take_epoch
from shoal_testkit.nats import NatsServer

EACH, BAR = 1500, 0.8
DELAY, IN_FLIGHT = 0.020, 8
YES = b'{"kind":"Status","status":"Success"}'
NO = b'{"kind":"Status","code":404,"reason":"NotFound","message":"not here"}'


def response(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


class YesSayer(asyncio.Protocol):
    """Answers POST with 201 after ``delay`` seconds, anything else with 404."""

    def __init__(self, delay: float) -> None:
        self._delay, self._left = delay, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._left += data
        head, found, body = self._left.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return
        self._left = body[length:]
        answer = response(b"201 Created", YES) if head.startswith(b"POST") else response(b"404 Not Found", NO)
        asyncio.get_running_loop().call_later(self._delay, self._transport.write, answer)


def kubeconfig(path: Path, port: int) -> Path:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    return path


def decisions(count: int) -> list[list[Decision]]:
    return [
        [
            Decision(
                id=f"1-1-{i}", verb=Verb.BIND, namespace="bench", pod=f"p{i}", uid=f"u{i}", resource_version="1",
                node="n", epoch=1,
            )
        ]
        for i in range(count)
    ]  # fmt: skip


async def rate(folder: Path, binders: int, delay: float, in_flight: int) -> float:
    """Bindings per second, from the commit of the decisions to the last outcome."""
    folder.mkdir()
    server = await asyncio.get_running_loop().create_server(lambda: YesSayer(delay), "127.0.0.1", 0)
    children: list[Child] = []
    try:
        with NatsServer() as nats:
            async with Bus.connect(BusConfig(nats.url, "bench")) as bus:
                await bus.ensure([streams.DECISION, streams.EVENT], [streams.BINDER])
                at = await take_epoch(bus, "default", 1, "bench", time.time())
                committer = Committer(bus, "default", 1, at, "bench")
                config = kubeconfig(folder / "kubeconfig", server.sockets[0].getsockname()[1])
                for i in range(binders):
                    known = os.environ | {
                        "SHOAL_NATS_URL": nats.url, "KUBECONFIG": str(config), "SHOAL_IN_FLIGHT": str(in_flight),
                        "SHOAL_HTTP_PORT_FILE": str(folder / f"{i}.port"), "SHOAL_QPS": "100000", "SHOAL_BURST": "100000",
                    }  # fmt: skip
                    child = Child(f"binder-{i}", [sys.executable, "-m", "shoal_binder"], folder / f"{i}.log", environment=known)
                    child.start()
                    children.append(child)
                await asyncio.sleep(2.5)
                before = await bus.last_seq(streams.DECISION.name)
                count = EACH * binders
                began = time.perf_counter()
                await committer.commit(decisions(count), Terms(lambda uid: 0, {}, time.time(), lambda uid, seq, last: None))
                fences = committer.batches
                async with asyncio.timeout(120):
                    while await bus.last_seq(streams.DECISION.name) < before + 2 * count + fences:
                        await asyncio.sleep(0.02)
                return count / (time.perf_counter() - began)
    finally:
        for child in children:
            child.kill()
        server.close()


async def main() -> int:
    """Run it; exits with 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    print(machine.describe(), flush=True)
    missed = False
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        for label, delay, in_flight in (("20 ms", DELAY, IN_FLIGHT), ("at once", 0.0, 64)):
            one = 0.0
            for binders in (1, 2, 4):
                folders = [Path(temporary) / f"{label[0]}-{binders}-{i}" for i in range(rounds)]
                found = max([await rate(folder, binders, delay, in_flight) for folder in folders])
                one = one or found
                part = found / (one * binders)
                print(
                    f"API answers {label}, {in_flight} in flight, {binders} binders: {found:.0f}/s, {part:.2f} linear",
                    flush=True,
                )
                missed |= bool(delay) and part < BAR
    print(f"(bar: {BAR} linear where the API answers after 20 ms)")
    return int(missed)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
