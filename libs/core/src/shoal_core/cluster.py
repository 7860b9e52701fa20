"""The cluster as the core knows it: records in, columns and roll-ups kept up to date."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np

from shoal_contracts import state
from shoal_core.gang import DEFAULT, Member, leaves, tree
from shoal_core.nodes import Floats, Nodes
from shoal_core.queues import Queue, Tree, Vector, zeros
from shoal_core.vocabulary import SHARED_RESOURCES, Interner
from shoal_model.labels import SCHEDULER_NAME
from shoal_model.podgroup import preemptible, priority

Key = tuple[str, str]
DONE = frozenset({"Succeeded", "Failed"})


@dataclass
class Pod:
    """A pod and what it is charged for."""

    record: state.PodRecord
    number: int
    """Its class: pods of one class are equal to the scheduler."""
    request: Floats
    node: str = ""
    """Where it is charged: bound there, or decided to go there."""
    column: int = -1
    counted: bool = False
    """Counts as allocated in its group and queue."""

    @property
    def alive(self) -> bool:
        """Neither finished nor being deleted."""
        return self.record.phase not in DONE and not self.record.deleted

    @property
    def pending(self) -> bool:
        """Waits for a node."""
        return self.alive and not self.node and not self.record.gated


@dataclass
class Group:
    """A pod group with its pods."""

    record: state.GroupRecord | None = None
    root: Member | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    """By uid."""
    priority: int = 50
    preemptible: bool = True

    def leaf_of(self, pod: Pod) -> str:
        """The leaf that the pod belongs to."""
        return pod.record.subgroup if self.record and self.record.subgroups else DEFAULT


class Cluster:
    """Everything that decisions depend on. Not thread-safe: one thread owns it.

    ``apply`` and ``remove`` take records as they come; ``assume`` counts a decision that the API does not show yet.
    """

    def __init__(self, scheduler_name: str = SCHEDULER_NAME) -> None:
        self.scheduler_name = scheduler_name
        self.nodes = Nodes()
        self.pods: dict[str, Pod] = {}
        self.uid_of: dict[Key, str] = {}
        self.groups: dict[Key, Group] = {}
        self.assumed: dict[str, str] = {}
        self.barred: set[str] = set()
        """Uids of pods that are not to be placed for now (a decision of theirs is being taken back, or was refused)."""
        self.waiting: set[Key] = set()
        """Groups that have, or may have, waiting pods."""
        self._queue_records: dict[str, state.QueueRecord] = {}
        self._classes: Interner[bytes] = Interner()
        self._classes_priority: dict[str, state.PriorityClassRecord] = {}
        self._tree: Tree | None = None
        self._by_node: dict[str, set[str]] = {}
        self.changes = 0
        """Counts up with every change that a decision may depend on."""

    # records

    def apply(self, record: state.StateMessage) -> None:
        """A record that is new or changed."""
        match record:
            case state.PodRecord():
                self._pod(record)
            case state.NodeRecord():
                self._node(record)
            case state.GroupRecord():
                self._group(record)
            case state.QueueRecord():
                if self._queue_records.get(record.name) != record:
                    self._queue_records[record.name] = record
                    self._tree = None
            case state.PriorityClassRecord():
                self._classes_priority[record.name] = record
                self._reprioritise()
            case _:
                return
        self.changes += 1

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """An object that is gone; ``kind`` as in the state plane's subjects."""
        match kind:
            case "pod":
                if uid := self.uid_of.pop((namespace, name), None):
                    self._forget(uid)
            case "node":
                for uid in self._by_node.get(name, set()):
                    self.pods[uid].column = -1
                self.nodes.remove(name)
            case "group":
                if group := self.groups.get((namespace, name)):
                    for pod in group.pods.values():
                        self._count(pod, False)
                    group.record = group.root = None
                    if not group.pods:
                        del self.groups[namespace, name]
            case "queue":
                if self._queue_records.pop(name, None):
                    self._tree = None
            case "priorityclass":
                self._classes_priority.pop(name, None)
                self._reprioritise()
            case _:
                return
        self.changes += 1

    def assume(self, uid: str, node: str) -> None:
        """Count the pod as placed on ``node`` until the API shows it, or ``forget``. A pod not known yet counts later."""
        self.assumed[uid] = node
        if pod := self.pods.get(uid):
            self._place(pod, node)
        self.changes += 1

    def forget(self, uid: str) -> None:
        """The decision on the pod is off (or the API shows it): count what its record says."""
        if self.assumed.pop(uid, None) is not None and (pod := self.pods.get(uid)):
            self._place(pod, pod.record.node)
            self.changes += 1

    def bar(self, uid: str, barred: bool) -> None:
        """Keep a pod from being placed, or allow it again."""
        if barred:
            self.barred.add(uid)
        else:
            self.barred.discard(uid)
        self.changes += 1

    # derived

    @property
    def tree(self) -> Tree:
        """The queue tree with its roll-ups; made anew only after a queue changed."""
        if self._tree is None:
            self._tree = Tree(self._queue_records)
            for key, group in self.groups.items():
                if self.queue_of(group) is None:
                    continue
                for pod in group.pods.values():
                    if pod.counted:
                        self._charge_queue(group, pod, 1.0)
                self.waiting.add(key)
        return self._tree

    def queue_of(self, group: Group) -> Queue | None:
        """The group's queue, if it is in the tree."""
        return self.tree.queues.get(group.record.queue) if group.record else None

    def request_vector(self, pod: Pod) -> Vector:
        """CPU, memory and GPUs of a pod: (3,)."""
        return pod.request[:SHARED_RESOURCES].copy()

    def refresh_requests(self) -> None:
        """Set every queue's request: what its pods have and what they wait for (policy spec 2.2)."""
        tree = self.tree
        for queue in tree.queues.values():
            queue.request = queue.allocated.copy()
        for key in self.waiting:
            group = self.groups.get(key)
            queue = self.queue_of(group) if group else None
            if group is None or queue is None:
                continue
            wanted = zeros()
            for pod in group.pods.values():
                if pod.pending:
                    wanted += pod.request[:SHARED_RESOURCES]
            for above in queue.line():
                above.request += wanted

    # inside

    def _class(self, record: state.PodRecord) -> int:
        shape = msgspec.json.encode(
            (
                sorted(record.requests.items()), sorted(record.node_selector.items()), record.affinity,
                record.tolerations, record.host_ports, record.claims, record.share,
            )
        )  # fmt: skip
        return self._classes.number(shape)

    def _pod(self, record: state.PodRecord) -> None:
        key = (record.namespace, record.name)
        before = self.uid_of.get(key)
        if before and before != record.uid:
            self._forget(before)
        self.uid_of[key] = record.uid
        old = self.pods.get(record.uid)
        if record.scheduler_name != self.scheduler_name and not record.node:
            self._forget(record.uid)
            return
        if old is not None and old.record.requests == record.requests:
            number, request = old.number, old.request
        else:
            number, request = self._class(record), self.nodes.vector(record.requests)
        if old is not None and (old.record.group != record.group or old.request is not request):
            self._forget(record.uid)
            self.uid_of[key] = record.uid
            old = None
        if old is None:
            old = self.pods[record.uid] = Pod(record, number, request)
        elif not record.node:
            old.number = self._class(record)
        old.record = record
        if record.group and record.scheduler_name == self.scheduler_name:
            group = self.groups.setdefault((record.namespace, record.group), Group())
            group.pods[record.uid] = old
            self.waiting.add((record.namespace, record.group))
        self._place(old, record.node or self.assumed.get(record.uid, ""))

    def _place(self, pod: Pod, node: str) -> None:
        """Charge the pod to ``node`` (or to none) and count it accordingly."""
        uid = pod.record.uid
        if pod.record.phase in DONE:
            node = ""
        if pod.node != node:
            if pod.column >= 0:
                self.nodes.charge(pod.column, pod.request, -1.0)
            if pod.node:
                self._by_node[pod.node].discard(uid)
            pod.node, pod.column = node, -1
            if node:
                self._by_node.setdefault(node, set()).add(uid)
                pod.column = self.nodes.columns.get(node, -1)
                if pod.column >= 0:
                    self.nodes.charge(pod.column, pod.request)
        if pod.record.group:
            self.waiting.add((pod.record.namespace, pod.record.group))
        self._count(pod, bool(node) and pod.alive)

    def _count(self, pod: Pod, counted: bool) -> None:
        if pod.counted == counted:
            return
        group = self.groups.get((pod.record.namespace, pod.record.group))
        if group is None or group.record is None:
            return
        if self._tree is not None:
            self._charge_queue(group, pod, 1.0 if counted else -1.0)
        pod.counted = counted

    def _charge_queue(self, group: Group, pod: Pod, sign: float) -> None:
        if group.record and self._tree and (queue := self._tree.queues.get(group.record.queue)):
            queue.charge(pod.request[:SHARED_RESOURCES], group.preemptible, sign)

    def _forget(self, uid: str) -> None:
        pod = self.pods.pop(uid, None)
        if pod is None:
            return
        self._place(pod, "")
        key = (pod.record.namespace, pod.record.group)
        if group := self.groups.get(key):
            group.pods.pop(uid, None)
            if not group.pods and group.record is None:
                del self.groups[key]
        self.uid_of.pop((pod.record.namespace, pod.record.name), None)
        self.barred.discard(uid)

    def _node(self, record: state.NodeRecord) -> None:
        fresh = record.name not in self.nodes.columns
        self.nodes.put(record)
        if fresh:
            column = self.nodes.columns[record.name]
            for uid in self._by_node.get(record.name, set()):
                pod = self.pods[uid]
                pod.column = column
                self.nodes.charge(column, pod.request)

    def _group(self, record: state.GroupRecord) -> None:
        key = (record.namespace, record.name)
        group = self.groups.setdefault(key, Group())
        value = priority(record.priority_class, self._classes_priority)
        changed = group.record is None or (group.record.queue, group.preemptible) != (
            record.queue,
            preemptible(record, value),
        )
        if changed:
            for pod in group.pods.values():
                self._count(pod, False)
        group.record, group.root = record, tree(record)
        group.priority, group.preemptible = value, preemptible(record, value)
        if changed:
            for pod in group.pods.values():
                self._count(pod, bool(pod.node) and pod.alive)
        self.waiting.add(key)

    def _reprioritise(self) -> None:
        for group in self.groups.values():
            if group.record is not None:
                self._group(group.record)

    def check(self) -> None:
        """Recount from the pods; raises AssertionError where a column or roll-up differs. For tests."""
        idle = self.nodes.allocatable.copy()
        for pod in self.pods.values():
            if pod.node in self.nodes.columns:
                idle[: pod.request.shape[0], self.nodes.columns[pod.node]] -= pod.request
        np.testing.assert_allclose(idle, self.nodes.idle, atol=1e-6)
        for queue in self.tree.queues.values():
            want = zeros()
            for group in self.groups.values():
                mine = self.queue_of(group)
                if mine is not None and queue in mine.line():
                    for pod in group.pods.values():
                        if pod.node and pod.alive:
                            want += pod.request[:SHARED_RESOURCES]
            np.testing.assert_allclose(want, queue.allocated, atol=1e-6)

    def leaves_of(self, group: Group) -> list[str]:
        """Names of the group's leaves."""
        return [leaf.name for leaf in leaves(group.root)] if group.root else []
