"""Child processes: started with a log, waited for with a limit, stopped by pid."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")
"""Linux sends the death signal when the *thread* that forked ends: this one lives as long as the program."""


class NotStarted(Exception):
    """A process ended or said nothing in time; the message holds the end of its log."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One program with its log. It dies with its parent, unless ``detached``."""

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, *, environment: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.log = name, log
        self._command, self._environment, self._detached = [str(c) for c in command], environment, detached
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its pid; 0 when it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Start it; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._process = _spawner.submit(
                subprocess.Popen[bytes],
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=dict(self._environment) if self._environment is not None else None,
                start_new_session=True, preexec_fn=None if self._detached else _die_with_parent,
            ).result()  # fmt: skip

    def tail(self, size: int = 3000) -> str:
        """The end of its log."""
        try:
            return self.log.read_text("utf-8", "replace")[-size:]
        except OSError:
            return ""

    def wait_until(self, ready: Callable[[], bool], limit: float, what: str) -> None:
        """Wait until ``ready()``. Raises NotStarted when it ends before, or after ``limit`` seconds."""
        deadline = time.monotonic() + limit
        while not ready():
            if not self.pid:
                raise NotStarted(f"{self.name} ended before it was {what}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotStarted(f"{self.name} was not {what} after {limit:.0f} s:\n{self.tail()}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if pid := self.pid:
            os.kill(pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.stop(0)

    def stop(self, grace: float = 8.0) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds."""
        if not self._process:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM if grace else signal.SIGKILL)
            try:
                self._process.wait(grace or 10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)


def started_at(pid: int) -> str:
    """When a process began, in ticks since boot: with the pid it names the process for good. Empty: no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def running(noted: dict[str, list[str]]) -> dict[str, int]:
    """Name -> pid of what was noted and still runs (a pid that another process has by now does not count)."""
    return {name: int(pid) for name, (pid, since) in noted.items() if since and started_at(int(pid)) == since}
