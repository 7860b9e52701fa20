"""Equal pods counted at once come to the same as one by one."""

from __future__ import annotations

import pytest

from shoal_contracts import state
from shoal_core import Cluster
from shoal_core.configuration import read
from shoal_core.rows import Job, Pod, set_equal, set_status
from shoal_core.status import ALLOCATED, BINDING, PENDING, PIPELINED, RUNNING


def _pods(cpu: float, gpus: float, count: int) -> tuple[Job, list[Pod]]:
    cluster = Cluster(read({}))
    cluster.apply(state.QueueRecord(name="q"))
    cluster.apply(state.GroupRecord(namespace="n", name="g", uid="g", queue="q", min_member=2))
    for i in range(count):
        asked = {"cpu": cpu, "memory": 1000.0, "nvidia.com/gpu": gpus}
        cluster.apply(
            state.PodRecord(
                namespace="n", name=f"p-{i}", uid=f"p-{i}", group="g", phase="Pending", scheduler_name="kai-scheduler",
                requests=asked,
            )
        )  # fmt: skip
    job = cluster.jobs["n", "g"]
    return job, [job.pods[f"p-{i}"] for i in range(count)]


def _counts(job: Job, pods: list[Pod]) -> tuple[object, ...]:
    leaf = job.leaf_list[0]
    counts = (job.pending, job.active, job.counted, job.held, leaf.pending, leaf.gated, leaf.active, leaf.used, leaf.alive)
    caches = (job.chunk_cache, job.key_cache, job.signature_cache, job.requests_cache)
    return (*counts, *caches, [p.status for p in pods])


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(("cpu", "gpus"), [(1000.0, 2.0), (0.1, 0.0), (333.3, 1.0)])
def test_equal_pods_are_counted_at_once_as_one_by_one(cpu: float, gpus: float, count: int) -> None:
    once, each = _pods(cpu, gpus, count), _pods(cpu, gpus, count)
    assert once[0].pending == count
    for status in (ALLOCATED, BINDING, RUNNING, PENDING, PIPELINED, ALLOCATED):
        for job, _ in (once, each):
            job.chunk(True, 0.0)
            job.order()
        set_equal(once[1], status)
        for pod in each[1]:
            set_status(pod, status)
        assert _counts(*once) == _counts(*each)


def test_what_is_held_already_in_parts_stays_the_same_to_the_bit() -> None:
    once, each = _pods(1000.0, 1.0, 3), _pods(1000.0, 1.0, 3)
    for job, _ in (once, each):
        job.held = (0.1, 0.7, 0.3)
    set_equal(once[1], ALLOCATED)
    for pod in each[1]:
        set_status(pod, ALLOCATED)
    assert once[0].held == each[0].held
