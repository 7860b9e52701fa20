"""Which of the accumulated victims a scenario evicts: all of one node, or the fewest nodes that can hold a gang
(policy spec 4.6.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal_core.rows import Pod
from shoal_core.search.scenario import Accumulator, Batch
from shoal_core.settings import MULTI_NODE_GANG, NODE_LOCAL_GREEDY

if TYPE_CHECKING:
    from shoal_core.search.solve import Search

PLUGIN_OF = {NODE_LOCAL_GREEDY: "sg-nodelocalgreedy", MULTI_NODE_GANG: "sg-multinodegang"}


def _states(found: Accumulator) -> Iterator[list[Batch]]:
    if found.valid():
        yield found.batches
    while found.advance():
        yield found.batches


def node_local_greedy(search: Search, found: Accumulator, tasks: list[Pod]) -> Iterator[list[Batch]]:
    """For each step: the victims on one of the nodes of the job that was added last."""
    kai_0_17 = search.session.settings.kai_0_17
    if not kai_0_17 and search.needs_several_nodes(tasks):
        return
    for batches in _states(found):
        if not batches:
            if found.recorded:
                yield []
            continue
        last = batches[-1].job
        nodes = search.session.nodes
        columns = sorted({p.node for p in last.pods.values() if p.node >= 0}, key=nodes.name)
        seen: set[frozenset[int]] = set()
        for column in columns:
            chosen = found.on(column)
            if kai_0_17 and chosen:
                # v0.17 lists the pods of these jobs that an earlier probe recorded a second time.
                jobs = {id(b.job) for b in chosen}
                chosen = [b for b in search.recorded if id(b.job) in jobs] + chosen
            mark = frozenset(id(b) for b in chosen)
            if chosen and mark not in seen:
                seen.add(mark)
                yield chosen


def multi_node_gang(search: Search, found: Accumulator, tasks: list[Pod]) -> Iterator[list[Batch]]:
    """For each step: growing sets of nodes, from the fewest that can hold the gang by their GPUs."""
    wanted = [t.shape.quota for t in tasks]
    need_total, smallest = sum(wanted), min(wanted)
    for batches in _states(found):
        if not batches:
            yield []
            continue
        free = search.free
        caps: dict[int, float] = {}
        order: dict[int, int] = {}
        for pod in search.recorded_pods:
            caps[pod.node] = caps.get(pod.node, 0.0) + pod.accepted[2]
        for batch in batches:
            for pod in batch.pods:
                order.setdefault(pod.node, len(order))
                caps[pod.node] = caps.get(pod.node, 0.0) + pod.accepted[2]
        recorded_gpus = {}
        for pod in search.recorded_pods:
            recorded_gpus[pod.node] = recorded_gpus.get(pod.node, 0.0) + pod.accepted[2]
        baseline = search.free_total
        for column in order:
            if search.feasible[column]:
                baseline -= max(0.0, float(free[column]))
        for column, gpus in recorded_gpus.items():
            if column not in order:
                baseline += gpus
        room = {column: float(free[column]) + caps[column] for column in order}
        nodes = sorted((c for c in order if smallest == 0 or room[c] >= smallest), key=lambda c: (room[c], order[c]))
        need = max(0.0, need_total - baseline)
        count, have = 0, 0.0
        while have < need and count < len(nodes):
            have += room[nodes[count]]
            count += 1
        if have < need or not nodes:
            continue
        step = 1
        while True:
            inside = set(nodes[:count])
            yield [b for b in batches if any(p.node in inside for p in b.pods)]
            if count >= len(nodes):
                break
            count = min(count + step, len(nodes))
            step *= 2


GENERATORS = {NODE_LOCAL_GREEDY: node_local_greedy, MULTI_NODE_GANG: multi_node_gang}
