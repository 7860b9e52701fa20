"""Which nodes a pod's volumes allow, and which volumes its unbound claims get there (placement spec 1.14 and 2.4, the
rules of Kubernetes' VolumeBinding)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from shoal_contracts.state import NodeRecord, PodRecord, Selector
from shoal_core.nodes import Bytes
from shoal_core.placement.census import users
from shoal_core.placement.feasible import meets, selects
from shoal_core.placement.standings import standing
from shoal_core.placement.volumes import Volumes
from shoal_core.rows import Key, Pod
from shoal_model.normalise import node_terms, selector
from shoal_model.quantity import BadQuantity, amount
from shoal_model.storage import (
    IMMEDIATE,
    NO_PROVISIONER,
    ZONES,
    Capacity,
    Claim,
    StorageClass,
    TopologyTerm,
    Volume,
    size,
    suits,
    zones,
)

if TYPE_CHECKING:
    from shoal_core.session import Session

CONFLICT = "node(s) had volume node affinity conflict"
NO_VOLUME = "node(s) didn't find available persistent volumes to bind"
NO_SPACE = "node(s) did not have enough free storage"
TOO_MANY = "node(s) exceed max volume count"
ONE_POD = "ReadWriteOncePod"
MISSING = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"


class Storage:
    """The rules, as the session stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._within: dict[str, Bytes] = {}
        """Volume -> nodes that reach it."""
        self._reach: dict[int, Bytes] = {}
        """Capacity object -> nodes that it is for."""
        self._elsewhere: frozenset[Key] | None = None
        self._attachments: dict[str, set[tuple[str, str]]] = {}
        """By pod: see ``_attached``."""
        self._kubernetes = not session.settings.kai_0_17
        """Whether a claim may be for one pod alone, and a volume for the zones that its labels name."""

    @property
    def _volumes(self) -> Volumes:
        return self._session.cluster.volumes

    def refused(self, pod: PodRecord) -> str:
        """Why no node can do for the pod's claims; empty if there is no such reason. Nothing that may be evicted helps."""
        for name in pod.volumes:
            key = (pod.namespace, name)
            if why := self._volumes.broken(key):
                return f"persistentvolumeclaim {name!r} can't be read: {why}"
            claim = self._volumes.claim(key)
            if claim is None:
                return f"persistentvolumeclaim {name!r} not found: create it in namespace {pod.namespace}"
            if claim.metadata.deletion_timestamp is not None:
                return f"persistentvolumeclaim {name!r} is being deleted"
            if claim.bound:
                continue
            if claim.spec.volume_name:
                return f"persistentvolumeclaim {name!r} is not bound to volume {claim.spec.volume_name!r} yet, which it names"
            kind = self._volumes.storage_class(claim)
            if kind is None or kind.volume_binding_mode == IMMEDIATE:
                return f"pod has unbound immediate PersistentVolumeClaims: {name!r} waits for its volume"
        return ""

    def used(self, pod: PodRecord, later: bool) -> str:
        """Which claim of the pod is for one pod alone and has one already; empty if there is none. ``later``: when what
        leaves is gone."""
        if not self._kubernetes:
            return ""
        for key, claim in self._volumes.claims(pod):
            if ONE_POD not in (claim.spec.access_modes or ()):
                continue
            if key in self._used_elsewhere() or self._session.census.count(users(*key)).here(later, pod.uid).any():
                return f"persistentvolumeclaim {key[1]!r} is {ONE_POD} and in use by another pod"
        return ""

    def _used_elsewhere(self) -> frozenset[Key]:
        """Claims of pods on nodes that are not among ours."""
        if self._elsewhere is None:
            cluster = self._session.cluster
            away = [
                cluster.pods[uid] for name, uids in cluster.by_node.items() if name not in cluster.nodes.columns for uid in uids
            ]
            self._elsewhere = frozenset((p.record.namespace, name) for p in away for name in p.record.volumes)
        return self._elsewhere

    def mask(self, pod: PodRecord, later: bool) -> tuple[Bytes, str]:
        """(nodes (uint8, 1: may) that the pod's claims allow, which rule excluded some). ``later``: see ``used``."""
        good, why = self._session.everywhere.copy(), ""
        if why := self.used(pod, later):
            return np.zeros_like(good), f"node(s) unavailable: {why}"
        unbound: list[tuple[Key, Claim]] = []
        for key, claim in self._volumes.claims(pod):
            taken = self._volumes.taken.get(key)
            bound = claim.spec.volume_name or (taken.volume if taken else "")
            if bound:
                volume = self._volumes.volume(bound)
                reached = self._reached(volume) if volume else np.zeros_like(good)
                if (good > reached).any():
                    why = why or (CONFLICT if volume else MISSING)
                good &= reached
            elif taken or claim.selected_node:
                column = self._session.nodes.columns.get(taken.node if taken else claim.selected_node, -1)
                only = np.zeros_like(good)
                if column >= 0:
                    only[column] = good[column]
                good, why = only, why or NO_VOLUME
            else:
                unbound.append((key, claim))
        for _, claim in unbound:
            allowed, told = self._nodes_for(claim, unbound)
            good &= allowed
            why = why or told
        if len(unbound) > 1:
            # Two claims may want the same volume.
            for column in np.flatnonzero(good).tolist():
                good[column] = self._choose(unbound, column) is not None
        if self._kubernetes and self._volumes.limits and self._over_limits(pod, later, good):
            why = why or TOO_MANY
        return good, why

    def _attached(self, pod: PodRecord) -> set[tuple[str, str]]:
        """``Volumes.attached``, which no step of the session changes."""
        found = self._attachments.get(pod.uid)
        if found is None:
            found = self._attachments[pod.uid] = self._volumes.attached(pod)
        return found

    def _over_limits(self, pod: PodRecord, later: bool, good: Bytes) -> bool:
        """Take nodes out of ``good`` that can't attach as many volumes more as the pod has; whether there were any."""
        session, volumes = self._session, self._volumes
        wanted = self._attached(pod)
        drivers = {driver for driver, _ in wanted}
        columns = session.nodes.columns
        limits = {columns[n]: found for n, found in volumes.limits.items() if n in columns and not drivers.isdisjoint(found)}
        limits = {column: found for column, found in limits.items() if good[column]}
        if not limits:
            return False
        there: dict[int, set[tuple[str, str]]] = {column: set() for column in limits}
        for other in session.cluster.pods.values():
            if other.node < 0 or not other.record.volumes or other.uid == pod.uid:
                continue
            at = standing(other, session.census.evicted)
            for column in at.near if later else at.near + at.leaving:
                if column in there:
                    there[column] |= self._attached(other.record)
        found = False
        for column, most in limits.items():
            count = Counter(driver for driver, _ in wanted | there[column])
            if any(count[driver] > most[driver] for driver, _ in wanted - there[column] if driver in most):
                good[column], found = 0, True
        return found

    def chosen(self, pod: Pod, column: int) -> dict[Key, str]:
        """For the pod's unbound claims: the volume on that node, '' where one is to be made."""
        claims = self._volumes.claims(pod.record)
        unbound = [(k, c) for k, c in claims if not c.spec.volume_name and k not in self._volumes.taken]
        found = self._choose([(k, c) for k, c in unbound if not c.selected_node], column)
        return {key: "" for key, _ in unbound} | (found or {})

    def _choose(self, claims: list[tuple[Key, Claim]], column: int) -> dict[Key, str] | None:
        """The smallest volume that does for each claim, smallest claim first; None if one can't be had."""
        found: dict[Key, str] = {}
        for key, claim in sorted(claims, key=lambda pair: (size(pair[1].spec.resources.requests), pair[0])):
            fitting = [v for v in self._suiting(claim) if v.metadata.name not in found.values() and self._reached(v)[column]]
            if fitting:
                # One that is kept for the claim goes first.
                best = min(fitting, key=lambda v: (v.spec.claim_ref is None, size(v.spec.capacity), v.metadata.name))
                found[key] = best.metadata.name
            elif self._made(claim, claims)[0][column]:
                found[key] = ""
            else:
                return None
        return found

    def _suiting(self, claim: Claim) -> list[Volume]:
        wanted = selector(claim.spec.selector) if claim.spec.selector else Selector()
        return [v for v in self._volumes.free(claim) if suits(v, claim) and selects(wanted, v.metadata.labels or {})]

    def _nodes_for(self, claim: Claim, beside: list[tuple[Key, Claim]]) -> tuple[Bytes, str]:
        """Nodes that have a volume for the claim, or for which one can be made."""
        good, why = self._made(claim, beside)
        for volume in self._suiting(claim):
            good = good | self._reached(volume)
        return good, why

    def _made(self, claim: Claim, beside: list[tuple[Key, Claim]]) -> tuple[Bytes, str]:
        """(nodes for which a volume can be made, why not elsewhere); ``beside``: all claims of the pod."""
        kind = self._volumes.storage_class(claim)
        if kind is None or kind.provisioner in ("", NO_PROVISIONER):
            return np.zeros_like(self._session.everywhere), NO_VOLUME
        terms = kind.allowed_topologies
        good = self._where(lambda node: _allows(terms, node)) if terms else self._session.everywhere
        driver = self._volumes.driver(kind.provisioner)
        if driver is None or not driver.spec.storage_capacity:
            return good, NO_VOLUME
        mine = [c for _, c in beside if c.spec.storage_class_name == claim.spec.storage_class_name]
        return good & self._spacious(kind, claim, mine), NO_SPACE

    def _where(self, good: Callable[[NodeRecord], bool]) -> Bytes:
        """Nodes of which this is true."""
        found = np.zeros_like(self._session.everywhere)
        for column, node in enumerate(self._session.nodes.records):
            found[column] = node is not None and good(node)
        return found

    def _spacious(self, kind: StorageClass, claim: Claim, beside: list[Claim]) -> Bytes:
        """Nodes where a capacity of the class holds the claim; where storage is accounted for, together with all that was
        promised there and the pod's others."""
        good = np.zeros_like(self._session.everywhere)
        accounted = self._session.settings.csi_storage
        asked = sum(size(c.spec.resources.requests) for c in beside) if accounted else size(claim.spec.resources.requests)
        seen = np.zeros(good.shape[0], np.int64)
        for capacity in self._volumes.capacities():
            if capacity.storage_class_name != kind.metadata.name:
                continue
            reach = self._for_nodes(capacity)
            seen += reach
            left = _left(capacity)
            if accounted:
                left -= self._promised(kind.metadata.name, reach)
            if asked <= left:
                good |= reach
        if accounted:
            # Which of several a volume comes from can't be known.
            good[seen > 1] = 0
        return good

    def _promised(self, name: str, reach: Bytes) -> float:
        """Bytes of the volumes of this class that are to be made on these nodes for pods that have a place there."""
        total = 0.0
        for key, taken in self._volumes.taken.items():
            claim = self._volumes.claim(key)
            column = self._session.nodes.columns.get(taken.node, -1)
            if claim is None or taken.volume or column < 0 or not reach[column]:
                continue
            if claim.spec.storage_class_name == name:
                total += size(claim.spec.resources.requests)
        return total

    def _for_nodes(self, capacity: Capacity) -> Bytes:
        found = self._reach.get(id(capacity))
        if found is None:
            wanted = selector(capacity.node_topology)
            found = self._reach[id(capacity)] = self._where(lambda node: selects(wanted, node.labels))
        return found

    def _reached(self, volume: Volume) -> Bytes:
        found = self._within.get(volume.metadata.name)
        if found is None:
            affinity = volume.spec.node_affinity
            terms = node_terms(affinity.required) if affinity else None
            within = zones(volume) if self._kubernetes else ()
            found = self._session.everywhere
            if terms is not None:
                found = self._where(lambda node: any(meets(t, node.name, node.labels) for t in terms))
            if within:
                found = found & self._where(lambda node: _in_zones(within, node.labels))
            self._within[volume.metadata.name] = found
        return found


def _in_zones(within: Sequence[tuple[str, frozenset[str]]], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is where the volume is; one that says nothing of zones may be anywhere."""
    if not any(label in labels for label in ZONES):
        return True
    return all(labels.get(key, labels.get(ZONES[key])) in values for key, values in within)


def _allows(terms: Sequence[TopologyTerm], node: NodeRecord) -> bool:
    """Whether the node is in one of a class's allowed topologies."""
    return any(all(node.labels.get(e.key) in (e.values or ()) for e in t.match_label_expressions or ()) for t in terms)


def _left(capacity: Capacity) -> float:
    """Bytes that one volume may have; the largest that the driver makes goes before what it has left."""
    try:
        return amount(capacity.maximum_volume_size or capacity.capacity or "0")
    except BadQuantity:
        return 0.0
