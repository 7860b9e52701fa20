"""Pods without a pod group get the one that the pod-grouper would make."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal_contracts.state import GroupRecord, PodRecord, PriorityClassRecord, StateMessage
from shoal_grouping import CantGroup, Case, Owner, concerns, group_of
from shoal_model.labels import SCHEDULER_NAME
from shoal_model.normalise import from_dict


def grouped(records: list[StateMessage], others: list[dict[str, Any]]) -> list[StateMessage]:
    """The records, with groups for pods that have none. ``others``: the owners that are known, as objects."""
    owners = {_uid(raw): raw for raw in others}
    classes = {r.name: r for r in records if isinstance(r, PriorityClassRecord)}
    groups = {(r.namespace, r.name) for r in records if isinstance(r, GroupRecord)}
    found: list[StateMessage] = []
    for record in records:
        if not isinstance(record, PodRecord) or record.group or not concerns(record, SCHEDULER_NAME):
            found.append(record)
            continue
        try:
            wanted = group_of(Case(record, _chain(record, owners), classes))
        except CantGroup as problem:
            found.append(msgspec.structs.replace(record, error=str(problem)))
            continue
        if wanted is None:
            found.append(record)
            continue
        if (wanted.namespace, wanted.name) not in groups:
            groups.add((wanted.namespace, wanted.name))
            group = from_dict(wanted.object())
            assert isinstance(group, GroupRecord)
            found.append(msgspec.structs.replace(group, created=record.created, uid=wanted.name))
        found.append(msgspec.structs.replace(record, group=wanted.name))
    return found


def _uid(raw: dict[str, Any]) -> str:
    return str(raw["metadata"].get("uid"))


def _chain(pod: PodRecord, owners: dict[str, dict[str, Any]]) -> list[Owner]:
    """The pod's owners as far as they are known, from below."""
    chain: list[Owner] = []
    at = next((o for o in pod.owners if o.controller), pod.owners[0] if pod.owners else None)
    if at is None:
        return chain
    name, uid, api, kind = at.name, at.uid, at.api_version, at.type
    for _ in range(16):
        raw = owners.get(uid)
        meta = (raw or {}).get("metadata") or {}
        chain.append(Owner(api, kind, name, uid, meta.get("labels") or {}, meta.get("annotations") or {}))
        above = next(iter(meta.get("ownerReferences") or ()), None)
        if not isinstance(above, dict):
            break
        name, uid, api, kind = (str(above.get(key) or "") for key in ("name", "uid", "apiVersion", "kind"))
    return chain
