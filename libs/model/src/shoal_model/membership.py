"""Which group a pod is in, also while only the group says so.

The group of a single pod that has no workload above it (or a Deployment's) is owned by the pod itself. Its pod gets the
annotation together with the binding, which saves a write per pod; until then the ownership tells.
"""

from __future__ import annotations

import msgspec

from shoal_contracts.state import GroupRecord, PodRecord


class Membership:
    """Pods with their group filled in."""

    def __init__(self) -> None:
        self._group_of: dict[str, tuple[str, str]] = {}
        """Pod uid -> (namespace, group) that it owns."""
        self._owned_by: dict[tuple[str, str], str] = {}
        self._alone: dict[str, PodRecord] = {}
        """Pods without a group, by uid."""
        self._uids: dict[tuple[str, str], str] = {}

    def pod(self, record: PodRecord) -> PodRecord:
        """The record with the group that the pod is in, as far as known."""
        key = (record.namespace, record.name)
        before = self._uids.get(key)
        if before is not None and before != record.uid:
            self._alone.pop(before, None)
        self._uids[key] = record.uid
        if record.group:
            self._alone.pop(record.uid, None)
            return record
        self._alone[record.uid] = record
        return self._filled(record)

    def _filled(self, record: PodRecord) -> PodRecord:
        found = self._group_of.get(record.uid)
        if found is None or found[0] != record.namespace:
            return record
        return msgspec.structs.replace(record, group=found[1])

    def pod_gone(self, namespace: str, name: str) -> None:
        """The pod is gone."""
        if uid := self._uids.pop((namespace, name), None):
            self._alone.pop(uid, None)

    def group(self, record: GroupRecord) -> PodRecord | None:
        """Take note of a group; a pod that is now known to be in it comes back with its group filled in."""
        for owner in record.owners:
            if owner.type == "Pod" and len(record.owners) == 1:
                self._group_of[owner.uid] = (record.namespace, record.name)
                self._owned_by[record.namespace, record.name] = owner.uid
                if alone := self._alone.get(owner.uid):
                    return self._filled(alone)
        return None

    def group_gone(self, namespace: str, name: str) -> None:
        """The group is gone."""
        if uid := self._owned_by.pop((namespace, name), None):
            self._group_of.pop(uid, None)
