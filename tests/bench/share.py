"""From decision to bound: a pod with a part of a GPU that is reserved already, beside a pod with a whole one.

Both are read off the decision stream: when the leader decided and when the binder had its answer, by the clock of one
machine. Pods come one after the other, so that it is the latency of one and not of a queue.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import machine
import msgspec

from shoal_bus import Bus, BusConfig
from shoal_contracts import streams, subjects
from shoal_contracts.decision import Decision, Outcome, Result
from shoal_local import nodes
from shoal_local.suite import Suite
from shoal_testkit import shares, workload
from shoal_testkit.api import Api, gather_limited

BAR = 0.050
PODS = "/api/v1/namespaces/bench/pods"
PAUSE = 0.1


async def listen(suite: Suite, found: dict[str, tuple[str, float]]) -> None:
    """Note the seconds from decision to bound by pod: (kind, seconds)."""
    password = suite.bus.password_file("scheduler").read_text()
    decided: dict[str, Decision] = {}
    decoder = msgspec.json.Decoder(Decision | Outcome)
    async with Bus.connect(BusConfig(suite.bus.url, "bench", "scheduler", password)) as bus:
        filters = [subjects.decision("*"), subjects.outcome("*")]
        async for change in bus.follow(streams.DECISION.name, filters):
            if not change.subject or not change.data or "._" in change.subject:
                continue
            message = decoder.decode(change.data)
            if isinstance(message, Decision):
                decided[message.uid] = message
            elif message.result is Result.BOUND and (of := decided.get(message.uid)):
                found[of.pod] = ("shared" if of.gpu_groups else "plain", message.at - of.at)


async def until_bound(api: Api, count: int) -> None:
    async with asyncio.timeout(120):
        while sum(bool(p["spec"].get("nodeName")) for p in await api.items(PODS)) < count:
            await asyncio.sleep(0.3)


async def measure(suite: Suite, count: int) -> dict[str, list[float]]:
    """Seconds from decision to bound, by kind."""
    found: dict[str, tuple[str, float]] = {}
    listener = asyncio.create_task(listen(suite, found))
    async with Api.connect(suite.plane.kubeconfig) as api:
        await nodes.create(api, 20)
        await api.post("/api/v1/namespaces", {"metadata": {"name": "bench"}})
        await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue("bench"))
        # 60 devices shared by one pod each; the pods that are measured join them.
        seeds = [shares.admitted(shares.pod(f"seed-{i}", "bench", queue="bench", fraction=0.6)) for i in range(60)]
        await gather_limited([api.post(PODS, pod) for pod in seeds])
        await until_bound(api, len(seeds))
        for i in range(count):
            joining = shares.admitted(shares.pod(f"shared-{i}", "bench", queue="bench", fraction=0.2))
            for pod in (joining, workload.pod(f"plain-{i}", "bench", queue="bench", gpus=0)):
                await api.post(PODS, pod)
                await asyncio.sleep(PAUSE)
        await until_bound(api, len(seeds) + 2 * count)
        await asyncio.sleep(1)
    listener.cancel()
    kinds: dict[str, list[float]] = {"plain": [], "shared": []}
    for name, (kind, seconds) in found.items():
        if not name.startswith("seed"):
            kinds[kind].append(seconds)
    return kinds


def main() -> int:
    """Run it; exits with 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=100)
    count = parser.parse_args().pods
    print(machine.describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        suite = Suite(Path(temporary))
        try:
            suite.start()
            kinds = asyncio.run(measure(suite, count))
        finally:
            suite.stop()
    median = {}
    for kind, seconds in kinds.items():
        seconds.sort()
        median[kind] = seconds[len(seconds) // 2]
        last = seconds[int(len(seconds) * 0.99)]
        print(f"{kind:8s} {len(seconds)} pods: p50 {median[kind] * 1000:.1f} ms, p99 {last * 1000:.1f} ms")
    print(f"a shared binding takes {median['shared'] / median['plain']:.1f} times a plain one (bar: p50 {BAR * 1000:.0f} ms)")
    return int(median["shared"] > BAR)


if __name__ == "__main__":
    sys.exit(main())
