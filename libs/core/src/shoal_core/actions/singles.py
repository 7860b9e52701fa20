"""Jobs of one pod on a part of a GPU, as notebooks and small services are, are placed in runs.

The order is settled first, as if each of them found a place; then one kernel call places them all. Where one finds none,
the order goes back to that job, which is then tried as any other. What is decided is the same as one by one.
"""

from __future__ import annotations

import numpy as np

from shoal_core.order.jobs import Serving
from shoal_core.placement.walk import Walk
from shoal_core.queues import Queue
from shoal_core.results import Gang, Placed
from shoal_core.rows import Job, Shape, Vector, set_status
from shoal_core.session import Session
from shoal_core.status import BINDING, PENDING

RUN = 512
KINDS = 8
"""So many shapes in a run: each costs a look at all nodes."""
LONGEST_PAUSE = 64


class Singles:
    """Runs of such jobs in one session."""

    def __init__(self, session: Session, walk: Walk) -> None:
        self._session, self._walk = session, walk
        self._pause = self._paused = 0
        """So many jobs go one by one before the next run: a cluster without room fails each of them."""
        self._standing: list[tuple[Queue, Vector, Vector]] = []
        self._found: list[tuple[int, int, int]] = []

    def suits(self, job: Job) -> bool:
        """Whether the job is of this kind and its queues let it start."""
        session = self._session
        tasks = job.chunk(True, session.least_memory)[0]
        if len(tasks) != 1 or job.pending != 1 or len(job.leaf_list) != 1:
            return False
        pod, queue = tasks[0], job.queue
        shape, record = pod.shape, pod.record
        if not shape.shared or shape.devices != 1 or shape.memory or shape.dynamic or pod.status != PENDING:
            return False
        if queue is None or record.nominated_node or job.root.topology is not None or job.leaf_list[0].topology is not None:
            return False
        if not self._walk.plain or session.avoiding or f"{record.uid}-0" in session.nodes.named:
            return False
        return self._walk.barred(job, shape.vector) is None

    def take(self, order: Serving, job: Job) -> Job | None:
        """Start ``job``, which suits and was just taken, and those that suit after it.

        The next job, which is to be tried by itself; None if there is none.
        """
        if self._paused > 0:
            self._paused -= 1
            return job
        found: Job | None = job
        while found is not None:
            run, found, done = self._run(order, found)
            if done < len(run):
                self._pause = self._paused = min(2 * self._pause + 1, LONGEST_PAUSE)
                return found
            self._pause = 0
            if found is not None and not self.suits(found):
                return found
        return None

    def _run(self, order: Serving, job: Job) -> tuple[list[Job], Job | None, int]:
        """(jobs of the run, the job that was taken after those that were placed, how many were)."""
        mark = order.mark()
        self._standing = [(q, q.allocated, q.fixed) for q in self._session.cluster.tree.queues.values()]
        kinds: dict[int, int] = {}
        run: list[Job] = []
        after: Job | None = job
        most = max(RUN, 4 * len(self._standing))
        while after is not None and len(run) < most and self.suits(after):
            shape = after.chunk(True, 0.0)[0][0].shape
            if shape.number not in kinds:
                if len(kinds) == KINDS:
                    break
                kinds[shape.number] = len(kinds)
            self._charge(after, shape)
            run.append(after)
            after = order.pop()
        done = self._place(run, kinds)
        if done < len(run):
            order.back(mark, [*run[1:], after] if after is not None else run[1:])
            for queue, allocated, fixed in self._standing:
                queue.allocated, queue.fixed = allocated, fixed
            after = job
            for placed in run[:done]:
                self._charge(placed, placed.chunk_cache[0][0].shape)  # type: ignore[index]
                after = order.pop()
        self._start(run[:done])
        return run, after, done

    @staticmethod
    def _charge(job: Job, shape: Shape) -> None:
        assert job.queue is not None
        job.queue.charge(shape.vector, job.preemptible)

    def _place(self, run: list[Job], kinds: dict[int, int]) -> int:
        """Place and charge the pods; how many found a place."""
        pods = [job.chunk(True, 0.0)[0][0] for job in run]
        first = {pod.shape.number: pod for pod in reversed(pods)}
        of = np.array([kinds[pod.shape.number] for pod in pods], np.int64)
        self._found = self._walk.shared_run([first[number] for number in kinds], of)
        return len(self._found)

    def _start(self, run: list[Job]) -> None:
        """Decide what was placed: the same steps as ``Session.place`` and ``commit_places``."""
        session = self._session
        cluster, nodes, gangs = session.cluster, session.nodes, session.result.gangs
        for job, (column, slot, fresh) in zip(run, self._found, strict=True):
            pod = job.chunk(True, 0.0)[0][0]
            record, shape, queue = pod.record, pod.shape, job.queue
            assert queue is not None
            assert job.record is not None
            uid, node = record.uid, nodes.name(column)
            if fresh:
                assert nodes.slot(column, f"{uid}-0") == slot
            groups = (nodes.slot_names[column][slot],)
            starts = job.counted == 0
            pod.node, pod.node_name, pod.groups, pod.accepted = column, node, groups, shape.vector
            set_status(pod, BINDING)
            queue.charge_pending(shape.vector, -1.0)
            session.placed[uid] = pod
            cluster.assumed[uid] = (node, groups)
            cluster.by_node.setdefault(node, {})[uid] = None
            entry = Placed(
                uid, record.namespace, record.name, node, groups, float(shape.vector[2]), cluster.memory_on(shape, column)
            )
            gangs.append(Gang(*job.key, job.record.queue, (entry,), starts))
        session.units += len(run)
