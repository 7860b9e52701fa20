"""From a pod and its owners to the group that it should be in."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import replace
from typing import Any

import msgspec

from shoal_contracts.state import GroupRecord, PodRecord
from shoal_grouping.kinds import GROUPERS, TRANSPARENT
from shoal_grouping.kinds.other import group as default_group
from shoal_grouping.wanted import Case, Owner, Wanted
from shoal_model import labels
from shoal_model.objects import Meta, OwnerReference

KEPT = frozenset({labels.NODE_POOL, labels.QUEUE})
_OWN_NAME = re.compile(r"pg-.+-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Object(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    metadata: Meta = msgspec.field(default_factory=Meta)


def concerns(pod: PodRecord, scheduler_name: str) -> bool:
    """Whether the pod is ours to group, as far as the pod alone tells (spec: kubernetes.md 3.2)."""
    if pod.scheduler_name != scheduler_name or pod.annotations.get(labels.SKIP_GROUPER) == "true":
        return False
    return bool(pod.owners) or not pod.group or _alone(pod)


def _alone(pod: PodRecord) -> bool:
    return pod.group == f"pg-{pod.name}-{pod.uid}"


def given_by_user(pod: PodRecord, group: GroupRecord | None) -> bool:
    """Whether the pod names a group that no pod-grouper has made (``group``: what stands under that name): it stays in it.

    A group that is not there yet may come with the next object of an apply; its pods wait for it.
    """
    if not pod.group:
        return False
    if group is None:
        return not _alone(pod) and not _OWN_NAME.match(pod.group)
    return labels.TOP_OWNER not in group.annotations or not group.owners


def _below(case: Case) -> Case:
    """Without the owner on top, whose labels and annotations are passed down where there are none."""
    top = case.top
    if len(case.owners) > 1:
        under = case.owners[-2]
        found = replace(under, labels=top.labels | under.labels, annotations=top.annotations | under.annotations)
        return replace(case, owners=[*case.owners[:-2], found])
    pod = case.pod
    pod = msgspec.structs.replace(pod, labels=top.labels | pod.labels, annotations=top.annotations | pod.annotations)
    return replace(case, pod=pod, owners=[])


def group_of(case: Case) -> Wanted | None:
    """The group that the pod should be in; None if an owner says to stay out. Raises CantGroup."""
    if any(o.annotations.get(labels.SKIP_GROUPER) == "true" for o in case.owners):
        return None
    while case.owners and (case.top.group, case.top.kind) in TRANSPARENT:
        case = _below(case)
    grouper = GROUPERS.get((case.top.group, case.top.kind), default_group)
    wanted = grouper(case)
    pool = case.pod.labels.get(case.pool_label)
    if pool and case.pool_label not in wanted.labels:
        wanted.labels[case.pool_label] = pool
    return wanted


def changes(wanted: Wanted, have: GroupRecord, kept: Set[str] = KEPT) -> dict[str, Any]:
    """A merge patch that makes the group as wanted; empty if it is.

    What an administrator may have changed is kept: the labels ``kept``, queue, marks, back-off, and a topology where none
    is wanted.
    """
    patch: dict[str, Any] = {}
    pairs = (
        ("priorityClassName", wanted.priority_class, have.priority_class),
        ("preemptibility", wanted.preemptibility or None, have.preemptibility or None),
        ("minMember", wanted.min_member, have.min_member),
    )
    spec = {name: want for name, want, is_now in pairs if want != is_now}
    if spec:
        patch["spec"] = spec
    metadata: dict[str, Any] = {}
    tags = {k: v for k, v in wanted.labels.items() if k not in kept and have.labels.get(k) != v}
    notes = {k: v for k, v in wanted.annotations.items() if have.annotations.get(k) != v}
    if tags:
        metadata["labels"] = tags
    if notes:
        metadata["annotations"] = notes
    if [o.uid for o in have.owners] != [wanted.owner.uid]:
        metadata["ownerReferences"] = wanted.object()["metadata"]["ownerReferences"]
    if metadata:
        patch["metadata"] = metadata
    return patch


def decode_owner(data: bytes) -> tuple[Owner, list[OwnerReference]]:
    """(owner, its own owner references) from an object's JSON. Raises msgspec.DecodeError."""
    found = msgspec.json.decode(data, type=_Object)
    meta = found.metadata
    owner = Owner(
        found.api_version, found.kind, meta.name, meta.uid, meta.labels or {}, meta.annotations or {},
        bool(meta.deletion_timestamp),
    )  # fmt: skip
    return owner, list(meta.owner_references or ())
