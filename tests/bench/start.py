"""Cold start of each service to ready, with and without the numba cache."""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import machine

from shoal_local import nodes
from shoal_local.bus import LocalBus
from shoal_local.control_plane import ControlPlane
from shoal_local.supervisor import SERVICES, Supervisor
from shoal_testkit import workload
from shoal_testkit.api import Api

ROUNDS, BAR = 3, 3.0


def timed(services: Supervisor, name: str, cache: Path) -> float:
    """Seconds from start to ready; the service is ended again."""
    began = time.perf_counter()
    services.spawn(name, NUMBA_CACHE_DIR=str(cache))
    services.wait_ready(name)
    seconds = time.perf_counter() - began
    services.signal(name, signal.SIGTERM)
    services.children[name].stop(5)
    return seconds


def main() -> int:
    """Run it; exits with 1 where the bar is missed."""
    print(machine.describe(), flush=True)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        folder = Path(temporary)
        plane, bus = ControlPlane(folder / "plane"), LocalBus(folder / "bus")
        services = Supervisor(folder / "services", plane, bus)
        services.folder.mkdir()
        try:
            plane.start()
            bus.start()

            async def populate() -> None:
                async with Api.connect(plane.kubeconfig) as api:
                    await nodes.create(api, 100)
                    await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue("q"))

            asyncio.run(populate())
            print(f"{'service':18s} {'empty cache':>12s} {'warm cache':>12s}   (median of {ROUNDS}, seconds)")
            for service in SERVICES:
                name, cache = f"{service}-0", folder / f"numba-{service}"
                empty = timed(services, name, cache)
                warm = statistics.median(timed(services, name, cache) for _ in range(ROUNDS))
                verdict = "ok" if warm <= BAR else "MISSED"
                missed += warm > BAR
                print(f"{service:18s} {empty:12.2f} {warm:12.2f}   bar {BAR:.0f} {verdict}", flush=True)
                if service == "cluster-state":  # the others follow the state plane
                    services.spawn(name)
                    services.wait_ready(name)
        finally:
            for child in services.children.values():
                child.stop(5)
            bus.kill()
            plane.stop()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
