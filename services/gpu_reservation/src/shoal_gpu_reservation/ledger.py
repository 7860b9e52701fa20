"""The ledger of shared GPUs: which groups a node has, which device each holds, who uses it. Pure, and derived: from pods
(users), reservation pods (devices) and open decisions (users to come). It can be made anew from them at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal_contracts.decision import Decision, Verb
from shoal_contracts.state import GpuShare, PodRecord
from shoal_model import gpu, labels

Key = tuple[str, str]
"""Node, group."""


@dataclass(frozen=True)
class Reservation:
    """A reservation pod: it holds one whole device for its group."""

    name: str
    uid: str
    version: str
    created: float
    device: str = ""
    """UUID; empty until the reservation program has told it."""
    lost: str = ""
    """Why the device is gone; empty while it is there."""
    leaving: bool = False
    """It is being deleted."""


@dataclass(frozen=True)
class User:
    """A pod on the node that uses a part of the device."""

    uid: str
    namespace: str
    pod: str
    share: GpuShare | None


@dataclass
class Group:
    """A shared GPU of a node."""

    node: str
    name: str
    reservations: dict[str, Reservation] = field(default_factory=dict)
    """By uid; more than one is a leftover of something."""
    users: dict[str, User] = field(default_factory=dict)
    coming: set[str] = field(default_factory=set)
    """Uids of pods with an open decision for it."""

    @property
    def reservation(self) -> Reservation | None:
        """The reservation that counts: the oldest that is not being deleted."""
        standing = [r for r in self.reservations.values() if not r.leaving]
        return min(standing, key=lambda r: (r.created, r.name), default=None)

    @property
    def empty(self) -> bool:
        """Nothing is left of it."""
        return not (self.reservations or self.users or self.coming)

    @property
    def in_use(self) -> bool:
        """Somebody uses it, or will."""
        return bool(self.users or self.coming)

    def used(self, device_mib: float) -> float:
        """The part of the device that its users take together; ``device_mib``: its memory."""
        total = 0.0
        for user in self.users.values():
            if user.share is not None:
                total += user.share.fraction or (user.share.memory_mib / device_mib if device_mib else 0.0)
        return total


class Ledger:
    """Groups by (node, group)."""

    def __init__(self) -> None:
        self.groups: dict[Key, Group] = {}
        self.on_node: dict[str, dict[str, Group]] = {}
        """The same by node."""
        self.pods: dict[tuple[str, str], PodRecord] = {}
        """Pods that count, by namespace and name."""
        self.decisions: dict[str, Decision] = {}
        """Open decisions for shared GPUs, by the pod's uid."""

    # what is told

    def pod(self, record: PodRecord) -> set[Key]:
        """A pod is so now; the groups that changed."""
        key = (record.namespace, record.name)
        changed = self.pod_gone(*key)
        if gpu.is_user(record) or gpu.is_reservation(record):
            self.pods[key] = record
            changed |= self._count(record)
        return changed

    def pod_gone(self, namespace: str, name: str) -> set[Key]:
        """A pod is gone; the groups that changed."""
        record = self.pods.pop((namespace, name), None)
        if record is None:
            return set()
        keys = self._keys(record)
        for key in keys:
            if found := self.groups.get(key):
                found.reservations.pop(record.uid, None)
                found.users.pop(record.uid, None)
                self._drop(found)
        return keys

    def decision(self, found: Decision) -> set[Key]:
        """A decision is open; the groups that changed."""
        changed = self.closed(found.uid)
        if found.verb is Verb.BIND and found.gpu_groups:
            self.decisions[found.uid] = found
            for key in self._wanted(found):
                self._group(key).coming.add(found.uid)
                changed.add(key)
        return changed

    def closed(self, uid: str) -> set[Key]:
        """The decision on the pod is closed; the groups that changed."""
        found = self.decisions.pop(uid, None)
        keys = self._wanted(found) if found else set()
        for key in keys:
            if group := self.groups.get(key):
                group.coming.discard(uid)
                self._drop(group)
        return keys

    # inside

    @staticmethod
    def _keys(record: PodRecord) -> set[Key]:
        return {(record.node, group) for group in record.gpu_groups}

    @staticmethod
    def _wanted(decision: Decision) -> set[Key]:
        return {(decision.node, group) for group in decision.gpu_groups}

    def _group(self, key: Key) -> Group:
        found = self.groups.get(key)
        if found is None:
            found = self.groups[key] = Group(*key)
            self.on_node.setdefault(key[0], {})[key[1]] = found
        return found

    def _drop(self, group: Group) -> None:
        if group.empty and self.groups.pop((group.node, group.name), None) is not None:
            there = self.on_node[group.node]
            del there[group.name]
            if not there:
                del self.on_node[group.node]

    def _count(self, record: PodRecord) -> set[Key]:
        keys = self._keys(record)
        for key in keys:
            group = self._group(key)
            if gpu.is_reservation(record):
                lost = record.annotations.get(labels.DEVICE_LOST, "")
                if record.phase in gpu.ENDED:
                    lost = lost or f"its reservation pod has ended ({record.phase})"
                group.reservations[record.uid] = Reservation(
                    record.name, record.uid, record.resource_version, record.created,
                    record.annotations.get(labels.DEVICE, ""), lost, bool(record.deleted),
                )  # fmt: skip
            else:
                group.users[record.uid] = User(record.uid, record.namespace, record.name, record.share)
        return keys

    # looking

    def recounted(self) -> Ledger:
        """The same, made anew from what it knows."""
        found = Ledger()
        for record in self.pods.values():
            found.pod(record)
        for decision in self.decisions.values():
            found.decision(decision)
        return found

    def differs(self, other: Ledger) -> set[Key]:
        """Groups that the two see otherwise."""
        return {key for key in self.groups.keys() | other.groups.keys() if self.groups.get(key) != other.groups.get(key)}
