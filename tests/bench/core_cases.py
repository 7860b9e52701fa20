"""The clusters of the core's benchmark, as records: nodes of 8 GPUs, 96 CPUs and 1 TiB; four departments of four queues."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import msgspec

from shoal_contracts import state

GPUS = 8
NOW = 1_767_225_600.0
"""2026-01-01T00:00:00Z"""
MINUTE = 60.0
FREE = state.QueueResource(quota=-1.0, limit=-1.0, weight=1.0)


class World:
    """Records of one cluster; made from its arguments alone."""

    def __init__(self, nodes: int, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.records: list[state.StateMessage] = [
            state.PriorityClassRecord(name=name, value=value)
            for name, value in (("train", 50), ("build-preemptible", 75), ("build", 100), ("inference", 125))
        ]
        self.queues: list[str] = []
        self.names = [f"node-{i:05d}" for i in range(nodes)]
        self._jobs = self._made = 0
        for i, name in enumerate(self.names):
            tags = {
                "kubernetes.io/hostname": name, "nvidia.com/gpu.count": str(GPUS), "nvidia.com/gpu.memory": "81920",
                "topology/rack": f"rack-{i // 16:04d}", "topology/block": f"block-{i // 128:03d}",
            }  # fmt: skip
            size = {
                "cpu": 96_000.0,
                "memory": 2.0**40,
                "nvidia.com/gpu": float(GPUS),
                "pods": 250.0,
                "ephemeral-storage": 2.0**41,
            }
            self.records.append(state.NodeRecord(name=name, labels=tags, allocatable=size, conditions={"Ready": "True"}))
        for d in range(4):
            self._queue(f"dept-{d}", "", nodes * GPUS / 4)
            for q in range(4):
                self.queues.append(f"team-{d}-{q}")
                self._queue(self.queues[-1], f"dept-{d}", nodes * GPUS / 16)

    def _queue(self, name: str, parent: str, gpus: float) -> None:
        created = NOW - (1000 - self._made) * MINUTE
        self._made += 1
        share = state.QueueResource(quota=gpus, limit=-1.0, weight=1.0)
        self.records.append(state.QueueRecord(name=name, parent=parent, created=created, gpu=share, cpu=FREE, memory=FREE))

    def job(
        self, queue: str, pods: int, gpus: float, nodes: list[str] | None = None, priority: str = "train",
        age: float | None = None, topology: state.TopologyConstraint | None = None,
    ) -> None:  # fmt: skip
        """One pod group; with ``nodes`` its pods run there, without they wait."""
        self._jobs += 1
        name = f"job-{self._jobs:06d}"
        # Whole seconds, as the API has them: many jobs are of the same age.
        created = float(math.floor(round(NOW - (500 - self._jobs * 0.001 if age is None else age) * MINUTE, 6)))
        self.records.append(
            state.GroupRecord(
                namespace="bench", name=name, uid=name, created=created, queue=queue, priority_class=priority, min_member=pods,
                topology=topology, last_start=created if nodes else 0.0,
            )
        )  # fmt: skip
        requests = {"cpu": 4000.0, "memory": 32 * 2.0**30} | ({"nvidia.com/gpu": float(gpus)} if gpus >= 1 else {})
        share = state.GpuShare(fraction=gpus) if 0 < gpus < 1 else None
        for i in range(pods):
            self.records.append(
                state.PodRecord(
                    namespace="bench", name=f"{name}-{i}", uid=f"{name}-{i}", created=created, scheduler_name="kai-scheduler",
                    group=name, requests=requests, share=share, node=nodes[i] if nodes else "",
                    phase="Running" if nodes else "Pending", priority_class=priority,
                )
            )  # fmt: skip

    def gangs(self, gpus: int) -> Iterator[tuple[int, int]]:
        """(pods, GPUs of each) of gangs that add up to ``gpus``."""
        while gpus > 0:
            sizes = [(1, 1), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (16, 1)]
            pods, each = self.random.choices(sizes, [6, 3, 3, 2, 2, 1, 1])[0]
            if pods * each > gpus:
                pods, each = 1, 1
            gpus -= pods * each
            yield pods, each


def fill(w: World) -> None:
    """Empty cluster, waiting gangs that exactly fill it."""
    for pods, each in w.gangs(len(w.names) * GPUS):
        w.job(w.random.choice(w.queues), pods, each)


def idle(w: World) -> None:
    """Full cluster, nothing waits."""
    for i, name in enumerate(w.names):
        for _ in range(2):
            w.job(w.queues[i % len(w.queues)], 1, 4, [name])


def blocked(w: World) -> None:
    """Full cluster at fair share, gangs that can't start."""
    idle(w)
    for i in range(max(20, len(w.names) // 5)):
        w.job(w.queues[i % len(w.queues)], w.random.choice([1, 2, 4, 8]), w.random.choice([1, 4, 8]), age=10)


def reclaim(w: World) -> None:
    """One department holds everything, the others ask for their quota."""
    greedy = [q for q in w.queues if q.startswith("team-0-")]
    starved = [q for q in w.queues if not q.startswith("team-0-")]
    for i, name in enumerate(w.names):
        for _ in range(2):
            w.job(greedy[i % len(greedy)], 1, 4, [name])
    for i in range(max(4, len(w.names) // 50)):
        w.job(starved[i % len(starved)], 4, 8, age=10)


def preempt(w: World) -> None:
    """Full cluster of low priority, work of higher priority waits in the same queues."""
    idle(w)
    for i in range(max(4, len(w.names) // 50)):
        w.job(w.queues[i % len(w.queues)], 1, 8, priority="build-preemptible", age=10)


def consolidate(w: World) -> None:
    """Half of the GPUs of each node in use, gangs that need whole nodes."""
    for i, name in enumerate(w.names):
        w.job(w.queues[i % len(w.queues)], 1, 4, [name])
    for i in range(max(4, len(w.names) // 50)):
        w.job(w.queues[i % len(w.queues)], 1, 8, age=10)


def topology(w: World) -> None:
    """Empty cluster in blocks and racks, gangs that need one rack each."""
    levels = [state.TopologyLevel(label=x) for x in ("topology/block", "topology/rack", "kubernetes.io/hostname")]
    w.records.append(state.TopologyRecord(name="fabric", levels=levels))
    for i in range(len(w.names) // 8):
        wish = state.TopologyConstraint(topology="fabric", required="topology/rack")
        w.job(w.queues[i % len(w.queues)], 8, 8, topology=wish)


def fraction(w: World) -> None:
    """Empty cluster, pods of 0.25 and 0.5 GPUs that fill it."""
    left = float(len(w.names) * GPUS)
    while left > 0.01:
        part = min(left, w.random.choice([0.25, 0.5]))
        left -= part
        w.job(w.random.choice(w.queues), 1, part)


def affinity(w: World) -> None:
    """Half-full cluster, waiting CPU pods with 20 anti-affinity terms of their own each, and one GPU job behind them."""
    for i, name in enumerate(w.names):
        w.job(w.queues[i % len(w.queues)], 1, 4, [name])
    for i in range(500):
        w.job(w.queues[i % len(w.queues)], 1, 0, age=10)
        wanted = [state.Requirement(key=f"k{j}", operator="In", values=[f"v{i}"]) for j in range(20)]
        keys = ("kubernetes.io/hostname", "topology/rack", "topology/block")
        terms = [
            state.PodTerm(topology_key=keys[j % 3], selector=state.Selector(requirements=[r])) for j, r in enumerate(wanted)
        ]
        pod = w.records[-1]
        assert isinstance(pod, state.PodRecord)
        w.records[-1] = msgspec.structs.replace(pod, affinity=state.Affinity(anti_required=terms))
    w.job(w.queues[0], 1, 8, age=5)


CASES: dict[str, Callable[[World], None]] = {
    f.__name__: f for f in (fill, idle, blocked, reclaim, preempt, consolidate, topology, fraction, affinity)
}
OURS = frozenset({"affinity"})
"""Cases that the reference's benchmark does not have."""
