"""What queues divide, and what each of them asks for (policy spec 2)."""

from __future__ import annotations

from collections.abc import Iterable

from shoal_core.nodes import Nodes
from shoal_core.queues import Tree
from shoal_core.rows import Pod, Vector
from shoal_core.settings import Settings


def total(nodes: Nodes, foreign: Iterable[Pod]) -> Vector:
    """CPU, memory and GPUs of ready nodes, less what pods of other schedulers use there."""
    found = nodes.total()
    cpu, memory, gpus = float(found[0]), float(found[1]), float(found[2])
    for pod in foreign:
        if pod.node >= 0 and nodes.usable[pod.node]:
            a, b, c = pod.shape.vector
            cpu, memory, gpus = cpu - a, memory - b, gpus - c
    return cpu, memory, gpus


def share_out(tree: Tree, amount: Vector, waiting: Iterable[Pod], least_memory: float, settings: Settings) -> None:
    """Set every queue's request and fair share of ``amount``. ``waiting``: pods that ask for GPU memory, which count by GPUs
    of ``least_memory`` MiB (0: unknown)."""
    extra: dict[str, float] = {}
    for pod in waiting:
        if pod.job and pod.job.queue:
            for queue in pod.job.queue.line:
                asked = pod.shape.devices * pod.shape.memory / (least_memory or 100.0)
                extra[queue.name] = extra.get(queue.name, 0.0) + asked
    for queue in tree.queues.values():
        have, wait = queue.allocated, queue.pending
        queue.request = (
            have[0] + wait[0],
            have[1] + wait[1],
            round(have[2] + wait[2] + extra.get(queue.name, 0.0), 9),
        )
    tree.share_out(amount, settings.k_value, settings.usage)
