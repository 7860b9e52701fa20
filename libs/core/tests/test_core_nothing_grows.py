"""Work, nodes and queues come and go under ever new names: what the cluster holds does not grow."""

from __future__ import annotations

import types
from collections import Counter

import msgspec
import numpy as np

from shoal_contracts import state
from shoal_core import Cluster, cycle
from shoal_testkit.small import node, queue, work, world

ROUNDS = 70


def held(root: object) -> Counter[str]:
    """Entries of all containers that can be reached, by the type of what they are in; arrays count their elements."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    left: list[object] = [root]
    while left:
        at = left.pop()
        if id(at) in seen or isinstance(at, type | types.ModuleType | types.FunctionType | types.MethodType | str | bytes):
            continue
        seen.add(id(at))
        if isinstance(at, np.ndarray):
            found["ndarray"] += at.size
        elif isinstance(at, dict):
            found["dict"] += len(at)
            left += [*at.keys(), *at.values()]
        elif isinstance(at, list | tuple | set | frozenset):
            found[type(at).__name__] += len(at)
            left += at
        else:
            names = [n for kind in type(at).__mro__ for n in getattr(kind, "__slots__", ())]
            left += [getattr(at, n) for n in names if hasattr(at, n)]
            left += vars(at).values() if hasattr(at, "__dict__") else ()
    return found


def churn(c: Cluster, turn: int) -> None:
    """Nodes, queues, groups of many kinds come, are decided on, run, and go."""
    mark = f"t{turn}"
    q = f"q-{mark}"
    records: list[state.StateMessage] = [queue(q), state.PriorityClassRecord(name=f"class-{mark}", value=60)]
    records += [node(f"n{i}-{mark}", labels={"rack": f"rack-{mark}", "zone": "a"}, uid=f"n{i}-{mark}") for i in range(4)]
    records += [state.TopologyRecord(name=f"topology-{mark}", levels=["zone", "rack"])]
    for i in range(12):
        group, pod = work(f"w{i}-{mark}", q, gpus=(0, 1, 2, 0.5, 9)[i % 5], priority=f"class-{mark}")
        assert isinstance(pod, state.PodRecord)
        more = {} if i % 4 else {f"example.com/{mark}-{i}": 1.0}
        chosen = {"rack": f"rack-{mark}"} if i % 3 else {}
        records += [
            group,
            msgspec.structs.replace(
                pod, requests=pod.requests | more, node_selector=chosen, labels={"app": f"{mark}-{i}"}, volumes=[]
            ),
        ]
    for record in records:
        c.apply(record)
    for step in range(4):
        result = cycle(c, now=100.0 * turn + step)
        for gang in result.gangs:
            for member in gang.members:
                c.assume(member.uid, member.node, member.gpu_groups)
        for eviction in result.evictions:
            c.assume_gone(eviction.uid)
    for uid in [*c.assumed, *c.going]:
        c.forget(uid)
    for record in records:
        kind = type(record).__name__.removesuffix("Record").lower()
        c.remove(kind, getattr(record, "namespace", ""), getattr(record, "name", ""))
    cycle(c, now=100.0 * turn + 50)


def test_what_the_cluster_holds_is_bounded() -> None:
    c = world(queue("q"), node("n"), *work("stays", nodes=["n"]))
    most: list[Counter[str]] = []
    for third in range(3):
        most.append(Counter())
        for turn in range(ROUNDS):
            churn(c, third * ROUNDS + turn)
            c.demands.clear()  # it has a bound of its own, far above what is made here
            most[-1] |= held(c)
    c.check()
    assert all(most[2][kind] <= 1.03 * most[1][kind] for kind in most[2]), most[1:]


def test_devices_that_nobody_shares_any_more_are_forgotten() -> None:
    c = world(queue("q"), node("n"), *work("stays", gpus=0.5, nodes=["n"]))
    widest = 0
    for turn in range(300):
        records = work(f"w{turn}", gpus=0.75)
        for record in records:
            c.apply(record)
        [placed] = [m for g in cycle(c, now=float(turn)).gangs for m in g.members]
        c.assume(placed.uid, placed.node, placed.gpu_groups)
        cycle(c, now=turn + 0.5)
        c.forget(placed.uid)
        c.remove("pod", "ns", f"w{turn}-0")
        c.remove("group", "ns", f"w{turn}")
        widest = max(widest, c.nodes.used.shape[1])
    assert widest <= 128
    c.check()
