"""The whole of it on one machine: control plane, bus, services."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from shoal_local.bus import LocalBus
from shoal_local.control_plane import ControlPlane, Refused
from shoal_local.process import NotStarted
from shoal_local.supervisor import Restarts, Supervisor
from shoal_model import labels
from shoal_testkit import workload


class Suite:
    """Start with ``start()``, end with ``stop()``. The parts can be used, and broken, one by one."""

    def __init__(
        self, folder: Path, *, replicas: dict[str, int] | None = None, environment: dict[str, str | None] | None = None,
        workload_api: bool = True, api_url: str | None = None, plane: ControlPlane | None = None,
        restarts: Restarts | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder.resolve()
        self._own_plane = plane is None
        self.plane = plane or ControlPlane(self.folder / "plane", workload_api=workload_api)
        self.bus = LocalBus(self.folder / "bus")
        self.services = Supervisor(
            self.folder / "services", self.plane, self.bus, replicas=replicas, environment=environment,
            api_url=api_url, restarts=restarts,
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
        self._register()
        self.services.start()

    def stop(self) -> None:
        """End everything that was started."""
        self.services.stop()
        self.bus.kill()
        if self._own_plane:
            self.plane.stop()
        elif self.plane.pids.get("kube-apiserver"):
            self._unregister()

    @asynccontextmanager
    async def unreviewed(self, limit: float = 30.0) -> AsyncIterator[None]:
        """For the time of the block nothing is reviewed: so come bad objects past admission. Raises NotStarted, Refused."""
        await asyncio.to_thread(self._unregister)
        try:
            await asyncio.to_thread(self._until_probe, limit, "abc", reviewed=False)
            yield
        finally:
            await asyncio.to_thread(self._register)
            await asyncio.to_thread(self._until_probe, limit, "0.5", reviewed=True)

    def _until_probe(self, limit: float, fraction: str, *, reviewed: bool) -> None:
        """Wait until the API server takes, by dry run, a pod with that share, patched or not."""
        deadline = time.monotonic() + limit
        body = workload.pod("probe", "default", queue="none", gpus=0, annotations={labels.GPU_FRACTION: fraction})
        while True:
            try:
                made = self.plane.call("POST", "/api/v1/namespaces/default/pods?dryRun=All", body)
                if (labels.SHARED_GPU_CONFIG in made["metadata"]["annotations"]) == reviewed:
                    return
            except Refused as error:
                if error.status not in (403, 500):
                    raise
            if time.monotonic() > deadline:
                raise NotStarted(f"pods are {'not yet' if reviewed else 'still'} reviewed after {limit:.0f} s")
            time.sleep(0.1)

    def _register(self) -> None:
        for found in self._webhooks():
            self.plane.apply(found)

    def _unregister(self) -> None:
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
