"""What stands for an object that can't be read, or that the bus can't carry. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal_contracts import state
from shoal_contracts.base import encode
from shoal_model import labels

LONGEST = 1000
_RECORD = msgspec.json.Decoder(state.StateMessage)


class _Spec(msgspec.Struct, rename="camel"):
    scheduler_name: Any = ""
    node_name: Any = ""


class _Status(msgspec.Struct, rename="camel"):
    phase: Any = ""


class _Pod(msgspec.Struct):
    """What has to be known of a pod in any case: whose it is, and where it runs."""

    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


_KEPT = frozenset(
    {
        labels.QUEUE, labels.NODE_POOL, labels.SUBGROUP, labels.PRIORITY_CLASS, labels.PREEMPTIBILITY, labels.GPU_GROUP,
        labels.APP, labels.KUBEFLOW_ROLE, labels.RAY_NODE_TYPE, labels.TASK_PRIORITY,
    }
)  # fmt: skip
"""Labels that count however many there are."""


def slimmed(record: state.StateMessage, largest: int) -> state.StateMessage | None:
    """What is left of a record that is too large: what it takes up and to whom it is charged, not where it would like to be.

    None where even that is over ``largest`` bytes, or where nothing is known to be left out of this kind.
    """
    found: state.StateMessage
    match record:
        case state.PodRecord():
            found = msgspec.structs.replace(
                record, labels={k: v for k, v in record.labels.items() if k in _KEPT}, affinity=None, node_selector={},
                tolerations=[], spread=[], condition_message="", owners=record.owners[:8], unheeded=[], config_maps=[],
            )  # fmt: skip
        case state.NodeRecord():
            found = msgspec.structs.replace(record, annotations={}, labels=_shortest(record.labels, largest // 2))
        case state.GroupRecord():
            found = msgspec.structs.replace(record, labels={})
        case _:
            return None
    return found if len(encode(found)) <= largest else None


def _shortest(tags: dict[str, str], most: int) -> dict[str, str]:
    """The shortest of the labels that take up to ``most`` bytes together."""
    kept: dict[str, str] = {}
    for key in sorted(tags, key=lambda k: (len(k) + len(tags[k]), k)):
        most -= len(key) + len(tags[key]) + 6
        if most < 0:
            break
        kept[key] = tags[key]
    return kept


def stand_in(
    kind: str, names: tuple[str, str], uid: str, version: str, error: str, before: bytes | None, raw: bytes
) -> state.StateMessage | None:
    """A record with the error in it, None if the object is better left out.

    What the object held when it could be read (``before``) is kept: pods go on to hold their room, nodes what runs on
    them, but nothing more is placed on the node, and no pod of the group is placed.
    """
    text = f"the object can't be read: {error}"[:LONGEST]
    old: Any = _RECORD.decode(before) if before else None
    if old is not None and getattr(old, "uid", uid) != uid:
        old = None
    match kind:
        case "pod":
            try:
                found = msgspec.json.decode(raw, type=_Pod)
            except (msgspec.DecodeError, RecursionError):
                found = _Pod()
            texts = (found.spec.scheduler_name, found.spec.node_name, found.status.phase)
            scheduler, node, phase = (value if isinstance(value, str) else "" for value in texts)
            if isinstance(old, state.PodRecord):
                return msgspec.structs.replace(
                    old, error=text, resource_version=version, node=node or old.node, phase=phase or old.phase
                )
            return state.PodRecord(
                namespace=names[0], name=names[1], uid=uid, resource_version=version, scheduler_name=scheduler, node=node,
                phase=phase or "Pending", error=text,
            )  # fmt: skip
        case "node":
            if isinstance(old, state.NodeRecord):
                return msgspec.structs.replace(old, ready=False)
            return state.NodeRecord(name=names[1], uid=uid, ready=False)
        case "group":
            if isinstance(old, state.GroupRecord):
                return msgspec.structs.replace(old, error=text, resource_version=version)
            return state.GroupRecord(namespace=names[0], name=names[1], uid=uid, resource_version=version, error=text)
        case "queue":
            if isinstance(old, state.QueueRecord):
                return msgspec.structs.replace(old, error=text)
            return state.QueueRecord(name=names[1], uid=uid, error=text)
        case "pdb":
            # Not observed: it allows no disruption.
            if isinstance(old, state.PdbRecord):
                return msgspec.structs.replace(old, observed=False, disruptions_allowed=0)
            return None
        case _:
            return None
