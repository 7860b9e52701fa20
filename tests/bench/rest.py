"""Memory and CPU of every service at rest, one replica each, NATS included: 100 nodes, 200 running pods."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import machine

from shoal_local import nodes
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api, gather_limited

SETTLE, WINDOW = 30.0, 60.0
MOST_MB, MOST_CPU = 1200.0, 0.05
PODS = "/api/v1/namespaces/bench/pods"


def usage(pid: int) -> tuple[float, float]:
    """(MB of proportional memory, CPU seconds) of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return kib / 1000, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def populate(suite: Suite) -> None:
    async with Api.connect(suite.plane.kubeconfig) as api:
        await nodes.create(api, 100)
        await api.post("/api/v1/namespaces", {"metadata": {"name": "bench"}})
        await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue("bench"))
        await gather_limited([api.post(PODS, workload.pod(f"p{i}", "bench", queue="bench")) for i in range(200)])
        async with asyncio.timeout(120):
            while sum(bool(p["spec"].get("nodeName")) for p in await api.items(PODS)) < 200:
                await asyncio.sleep(1)


def main() -> int:
    """Run it; exits with 1 where a bar is missed."""
    print(machine.describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        suite = Suite(Path(temporary), environment={"SHOAL_LEASE_SECONDS": None})
        try:
            suite.start()
            asyncio.run(populate(suite))
            time.sleep(SETTLE)
            mine = {name: pid for name, pid in suite.pids.items() if name == "nats" or name in suite.services.children}
            before = {name: usage(pid) for name, pid in mine.items()}
            time.sleep(WINDOW)
            after = {name: usage(pid) for name, pid in mine.items()}
        finally:
            suite.stop()
    memory = cpu = 0.0
    for name in sorted(mine):
        part = (after[name][1] - before[name][1]) / WINDOW
        memory, cpu = memory + after[name][0], cpu + part
        print(f"{name:22s} {after[name][0]:7.0f} MB {part * 100:6.2f} % of a core")
    print(f"{'all of it':22s} {memory:7.0f} MB {cpu * 100:6.2f} % of a core   (bars: {MOST_MB:.0f} MB, {MOST_CPU * 100:.0f} %)")
    return int(memory > MOST_MB or cpu > MOST_CPU)


if __name__ == "__main__":
    sys.exit(main())
