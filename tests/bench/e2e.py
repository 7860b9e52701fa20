"""Pods per second from create to bound, Shoal and kube-scheduler under the same load in the same run.

Both get pods from the same client; a watch of its own notes when nodeName appears. Writes per pod are counted by a proxy in
a run of their own, so that the proxy slows down nothing that is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import machine

from shoal_local import nodes
from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api, gather_limited
from shoal_testkit.kube_proxy import proxy

NODES, CLIENTS, LIMIT = 500, 48, 300.0
GROUPS = "/apis/scheduling.run.ai/v2alpha2"
SCENARIOS: dict[str, tuple[int, int]] = {"1000 single": (1000, 1), "3000 single": (3000, 1), "250 gangs of 4": (250, 4)}
"""Name -> (gangs, pods in each)."""


@dataclass
class Result:
    """Figures of one scenario."""

    pods: int
    creating: float
    seconds: float
    latencies: list[float]
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Pods per second, from the first create to the last pod bound."""
        return self.pods / self.seconds

    def quantile(self, q: float) -> float:
        """Latency quantile in seconds."""
        return sorted(self.latencies)[min(self.pods - 1, int(q * self.pods))]


@asynccontextmanager
async def watching(kubeconfig: Path, path: str, version: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The watcher's process, from when it watches."""
    command = [sys.executable, Path(__file__).with_name("watcher.py"), kubeconfig, path, version, str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=1 << 24)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def load(gangs: int, size: int, space: str, scheduler: str) -> tuple[list[dict], list[dict]]:
    """(pod groups, pods). kube-scheduler gets the same pods without the groups."""
    groups: list[dict] = []
    pods: list[dict] = []
    for i in range(gangs):
        if size == 1 or scheduler != workload.SCHEDULER:
            pods += [workload.pod(f"p{i}-{j}", space, queue="bench", scheduler=scheduler) for j in range(size)]
        else:
            group, members = workload.gang(f"g{i}", space, queue="bench", size=size)
            groups.append(group)
            pods += members
    return groups, pods


async def scenario(
    api: Api, kubeconfig: Path, name: str, gangs: int, size: int, *, scheduler: str, pids: dict[str, int]
) -> Result:
    """Run one load and clean up after it."""
    space = name.replace(" ", "-") + ("-k" if scheduler != workload.SCHEDULER else "-s")
    await api.post("/api/v1/namespaces", {"metadata": {"name": space}})
    path = f"/api/v1/namespaces/{space}/pods"
    version = (await api.get(path + "?limit=1"))["metadata"]["resourceVersion"]
    groups, pods = load(gangs, size, space, scheduler)
    created: dict[str, float] = {}

    async def create(pod: dict) -> None:
        answer = await api.post(path, pod)
        created[answer["metadata"]["uid"]] = time.monotonic()

    async with watching(kubeconfig, path, version, len(pods)) as watcher:
        assert watcher.stdout is not None
        pids = pids | {"this client": os.getpid(), "watcher": watcher.pid}
        before = {name: machine.cpu_seconds(pid) for name, pid in pids.items()}
        began = time.monotonic()
        await gather_limited([api.post(f"{GROUPS}/namespaces/{space}/podgroups", g) for g in groups], CLIENTS)
        await gather_limited([create(p) for p in pods], CLIENTS)
        creating = time.monotonic() - began
        try:
            async with asyncio.timeout(LIMIT):
                bound: dict[str, float] = json.loads(await watcher.stdout.readline())
        except TimeoutError:
            raise SystemExit(f"{name} on {scheduler}: not all of {len(pods)} bound after {LIMIT:.0f} s") from None
        cpu = {name: machine.cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    latencies = [max(0.0, bound[uid] - at) for uid, at in created.items()]
    await api.delete(path)
    for group in groups:
        await api.delete(f"{GROUPS}/namespaces/{space}/podgroups/{group['metadata']['name']}")
    while await api.items(path + "?limit=1"):
        await asyncio.sleep(0.5)
    await api.delete(f"/api/v1/namespaces/{space}")
    await asyncio.sleep(2.0)
    return Result(len(pods), creating, max(bound.values()) - began, latencies, cpu)


def show(who: str, name: str, result: Result) -> None:
    """One line, and where the CPU time went."""
    print(
        f"{name:16s} {who:15s} {result.pods:5d} pods  all bound in {result.seconds:6.2f} s (creating {result.creating:5.2f} s)"
        f"  {result.rate:6.0f} pods/s  p50 {result.quantile(0.5) * 1e3:6.0f} ms  p99 {result.quantile(0.99) * 1e3:6.0f} ms",
        flush=True,
    )
    used = sorted(result.cpu.items(), key=lambda kv: -kv[1])
    print("   CPU seconds: " + ", ".join(f"{n} {s:.1f}" for n, s in used if s >= 0.05), flush=True)


@contextmanager
def running(suite: Suite) -> Iterator[Suite]:
    """The suite for the time of the block."""
    try:
        suite.start()
        yield suite
    finally:
        suite.stop()


async def writes_per_pod(plane: ControlPlane, folder: Path, gangs: int, size: int) -> tuple[float, str]:
    """(API writes of our services per pod, what they were), counted by a proxy."""
    async with proxy(plane.url, str(plane.ca)) as between, Api.connect(plane.kubeconfig) as api:
        suite = Suite(folder, plane=plane, api_url=between.url)
        await asyncio.to_thread(suite.start)
        try:
            before, paths = between.writes(), dict(between.paths)
            result = await scenario(api, plane.kubeconfig, f"count {size}", gangs, size, scheduler=workload.SCHEDULER, pids={})
            writes = between.writes() - before
            kinds = {k: n - paths.get(k, 0) for k, n in between.paths.items() if k[0] != "GET" and n > paths.get(k, 0)}
        finally:
            await asyncio.to_thread(suite.stop)
    most = sorted(kinds.items(), key=lambda kv: -kv[1])[:5]
    return writes / result.pods, ", ".join(f"{verb} {path}: {n}" for (verb, path), n in most)


def main() -> int:
    """Run it; exits with 1 where a bar is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3, help="rounds of each scenario; the medians are compared")
    given = options.parse_args()
    print(f"{machine.describe()}; {NODES} KWOK nodes of 8 GPUs, {CLIENTS} creating clients", flush=True)
    rates: dict[tuple[str, str], list[float]] = {}
    missed = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        plane = ControlPlane(folder / "plane")
        try:
            plane.start()

            async def rounds(who: str, scheduler: str, pids: dict[str, int]) -> None:
                async with Api.connect(plane.kubeconfig) as api:
                    for what, (gangs, size) in SCENARIOS.items():
                        result = await scenario(
                            api,
                            plane.kubeconfig,
                            what,
                            gangs,
                            size,
                            scheduler=scheduler,
                            pids=pids | {"this client": os.getpid()},
                        )
                        rates.setdefault((what, who), []).append(result.rate)
                        show(who, what, result)

            async def prepare() -> None:
                async with Api.connect(plane.kubeconfig) as api:
                    await nodes.create(api, NODES)
                    await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue("bench"))

            asyncio.run(prepare())
            for round_ in range(given.rounds):
                plane.start_scheduler()
                time.sleep(5)
                asyncio.run(rounds("kube-scheduler", "default-scheduler", plane.pids))
                plane.stop_scheduler()
                with running(Suite(folder / f"suite-{round_}", plane=plane)) as suite:
                    time.sleep(2)
                    asyncio.run(rounds("Shoal", workload.SCHEDULER, suite.pids))
            print()
            for what in SCENARIOS:
                ours, theirs = (statistics.median(rates[what, who]) for who in ("Shoal", "kube-scheduler"))
                verdict = "ok" if ours >= 0.5 * theirs else "MISSED"
                compared = f"{ours:5.0f} pods/s, kube-scheduler {theirs:5.0f}: {ours / theirs:4.2f} of it"
                print(f"{what:16s} {compared} (bar 0.50) {verdict}")
                if verdict != "ok":
                    missed.append(what)
            for gangs, size in ((1000, 1), (250, 4)):
                count, kinds = asyncio.run(writes_per_pod(plane, folder / f"count-{size}", gangs, size))
                verdict = "ok" if count <= 3.5 else "MISSED"
                print(f"API writes per pod, gangs of {size}: {count:4.2f} (bar 3.50) {verdict}\n   {kinds}")
                if verdict != "ok":
                    missed.append(f"writes, gangs of {size}")
        finally:
            plane.stop()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
