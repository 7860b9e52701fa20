"""The books of volumes: claims, volumes, classes and capacities as they stand, and what pods that were placed will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from shoal_contracts.state import ObjectRecord, PodRecord
from shoal_core.rows import Key
from shoal_model.objects import Obj
from shoal_model.storage import KINDS, Capacity, Claim, CsiNode, Driver, StorageClass, Volume

T = TypeVar("T", bound=Obj)


@dataclass(frozen=True)
class Taken:
    """What an unbound claim gets with the place of a pod."""

    node: str
    volume: str
    """The volume that is there already; empty: one is made for the node."""


class Volumes:
    """Kept for as long as the cluster."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Obj] = {}
        self._broken: dict[tuple[str, str, str], str] = {}
        self.limits: dict[str, dict[str, int]] = {}
        """Node -> driver -> how many of its volumes the node takes; nodes without such limits are not in it."""
        self._by_class: dict[str, dict[str, Volume]] = {}
        """Storage class -> volumes by name."""
        self.taken: dict[Key, Taken] = {}
        """Unbound claims of pods with a place."""
        self._of_pod: dict[str, tuple[Key, ...]] = {}
        self._promised: set[str] = set()
        """Volumes that they are to get."""

    # objects

    def put(self, record: ObjectRecord) -> None:
        """Take in an object; one of another kind is nothing to us."""
        if record.type not in KINDS:
            return
        short, decoder = KINDS[record.type]
        key = (short, record.namespace, record.name)
        self.remove(*key)
        try:
            found = decoder.decode(record.body)
        except msgspec.DecodeError as error:
            self._broken[key] = str(error)
            return
        self._objects[key] = found
        if isinstance(found, Volume):
            self._by_class.setdefault(found.spec.storage_class_name, {})[record.name] = found
        elif isinstance(found, CsiNode) and found.limits:
            self.limits[record.name] = found.limits
        elif isinstance(found, Claim) and found.spec.volume_name:
            self._drop((record.namespace, record.name))

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """An object that is gone; ``kind`` as in the state plane's subjects."""
        self._broken.pop((kind, namespace, name), None)
        found = self._objects.pop((kind, namespace, name), None)
        if isinstance(found, Volume):
            self._by_class[found.spec.storage_class_name].pop(name, None)
        elif isinstance(found, CsiNode):
            self.limits.pop(name, None)

    def _find(self, type_: type[T], kind: str, namespace: str, name: str) -> T | None:
        found = self._objects.get((kind, namespace, name))
        return found if isinstance(found, type_) else None

    def claim(self, key: Key) -> Claim | None:
        """The claim of this namespace and name."""
        return self._find(Claim, "pvc", *key)

    def broken(self, key: Key) -> str:
        """Why the claim can't be read; empty if it can."""
        return self._broken.get(("pvc", *key), "")

    def volume(self, name: str) -> Volume | None:
        """The volume of this name."""
        return self._find(Volume, "pv", "", name)

    def storage_class(self, claim: Claim) -> StorageClass | None:
        """The claim's class."""
        return self._find(StorageClass, "storageclass", "", claim.spec.storage_class_name or "")

    def driver(self, name: str) -> Driver | None:
        """The driver of this name."""
        return self._find(Driver, "csidriver", "", name)

    def capacities(self) -> Iterator[Capacity]:
        """All that drivers say of the room that they have left."""
        return (o for o in self._objects.values() if isinstance(o, Capacity))

    def free(self, claim: Claim) -> Iterator[Volume]:
        """Volumes of the claim's class that no pod with a place is to get."""
        for name, volume in self._by_class.get(claim.spec.storage_class_name or "", {}).items():
            if name not in self._promised:
                yield volume

    # places

    def claims(self, pod: PodRecord) -> list[tuple[Key, Claim]]:
        """The pod's claims, as far as they are there."""
        found = [(key, self.claim(key)) for key in _keys(pod)]
        return [(key, claim) for key, claim in found if claim is not None]

    def attached(self, pod: PodRecord) -> set[tuple[str, str]]:
        """(driver, what it calls the volume) of the pod's volumes that are attached to its node, or will be."""
        found: set[tuple[str, str]] = set()
        for key, claim in self.claims(pod):
            volume = self.volume(claim.spec.volume_name) if claim.spec.volume_name else None
            if volume is not None:
                if volume.spec.csi is not None:
                    found.add((volume.spec.csi.driver, volume.spec.csi.volume_handle))
            elif (kind := self.storage_class(claim)) is not None:
                found.add((kind.provisioner, f"{key[0]}/{key[1]}"))
        return found

    def take(self, uid: str, node: str, chosen: Mapping[Key, str]) -> bool:
        """The pod's place gives its unbound claims these volumes ('': one is made); False if there is nothing new."""
        new = {key: name for key, name in chosen.items() if key not in self.taken}
        for key, name in new.items():
            self.taken[key] = Taken(node, name)
            if name:
                self._promised.add(name)
        if new:
            self._of_pod[uid] = (*self._of_pod.get(uid, ()), *new)
        return bool(new)

    def give_back(self, uid: str) -> None:
        """The pod has no place any more."""
        for key in self._of_pod.pop(uid, ()):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        found = self.taken.pop(key, None)
        if found is not None:
            self._promised.discard(found.volume)

    def promised(self, pod: PodRecord) -> tuple[tuple[str, str], ...]:
        """(claim, its volume; '': one is to be made) of the pod's unbound claims."""
        return tuple((key[1], self.taken[key].volume) for key in _keys(pod) if key in self.taken)


def _keys(pod: PodRecord) -> list[Key]:
    return [(pod.namespace, name) for name in dict.fromkeys(pod.volumes)]
