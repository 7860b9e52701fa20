"""Jobs of one pod on a part of a GPU, as notebooks and small services are, are placed in runs.

The order is settled first, as if each of them found a place; then one kernel call places them all. Where one finds none,
the order goes back to that job, which is then tried as any other. What is decided is the same as one by one.
"""

from __future__ import annotations

import numpy as np

from shoal_core.order.jobs import Serving
from shoal_core.placement.walk import Walk
from shoal_core.results import Gang, Placed
from shoal_core.rows import Job, Pod, set_status
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

    def pod(self, job: Job) -> Pod | None:
        """The job's pod, if the job is of this kind and its queues let it start."""
        session = self._session
        tasks = (job.chunk_cache or job.chunk(True, session.least_memory))[0]
        if len(tasks) != 1 or job.pending != 1:
            return None
        pod, queue = tasks[0], job.queue
        shape, leaves = pod.shape, job.leaf_list
        if not shape.shared or shape.devices != 1 or shape.memory or shape.dynamic or pod.status != PENDING or queue is None:
            return None
        if len(leaves) != 1 or leaves[0].topology is not None or job.root.topology is not None or pod.record.nominated_node:
            return None
        if self._walk.preferences.of_nodes(pod) or not self._walk.alone(pod) or f"{pod.record.uid}-0" in session.nodes.named:
            return None
        return None if self._walk.barred(job, shape.vector) else pod

    def take(self, order: Serving, job: Job) -> Job | None:
        """Start ``job``, which was just taken, and those after it, as far as they are of this kind.

        The next job, which is to be tried by itself; None if there is none.
        """
        if self._paused > 0:
            self._paused -= 1
            return job
        found: Job | None = job
        while found is not None and (pod := self.pod(found)) is not None:
            found, failed = self._run(order, found, pod)
            self._pause = self._paused = min(2 * self._pause + 1, LONGEST_PAUSE) if failed else 0
            if failed:
                break
        return found

    def _run(self, order: Serving, job: Job, pod: Pod | None) -> tuple[Job | None, bool]:
        """(the job that was taken after those that started, whether it found no place in this way)."""
        mark, queues = order.mark(), list(self._session.cluster.tree.queues.values())
        standing = [(q, q.allocated, q.fixed) for q in queues]
        kinds: dict[int, tuple[int, Pod]] = {}
        run: list[tuple[Job, Pod]] = []
        of: list[int] = []
        most = max(RUN, 4 * len(queues))
        after: Job | None = job
        while after is not None and pod is not None:
            kind = kinds.get(pod.shape.number)
            if kind is None:
                if len(kinds) == KINDS:
                    break
                kind = kinds[pod.shape.number] = (len(kinds), pod)
            after.queue.charge(pod.shape.vector, after.preemptible)  # type: ignore[union-attr]
            run.append((after, pod))
            of.append(kind[0])
            after = order.pop()
            if len(run) == most:
                break
            pod = self.pod(after) if after is not None else None
        found = self._walk.shared_run([p for _, p in kinds.values()], np.array(of, np.int64))
        done = len(found)
        if done < len(run):
            taken = [other for other, _ in run[1:]]
            order.back(mark, taken if after is None else [*taken, after])
            for queue, allocated, fixed in standing:
                queue.allocated, queue.fixed = allocated, fixed
            after = job
            for placed, its in run[:done]:
                placed.queue.charge(its.shape.vector, placed.preemptible)  # type: ignore[union-attr]
                after = order.pop()
        self._start(run, found)
        return after, done < len(run)

    def _start(self, run: list[tuple[Job, Pod]], found: list[tuple[int, int, int]]) -> None:
        """Decide what was placed: the same steps as ``Session.place`` and ``commit_places``."""
        session = self._session
        cluster, nodes, gangs, everyone = session.cluster, session.nodes, session.result.gangs, session.placed
        by_node, assumed, names = cluster.by_node, cluster.assumed, nodes.slot_names
        for (job, pod), (column, slot, fresh) in zip(run, found, strict=False):
            record, shape = pod.record, pod.shape
            uid, node = record.uid, nodes.name(column)
            if fresh:
                nodes.slot(column, f"{uid}-0")
            groups = (names[column][slot],)
            starts = job.counted == 0
            pod.node, pod.node_name, pod.groups, pod.accepted = column, node, groups, shape.vector
            set_status(pod, BINDING)
            job.queue.charge_pending(shape.vector, -1.0)  # type: ignore[union-attr]
            everyone[uid] = pod
            if session.journal is not None:
                session.journal[uid] = pod
            assumed[uid] = (node, groups)
            if node in by_node:
                by_node[node][uid] = None
            else:
                by_node[node] = {uid: None}
            placed = Placed(uid, record.namespace, record.name, node, groups, shape.vector[2], cluster.memory_on(shape, column))
            gangs.append(Gang(*job.key, job.record.queue, (placed,), starts))  # type: ignore[union-attr]
            if starts:
                job.history.started = session.now
        session.units += len(found)
