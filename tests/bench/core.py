"""make bench-core: one cycle of the default actions on the benchmark clusters; the last line is JSON.

first: the cycle after the load. steady: further cycles of the world as it stands then (idle: with 1 % of the pods
changed before each). Loading is not part of either. commit: the decisions of the first cycle, written to a real NATS.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from core_cases import CASES, NOW, World

from shoal_core import Cluster, CycleResult, Session, run, warm
from shoal_core.configuration import read
from shoal_core.cycle import cycle
from shoal_scheduler.policy import COLLECTION

STEADY = 5


def timed(cluster: Cluster, now: float, verbose: bool = False) -> tuple[float, CycleResult]:
    """(milliseconds, result) of one cycle; with ``verbose`` by action."""
    began = time.perf_counter()
    if not verbose:
        result = cycle(cluster, now=now)
        return (time.perf_counter() - began) * 1000, result
    session = Session(cluster, now)
    marks = [("open", time.perf_counter() - began)]
    run(session, tell=lambda name, at=time.perf_counter: marks.append((name, at() - began)))
    result = session.close()
    total = (time.perf_counter() - began) * 1000
    before = 0.0
    parts = []
    for name, at in marks:
        parts.append(f"{name} {(at - before) * 1000:.1f}")
        before = at
    print(f"      {', '.join(parts)} ms", file=sys.stderr)
    return total, result


def changed(world: World, cluster: Cluster, part: float) -> float:
    """Apply a change to so many of the pods; milliseconds."""
    pods = [p.record for p in cluster.pods.values()]
    some = pods[:: max(1, int(1 / part))]
    news = [msgspec.structs.replace(r, resource_version=str(len(r.resource_version) + 1), condition_message="x") for r in some]
    began = time.perf_counter()
    for record in news:
        cluster.apply(record)
    return (time.perf_counter() - began) * 1000 * 1000 / max(1, len(news))


async def commit(result: CycleResult) -> float:
    """Milliseconds to write the cycle's decisions in atomic batches to a real NATS."""
    from shoal_bus import Bus, BusConfig
    from shoal_contracts import streams, subjects
    from shoal_contracts.decision import Decision, Verb
    from shoal_scheduler.commit import Committer, Terms, take_epoch
    from shoal_testkit.nats import NatsServer

    with NatsServer() as server:
        async with Bus.connect(BusConfig(server.url, "bench")) as bus:
            await bus.ensure([streams.DECISION], [])
            at = await take_epoch(bus, "bench", 1, "bench", NOW)
            committer = Committer(bus, "bench", 1, at, "bench")
            gangs = [
                [
                    Decision(
                        id=f"1-1-{m.uid}", verb=Verb.BIND, namespace=m.namespace, pod=m.pod, uid=m.uid, node=m.node, epoch=1
                    )
                    for m in g.members
                ]
                for g in result.gangs
            ]
            gangs += [
                [
                    Decision(
                        id=f"1-1-{e.uid}", verb=Verb.EVICT, namespace=e.namespace, pod=e.pod, uid=e.uid, node=e.node, epoch=1
                    )
                ]
                for e in result.evictions
            ]
            began = time.perf_counter()
            await committer.commit(gangs, Terms(lambda uid: 0, {}, NOW, lambda uid, seq, last: None))
            assert subjects is not None
            return (time.perf_counter() - began) * 1000


def measure(case: str, nodes: int, out: multiprocessing.Queue[dict[str, object]]) -> None:
    """One case in a process of its own."""
    warm()
    world = World(nodes)
    CASES[case](world)
    cluster = Cluster(read({}))
    for record in world.records:
        cluster.apply(record)
    _ = cluster.tree
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION)
    first, result = timed(cluster, NOW, verbose=True)
    decided = (sum(len(g.members) for g in result.gangs), len(result.evictions), len(result.reserved), len(result.waiting))
    steady, deltas = [], []
    for i in range(STEADY):
        if case == "idle":
            deltas.append(changed(world, cluster, 0.01))
        steady.append(timed(cluster, NOW + 1 + i)[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = f"{case:12} {nodes:5} nodes: first {first:9.1f} ms, steady {statistics.median(steady):8.1f} ms"
    told += f"; {decided[0]} start, {decided[1]} go, {decided[2]} reserved, {decided[3]} wait"
    if deltas:
        told += f"; 1,000 pod deltas {statistics.median(deltas):.1f} ms"
    committed = asyncio.run(commit(result)) if result.gangs or result.evictions else 0.0
    print(f"{told}; commit {committed:.1f} ms; peak {peak:.0f} MB", file=sys.stderr)
    out.put(
        {
            "case": case, "nodes": nodes, "first_ms": round(first, 2), "steady_ms": round(statistics.median(steady), 2),
            "commit_ms": round(committed, 2), "peak_mb": round(peak),
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    parser.add_argument("--nodes", type=int, action="append")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = []
    for nodes in given.nodes or [100, 1000, 5000]:
        for case in given.case or list(CASES):
            out: multiprocessing.Queue[dict[str, object]] = context.Queue()
            process = context.Process(target=measure, args=(case, nodes, out))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)
            found.append(out.get())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
