"""Devices that are held for nobody. A reservation whose last user is gone still holds its device until it is deleted: a
pod that got that device before would be refused by the kubelet. Until then the device counts as being released. Pure."""

from __future__ import annotations

import msgspec

from shoal_contracts.state import PodRecord
from shoal_model import gpu, labels

Key = tuple[str, str]
"""Node, group."""


class Reservations:
    """Reservation pods, and who uses their groups. What changes comes back as records to be told to the core."""

    def __init__(self) -> None:
        self._pods: dict[Key, PodRecord] = {}
        self._key_of: dict[str, Key] = {}
        self._shown: dict[Key, bool] = {}
        """Whether the reservation was told as one that is used."""
        self._users: dict[Key, set[str]] = {}
        self._of: dict[str, tuple[tuple[Key, ...], tuple[Key, ...]]] = {}
        """Pod uid -> (groups that its record names, groups that a decision gives it)."""
        self._touched: set[Key] = set()

    def record(self, pod: PodRecord, now: float) -> PodRecord:
        """A pod is so now. Gives the record that the core is to see."""
        if gpu.is_reservation(pod):
            for group in pod.gpu_groups[:1]:
                key = (pod.node, group)
                self._pods[key] = pod
                self._key_of[pod.uid] = key
                return pod if self._shown.setdefault(key, key in self._users) else held_for_nobody(pod, now)
            return pod
        self._set(pod.uid, tuple((pod.node, g) for g in pod.gpu_groups) if gpu.is_user(pod) else (), None)
        return pod

    def gone(self, uid: str) -> None:
        """A pod is gone."""
        self._set(uid, (), ())
        if (key := self._key_of.pop(uid, None)) is not None:
            self._pods.pop(key, None)
            self._shown.pop(key, None)

    def decided(self, uid: str, node: str, groups: tuple[str, ...]) -> None:
        """A decision gives the pod these groups; none: it is off."""
        self._set(uid, None, tuple((node, g) for g in groups))

    def _set(self, uid: str, named: tuple[Key, ...] | None, given: tuple[Key, ...] | None) -> None:
        old = self._of.get(uid, ((), ()))
        new = (old[0] if named is None else named, old[1] if given is None else given)
        if new == old:
            return
        before, after = {*old[0], *old[1]}, {*new[0], *new[1]}
        for key in before - after:
            users = self._users[key]
            users.discard(uid)
            if not users:
                del self._users[key]
        for key in after - before:
            self._users.setdefault(key, set()).add(uid)
        self._touched |= before ^ after
        if after:
            self._of[uid] = new
        else:
            self._of.pop(uid, None)

    def changes(self, now: float) -> list[PodRecord]:
        """Reservations that are used now and were not, or the other way round: to be told as pods made anew."""
        found = []
        for key in self._touched:
            pod, used = self._pods.get(key), key in self._users
            if pod is not None and self._shown.get(key) != used:
                self._shown[key] = used
                found.append(pod if used else held_for_nobody(pod, now))
        self._touched.clear()
        return sorted(found, key=lambda pod: pod.name)


def held_for_nobody(pod: PodRecord, now: float) -> PodRecord:
    """The reservation as a pod that is leaving with one GPU."""
    # Not counted as a shared device's, nor as another scheduler's: as the suite's own, with the request that it has.
    tags = {k: v for k, v in pod.labels.items() if k != labels.GPU_GROUP} | {labels.APP: labels.SCALING_APP}
    return msgspec.structs.replace(pod, labels=tags, gpu_groups=[], deleted=pod.deleted or now)
