"""The whole of it on one machine: control plane, bus, services."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from shoal_local.bus import LocalBus
from shoal_local.control_plane import ControlPlane
from shoal_local.supervisor import Supervisor


class Suite:
    """Start with ``start()``, end with ``stop()``. The parts can be used, and broken, one by one."""

    def __init__(
        self, folder: Path, *, replicas: dict[str, int] | None = None, environment: dict[str, str] | None = None,
        workload_api: bool = True, detached: bool = False, api_url: str | None = None, plane: ControlPlane | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder.resolve()
        self._own_plane = plane is None
        self.plane = plane or ControlPlane(self.folder / "plane", workload_api=workload_api, detached=detached)
        self.bus = LocalBus(self.folder / "bus", detached=detached)
        self.services = Supervisor(
            self.folder / "services", self.plane, self.bus, replicas=replicas, environment=environment,
            api_url=api_url, detached=detached,
        )  # fmt: skip

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Bring everything up; ``say`` is told each step. Raises BuildFailed, NotStarted."""
        if self._own_plane:
            say("control plane: etcd, kube-apiserver, controller-manager, KWOK")
            self.plane.start()
        say("NATS with JetStream")
        self.bus.start()
        say("services: " + ", ".join(self.services.names))
        # Before the services: admission is ready when it has put its authority into all of them.
        for found in self._webhooks():
            self.plane.apply(found)
        self.services.start()

    def stop(self) -> None:
        """End everything that was started."""
        self.services.stop()
        self.bus.kill()
        if self._own_plane:
            self.plane.stop()
        elif self.plane.pids.get("kube-apiserver"):
            for found in self._webhooks():
                kind = found["kind"].lower() + "s"
                self.plane.call("DELETE", f"/apis/{found['apiVersion']}/{kind}/{found['metadata']['name']}")

    def _webhooks(self) -> list[dict[str, Any]]:
        """The webhook configurations, for an admission on this machine."""
        command = [
            sys.executable, "-m", "shoal_admission.webhooks", "--url", f"https://127.0.0.1:{self.services.admission_port}",
        ]  # fmt: skip
        made = subprocess.run(command, check=True, capture_output=True, timeout=30)
        return list(yaml.safe_load_all(made.stdout))

    @property
    def pids(self) -> dict[str, int]:
        """Name -> pid of all that runs."""
        found = dict(self.plane.pids) | {n: c.pid for n, c in self.services.children.items() if c.pid}
        if self.bus.child and self.bus.child.pid:
            found["nats"] = self.bus.child.pid
        return found
