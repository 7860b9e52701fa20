"""The cluster as the core knows it: records in, columns and roll-ups kept up to date."""

from __future__ import annotations

import msgspec

from shoal_contracts import state
from shoal_core import recount
from shoal_core.fairness.shares import share_out, total
from shoal_core.gang import tree
from shoal_core.history import History
from shoal_core.intake import Intake
from shoal_core.pace import Pace
from shoal_core.placement.numa import Ledger
from shoal_core.placement.volumes import Volumes
from shoal_core.queues import Queue, Tree
from shoal_core.rows import NOTHING, Job, Key, Place, Pod, Vector, rules, set_status
from shoal_core.settings import Settings
from shoal_core.shapes import Shapes
from shoal_core.standing import standing
from shoal_core.status import COUNTED, GONE, PENDING, RELEASING, SUCCEEDED, USED
from shoal_model import gpu
from shoal_model.pinned import pinned_node
from shoal_model.podgroup import preemptible, priority

MOST_DEMANDS = 200_000
"""Kinds of demands that are remembered: pods that are long gone had some."""


class Cluster(Intake):
    """Everything that decisions depend on. Not thread-safe: one thread owns it.

    ``apply`` and ``remove`` take records as they come; ``assume`` and ``assume_gone`` count a decision that the API does
    not show yet.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings or Settings())
        self.numa = Ledger(self.settings.numa_ignored, self.settings.numa_reconstruct)
        self.uid_of: dict[Key, str] = {}
        self.jobs: dict[Key, Job] = {}
        self.topologies: dict[str, state.TopologyRecord] = {}
        self.namespaces: dict[str, dict[str, str]] = {}  # labels by name
        self.volumes = Volumes()
        self.pace = Pace()
        self.assumed: dict[str, tuple[str, tuple[str, ...]]] = {}
        """Decided to run: uid -> (node, shared devices)."""
        self.going: set[str] = set()
        """Decided to go."""
        self.evicted: set[str] = set()
        """Pods that go or leave by our decision: what they keep others from is reserved, not sought elsewhere."""
        self.given: dict[str, Place] = {}
        """What the records can't say: see ``place``."""
        self.waiting: dict[Key, None] = {}
        """Groups that have waiting pods, mostly in their order: sorting them is cheap."""
        self.elsewhere: set[Key] = set()
        """Groups of other node pools: their pods are not ours to place, nor to speak of."""
        self.misplaced: set[Key] = set()
        """Groups with pods that name a subgroup which does not exist."""
        self.doubtful: set[Key] = set()
        """Groups whose gang may have lost members, or that are marked so."""
        self.deleting: set[str] = set()
        """Uids of pods that are being deleted."""
        self.social: set[str] = set()
        """Uids of pods on nodes that want to be near others or far from them."""
        self.legacy_mig: set[str] = set()
        """Uids of pods on nodes that hold MIG devices by annotation."""
        self.tried: dict[str, set[Key]] = {}
        """By action: groups that were tried in vain in cycles that had no work left for the others."""
        self.quiet: tuple[int, float, object] | None = None
        """Kept by cycle: (changes, until when, result) of a cycle that decided nothing."""
        self.kept_domains: dict[str, object] = {}
        """Kept by placement.topology."""
        self.now = 0.0
        self._queue_records: dict[str, state.QueueRecord] = {}
        self.priority_classes: dict[str, state.PriorityClassRecord] = {}
        self._shapes = Shapes(self.nodes, self.claims)
        self.demands: dict[tuple[object, ...], int] = {}
        """What pods demand of nodes besides room -> a number (search.signatures)."""
        self._tree: Tree | None = None
        self._foreign: set[str] = set()
        self._memory_pods: set[str] = set()
        self._claiming: set[str] = set()

    @property
    def scheduler_name(self) -> str:
        """Pods of this name are ours."""
        return self.settings.scheduler_name

    # records

    def _apply(self, record: state.StateMessage) -> None:
        match record:
            case state.PodRecord():
                self._pod(record)
            case state.NodeRecord():
                if self.settings.in_pool(record.labels):
                    self._node(record)
                else:
                    self.remove("node", "", record.name)
            case state.GroupRecord():
                if self.settings.in_pool(record.labels):
                    self.elsewhere.discard((record.namespace, record.name))
                    self._group(record)
                else:
                    self.remove("group", record.namespace, record.name)
                    self.elsewhere.add((record.namespace, record.name))
            case state.QueueRecord():
                if not self.settings.in_pool(record.labels):
                    self.remove("queue", "", record.name)
                elif self._queue_records.get(record.name) != record:
                    self._queue_records[record.name] = record
                    self._tree = None
            case state.PriorityClassRecord():
                self.priority_classes[record.name] = record
                self._reprioritise()
            case state.NamespaceRecord():
                self.namespaces[record.name] = record.labels
            case state.TopologyRecord():
                self.topologies[record.name] = record
            case state.PdbRecord():
                self.disruptions.put(record)
            case state.ObjectRecord():
                self._object(record)
            case _:
                return
        self.changes += 1

    def _remove(self, kind: str, namespace: str, name: str) -> None:
        match kind:
            case "pod":
                if uid := self.uid_of.pop((namespace, name), None):
                    self._forget(uid)
            case "node":
                if name not in self.nodes.columns:
                    return
                for uid in self.by_node.get(name, {}):
                    pod = self.pods[uid]
                    self._count(pod, -1.0)
                    pod.node, pod.accepted = -1, NOTHING
                self.nodes.remove(name)
                if not self.by_node.get(name):
                    self.by_node.pop(name, None)
            case "group":
                self.elsewhere.discard((namespace, name))
                self.quarantine.gone((namespace, name))
                if job := self.jobs.get((namespace, name)):
                    self._detach(job)
                    job.record, job.queue, job.history = None, None, History()
                    if not job.pods and not job.unknown:
                        del self.jobs[namespace, name]
            case "queue":
                if self._queue_records.pop(name, None):
                    self._tree = None
            case "priorityclass":
                self.priority_classes.pop(name, None)
                self._reprioritise()
            case "namespace":
                self.namespaces.pop(name, None)
            case "topology":
                self.topologies.pop(name, None)
            case "pdb":
                self.disruptions.remove(namespace, name)
            case "nrt":
                self.numa.remove(name)
            case _:
                self._recount(self.claims.remove(kind, namespace, name))
                self.volumes.remove(kind, namespace, name)
        self.changes += 1

    def _object(self, record: state.ObjectRecord) -> None:
        nodes = self.claims.put(record)
        if nodes is not None:
            self._recount(nodes)
        elif record.type == "NodeResourceTopology":
            self.numa.put(record.name, msgspec.json.decode(record.body))
        else:
            self.volumes.put(record)

    def _recount(self, nodes: tuple[str, ...]) -> None:
        """The slices of these nodes changed."""
        for name in nodes:
            column = self.nodes.columns.get(name, -1)
            record = self.nodes.records[column] if column >= 0 else None
            if record is not None and float(self.claims.slices.gpus(name)) != self.nodes.claim_gpus[column]:
                self._node(record)

    # decisions that the API does not show yet

    def assume(self, uid: str, node: str, groups: tuple[str, ...] = ()) -> None:
        """Count the pod as placed on ``node`` until the API shows it, or ``forget``. A pod not known yet counts later."""
        self.assumed[uid] = (node, groups)
        if pod := self.pods.get(uid):
            self._settle(pod)
        self.changes += 1

    def assume_gone(self, uid: str) -> None:
        """Count the pod as being released until the API shows it, or ``forget``."""
        self.going.add(uid)
        self.evicted.add(uid)
        if pod := self.pods.get(uid):
            self.disruptions.goes(pod)
            self._settle(pod)
        self.changes += 1

    def forget(self, uid: str) -> None:
        """The decision on the pod is off (or the API shows it): count what its record says."""
        known = self.assumed.pop(uid, None) is not None
        if uid in self.going:
            self.going.discard(uid)
            self.disruptions.stays(uid)
            known = True
        if (pod := self.pods.get(uid)) is None or not pod.record.deleted:
            self.evicted.discard(uid)
        if known and pod:
            self._settle(pod)
            self.changes += 1

    def bar(self, uid: str, barred: bool, refused: bool = False) -> None:
        """Keep a pod from being placed (``refused``: because its binding was refused), or allow it again."""
        if pod := self.pods.get(uid):
            pod.barred, pod.refused = barred, refused
            if pod.job:
                pod.job.barred(pod)
        self.changes += 1

    def place(self, uid: str, status: int, node: str = "", groups: tuple[str, ...] = ()) -> None:
        """Say what the pod's record can't: its status, node and shared devices. For tools and tests."""
        self.given[uid] = (status, node, groups)
        if pod := self.pods.get(uid):
            self._settle(pod)
        self.changes += 1

    # derived

    @property
    def tree(self) -> Tree:
        """The queue tree with its roll-ups; made anew only after a queue changed."""
        if self._tree is None:
            self._tree = Tree(self._queue_records, self.settings.full_hierarchy)
            for job in self.jobs.values():
                job.queue = self._tree.queues.get(job.record.queue) if job.record else None
                if job.queue is None:
                    continue
                for pod in job.pods.values():
                    if pod.status == PENDING:
                        job.queue.charge_pending(pod.shape.vector)
                    elif COUNTED[pod.status]:
                        job.queue.charge(pod.accepted, job.preemptible)
        return self._tree

    def queue_of(self, job: Job) -> Queue | None:
        """The group's queue, if it is in the tree."""
        return self.tree.queues.get(job.record.queue) if job.record else None

    def total(self) -> Vector:
        """CPU, memory and GPUs to be divided: what ready nodes have, less what other schedulers' pods use."""
        foreign = [pod for uid in self._foreign if USED[(pod := self.pods[uid]).status]]
        return total(self.nodes, foreign)

    def share_out(self) -> Vector:
        """Set every queue's request and fair share; returns what was divided (policy spec 2)."""
        found = self.total()
        waiting = [pod for uid in self._memory_pods if (pod := self.pods[uid]).status == PENDING]
        share_out(self.tree, found, waiting, self.nodes.gpu_memories()[0], self.settings)
        return found

    # inside: pods

    def _pod(self, record: state.PodRecord) -> None:
        key = (record.namespace, record.name)
        before = self.uid_of.get(key)
        if before and before != record.uid:
            self._forget(before)
        self.uid_of[key] = record.uid
        old, barred, refused = self.pods.get(record.uid), False, False
        ours = record.scheduler_name == self.scheduler_name
        if not ours and not record.node and not pinned_node(record):
            self._forget(record.uid)
            return
        if old is not None and (
            old.record.group != record.group
            or old.record.subgroup != record.subgroup
            or old.record.requests != record.requests
            or old.record.share != record.share
            or old.record.claims != record.claims
            or rules(old.record) != rules(record)
        ):
            barred, refused = old.barred, old.refused
            self._forget(record.uid)
            self.uid_of[key] = record.uid
            old = None
        if old is None:
            old = self.pods[record.uid] = Pod(record, self._shapes.of(record))
            old.barred, old.refused = barred, refused
            if not ours and not gpu.is_own(record):
                self._foreign.add(record.uid)
            if old.shape.memory:
                self._memory_pods.add(record.uid)
            if record.claims:
                self._claiming.add(record.uid)
            if record.group and ours:
                self._join(old)
            self.disruptions.join(old, record.uid in self.going)
        else:
            self.disruptions.changed(old, record)
        if old.job is not None and (record.error or old.job.unsound):
            if record.error:
                old.job.unsound[record.uid] = old
            else:
                old.job.unsound.pop(record.uid, None)
        if record.deleted:
            self.deleting.add(record.uid)
        self.pin(record.uid, "" if ours else pinned_node(record))
        self._settle(old)

    def _join(self, pod: Pod) -> None:
        """Put the pod into its group."""
        key = (pod.record.namespace, pod.record.group)
        job = self.jobs.get(key)
        if job is None:
            job = self.jobs[key] = Job(key)
            job.set_root(tree(state.GroupRecord(namespace=key[0], name=key[1])))
        leaf = job.leaf_for(pod.record)
        if leaf is None:
            job.unknown[pod.uid] = pod
            self.misplaced.add(key)
            return
        pod.job, pod.leaf = job, leaf
        job.pods[pod.uid] = pod
        leaf.count(pod.status, 1)
        at = len(leaf.pods)
        while at and pod.order < leaf.pods[at - 1].order:
            at -= 1
        leaf.pods.insert(at, pod)
        job.changed()

    def _leave(self, pod: Pod) -> None:
        job, leaf = pod.job, pod.leaf
        if job is None or leaf is None:
            return
        self._count(pod, -1.0)
        status = pod.status
        set_status(pod, GONE)
        leaf.count(GONE, -1)
        if status == SUCCEEDED:
            job.finished(pod, -1)
        job.unsure.pop(pod.uid, None)
        leaf.pods.remove(pod)
        del job.pods[pod.uid]
        pod.job = pod.leaf = None
        pod.status = status
        self.look_again(job)

    def _settle(self, pod: Pod) -> None:
        """Charge and count the pod as its record and what was decided say."""
        status, name, groups = self.given.get(pod.uid) or standing(self, pod)
        column = self.nodes.columns.get(name, -1) if USED[status] else -1
        job = pod.job
        if pod.status == status and pod.node == column and pod.node_name == name and pod.groups == groups:
            return
        if job is not None:
            self._count(pod, -1.0)
            if pod.status == SUCCEEDED:
                job.finished(pod, -1)
        if pod.node_name and (there := self.by_node.get(pod.node_name)) is not None:
            there.pop(pod.uid, None)
            if not there:
                del self.by_node[pod.node_name]
        if pod.node >= 0:
            self.charge(pod, pod.node, pod.status, -1)
        if pod.shape.dynamic:
            if column < 0:
                self.claims.gone(pod.uid)
            elif pod.status == RELEASING:
                self.claims.keep(pod.uid)
        pod.node_name, pod.groups, pod.node = name, groups, column
        pod.accepted = NOTHING
        if name and USED[status]:
            self.by_node.setdefault(name, {})[pod.uid] = None
        if column >= 0:
            pod.accepted = self.accepted(pod, column)
            self.charge(pod, column, status, 1)
        set_status(pod, status)
        if pod.shape.social:
            (self.social.add if column >= 0 else self.social.discard)(pod.uid)
        if pod.record.volumes and column < 0:
            self.volumes.give_back(pod.uid)
        if pod.shape.legacy_mig:
            (self.legacy_mig.add if column >= 0 else self.legacy_mig.discard)(pod.uid)
        if job is not None:
            if status == SUCCEEDED:
                job.finished(pod, 1)
            self._count(pod, 1.0)
            self.look_again(job)

    def start_failed(self, namespace: str, name: str) -> None:
        """A member of the group was refused while it started: what runs of it goes, without a grace, if it is not whole."""
        if job := self.jobs.get((namespace, name)):
            job.history.start_failed = True
            self.doubtful.add(job.key)
            self.changes += 1

    def look_again(self, job: Job) -> None:
        """Whether the group has to be looked at in the next cycle."""
        if job.pending:
            self.waiting[job.key] = None
        else:
            self.waiting.pop(job.key, None)
        job.settle()
        record = job.record
        if record is not None and (job.broken or record.stale_since or job.history.stale_since or job.history.start_failed):
            self.doubtful.add(job.key)
        else:
            self.doubtful.discard(job.key)

    def _count(self, pod: Pod, sign: float) -> None:
        """Count the pod in its queue, as it stands."""
        job = pod.job
        if job is None or self._tree is None or job.queue is None:
            return
        if pod.status == PENDING:
            job.queue.charge_pending(pod.shape.vector, sign)
        elif COUNTED[pod.status]:
            job.queue.charge(pod.accepted, job.preemptible, sign)

    def _forget(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is None:
            return
        self.given[uid] = (GONE, "", ())
        self._settle(pod)
        del self.given[uid]
        self._leave(pod)
        self.pin(uid, "")
        key = (pod.record.namespace, pod.record.group)
        if job := self.jobs.get(key):
            job.unknown.pop(uid, None)
            job.unsound.pop(uid, None)
            if not job.unknown:
                self.misplaced.discard(key)
            if not job.pods and not job.unknown and job.record is None:
                del self.jobs[key]
                self.waiting.pop(key, None)
                self.doubtful.discard(key)
        del self.pods[uid]
        self._shapes.release(pod.shape)
        self.disruptions.leave(pod)
        self.uid_of.pop((pod.record.namespace, pod.record.name), None)
        for known in (
            self._foreign,
            self._memory_pods,
            self._claiming,
            self.deleting,
            self.evicted,
            self.social,
            self.legacy_mig,
        ):
            known.discard(uid)

    # inside: nodes, groups

    def _node(self, record: state.NodeRecord) -> None:
        here = [self.pods[uid] for uid in self.by_node.get(record.name, {})]
        column = self.nodes.columns.get(record.name, -1)
        if column >= 0 and self.nodes.same(record, self.claims.slices.gpus(record.name)):
            self.nodes.records[column] = record
            return
        for pod in here:
            self._count(pod, -1.0)
            if pod.node >= 0 and pod.shape.claim_gpus:
                self.claimed(pod, pod.node, -1)
        column = self.nodes.put(record, float(self.claims.slices.gpus(record.name)))
        for pod in sorted(here, key=lambda p: not gpu.is_reservation(p.record)):
            pod.node = column
            pod.accepted = self.accepted(pod, column)
            self.charge(pod, column, pod.status, 1)
            self._count(pod, 1.0)
        for uid in self.pinned.get(record.name, ()):
            self._settle(self.pods[uid])

    def _detach(self, job: Job) -> None:
        for pod in job.pods.values():
            self._count(pod, -1.0)
        if self._tree is not None:
            job.queue = None

    def _group(self, record: state.GroupRecord) -> None:
        key = (record.namespace, record.name)
        job = self.jobs.get(key)
        if job is None:
            job = self.jobs[key] = Job(key)
        value = priority(record.priority_class, self.priority_classes)
        may = preemptible(record, value)
        old = job.record
        if old is not None and old.uid != record.uid:
            job.history = History()
        if old is None or old.queue != record.queue or job.preemptible != may:
            self._detach(job)
            job.record, job.preemptible = record, may
            job.queue = self.queue_of(job) if self._tree is not None else None
            for pod in job.pods.values():
                self._count(pod, 1.0)
        shaped = old is None or not job.leaf_list or (
            (old.subgroups, old.min_member, old.min_subgroup, old.topology)
            != (record.subgroups, record.min_member, record.min_subgroup, record.topology)
        )  # fmt: skip
        job.record, job.priority, job.preemptible, job.created = record, value, may, record.created
        if shaped:
            self._reshape(job, record)
        job.changed()
        self.look_again(job)

    def _reshape(self, job: Job, record: state.GroupRecord) -> None:
        """Another tree of subgroups: every pod finds its leaf anew."""
        pods = [*job.pods.values(), *job.unknown.values()]
        for pod in list(job.pods.values()):
            self._leave(pod)
        job.unknown.clear()
        self.misplaced.discard(job.key)
        job.pending = job.active = job.counted = job.succeeded = 0
        job.held = NOTHING
        job.set_root(tree(record))
        for pod in pods:
            status, pod.status = pod.status, GONE
            self._join(pod)
            set_status(pod, status)
            if pod.job is None:
                pod.status = status
                continue
            if status == SUCCEEDED:
                job.finished(pod, 1)
            self._count(pod, 1.0)

    def _reprioritise(self) -> None:
        for job in list(self.jobs.values()):
            if job.record is not None:
                self._group(job.record)

    def open(self, now: float) -> None:
        """A cycle begins: what depends on the time is brought up to date."""
        self.now = now
        if self._shapes.count_new_resources() or self.suspect:
            self.suspect = False
            recount.recount(self)
        self.disruptions.pass_time(now)
        for uid in self.deleting:
            self._settle(self.pods[uid])
        if self._shapes.renew() or len(self.demands) > MOST_DEMANDS:
            self.demands.clear()
            for job in self.jobs.values():
                job.signature_cache = None
        for uid in list(self._claiming):
            record = self.pods[uid].record
            if self.pods[uid].shape.claim_gpus != self.claims.gpu_count(record):
                given = self.given.get(uid)
                self._forget(uid)
                if given:
                    self.given[uid] = given
                self._pod(record)
        if self.nodes.mixed and self.nodes.nvidia < 0:
            self._split_gpus()
        for column in sorted(self.nodes.crowded):
            self.rebuild_node(column)
        self.nodes.crowded.clear()
        if not self.numa.empty:
            self.numa.renew(self.by_node, self.pods)

    def _split_gpus(self) -> None:
        """A first node has GPUs of several kinds: from now on NVIDIA's are counted on their own as well."""
        self.nodes.split_gpus()
        self._shapes.split_gpus()
        self.demands.clear()
        for job in self.jobs.values():
            job.changed()
        for column in self.nodes.columns.values():
            self.rebuild_node(column)

    def distrust_queues(self) -> None:
        """What queues count is counted anew when it is next asked for."""
        self._tree = None

    def check(self) -> None:
        """Raises AssertionError where a column or roll-up differs from what the pods come to. For tests."""
        recount.check(self)
