"""The whole of it on one machine: control plane, bus, services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
        self.services.start()

    def stop(self) -> None:
        """End everything that was started."""
        self.services.stop()
        self.bus.kill()
        if self._own_plane:
            self.plane.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Name -> pid of all that runs."""
        found = dict(self.plane.pids) | {n: c.pid for n, c in self.services.children.items() if c.pid}
        if self.bus.child and self.bus.child.pid:
            found["nats"] = self.bus.child.pid
        return found
