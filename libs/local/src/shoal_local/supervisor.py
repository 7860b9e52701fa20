"""The services of the suite as processes: started, watched, started again when they end, as Kubernetes would do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from shoal_local.bus import LocalBus
from shoal_local.control_plane import ControlPlane
from shoal_local.process import Child, NotStarted
from shoal_testkit.nats import free_port

SERVICES = (
    "cluster-state", "pod-grouper", "queue-controller", "scheduler", "binder", "gpu-reservation", "admission",
    "shard-controller",
)  # fmt: skip
READY_LIMIT = 60.0


FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before what ended is started again: doubled each time, the first again after it ran for the longest."""


class Restarts:
    """When each part may be started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def runs(self, name: str) -> None:
        """The part is there."""
        now = self._clock()
        self._due.pop(name, None)
        if now - self._began.setdefault(name, now) >= LONGEST_PAUSE:
            self._pauses.pop(name, None)

    def due(self, name: str) -> bool:
        """The part is down: whether to start it now."""
        now = self._clock()
        if name not in self._due:
            pause = self._pauses.get(name, FIRST_PAUSE)
            self._pauses[name] = min(LONGEST_PAUSE, pause * 2)
            self._due[name] = now + pause
        if now < self._due[name]:
            return False
        del self._due[name]
        self._began[name] = now
        self.counts[name] = self.counts.get(name, 0) + 1
        return True


class Supervisor:
    """Runs the services on a control plane and a bus. ``replicas`` names those of which there is more than one."""

    def __init__(
        self, folder: Path, plane: ControlPlane, bus: LocalBus, *, replicas: dict[str, int] | None = None,
        environment: dict[str, str | None] | None = None, api_url: str | None = None,
        restarts: Restarts | None = None,
    ) -> None:  # fmt: skip
        self.folder, self._plane, self._bus = folder, plane, bus
        self._backoff = restarts
        self._extra, self._api_url = environment or {}, api_url
        counts = dict.fromkeys(SERVICES, 1) | (replicas or {})
        self.names = [f"{s}-{i}" for s in SERVICES for i in range(counts[s])]
        self.children: dict[str, Child] = {}
        self._watcher: threading.Thread | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.restarts: dict[str, int] = {}
        self.admission_port = free_port()
        """Of the webhooks: replicas of admission share it."""

    def start(self) -> None:
        """Start all services and wait until each is ready. Raises NotStarted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            self.spawn(name)
        for name in self.names:
            self.wait_ready(name)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End all services."""
        self._ending.set()
        if self._watcher:
            self._watcher.join(10)
        with self._lock:
            for child in self.children.values():
                child.signal(signal.SIGCONT)
                child.signal(signal.SIGTERM)
            for child in self.children.values():
                child.stop(5)

    def pid(self, name: str) -> int:
        """The pid of a replica; 0 while it does not run."""
        return self.children[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a replica a signal."""
        self.children[name].signal(number)

    def port_file(self, name: str) -> Path:
        """Where the replica writes its HTTP port."""
        return self.folder / f"{name}.port"

    def http(self, name: str, path: str) -> tuple[int, str]:
        """GET of a replica's HTTP server: (status, text); (0, reason) when it does not answer."""
        try:
            port = int(self.port_file(name).read_text())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, ValueError) as error:
            return 0, str(error)

    def wait_ready(self, name: str, limit: float = READY_LIMIT) -> None:
        """Wait for /readyz. Raises NotStarted with what it waits for and the end of its log.

        One that ends meanwhile is started again by the watcher, if there is one: then that is waited for.
        """
        deadline = time.monotonic() + limit
        while True:
            child, last = self.children[name], ""

            def ready() -> bool:
                nonlocal last
                status, last = self.http(name, "/readyz")
                return status == 200 and (last == "ok\n" or self._standby(name))

            try:
                child.wait_until(ready, max(0.1, deadline - time.monotonic()), "ready")
                return
            except NotStarted as error:
                if self._watcher is None or child.pid or time.monotonic() > deadline:
                    raise NotStarted(f"{error}\n{last}") from error
                time.sleep(0.2)

    def _standby(self, name: str) -> bool:
        """Whether it may be that another replica leads; one alone has to."""
        return sum(n.rpartition("-")[0] == name.rpartition("-")[0] for n in self.names) > 1

    def environment(self, name: str) -> dict[str, str]:
        """What a replica is told."""
        service, _, _ = name.rpartition("-")
        told: dict[str, str | None] = os.environ | {
            "SHOAL_NATS_URL": self._bus.url,
            "SHOAL_NATS_USER": service,
            "SHOAL_NATS_PASSWORD_FILE": str(self._bus.password_file(service)),
            "SHOAL_HTTP_PORT_FILE": str(self.port_file(name)),
            "KUBECONFIG": str(self._plane.kubeconfig_for(service, self._api_url)),
            # All of it shares this machine's cores: the API server may be busy for longer than the default lasts.
            "SHOAL_LEASE_SECONDS": "6",
        } | (self._webhooks() if service == "admission" else {}) | self._extra  # fmt: skip
        return {name: value for name, value in told.items() if value is not None}

    def _webhooks(self) -> dict[str, str]:
        return {
            "SHOAL_PORT": str(self.admission_port), "SHOAL_SHARED_PORT": "true", "SHOAL_HOSTS": "127.0.0.1",
            "SHOAL_CERTIFICATE_EVERY": "5",
        }  # fmt: skip

    def spawn(self, name: str, **extra: str) -> None:
        """Start one replica, with more in its environment; it may not be ready yet."""
        service, _, _ = name.rpartition("-")
        self.port_file(name).unlink(missing_ok=True)
        command = [sys.executable, "-m", f"shoal_{service.replace('-', '_')}"]
        log = self.folder / "logs" / f"{name}.log"
        child = Child(name, command, log, environment=self.environment(name) | extra)
        child.start()
        self.children[name] = child

    def _watch(self) -> None:
        """Start again what ended: after a second (so that it can't spin), or as ``restarts`` says."""
        ended: dict[str, float] = {}
        while not self._ending.wait(0.1):
            with self._lock:
                for name in self.names:
                    if self.children[name].pid:
                        if self._backoff is not None:
                            self._backoff.runs(name)
                        continue
                    if self._backoff is not None:
                        if not self._backoff.due(name):
                            continue
                    elif time.monotonic() - ended.setdefault(name, time.monotonic()) < FIRST_PAUSE:
                        continue
                    ended.pop(name, None)
                    try:
                        self.spawn(name)
                        self.restarts[name] = self.restarts.get(name, 0) + 1
                    except Exception as error:  # the API server is away: try again
                        print(f"supervisor: {name} can't be started: {error}", file=sys.stderr)
