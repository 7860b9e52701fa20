"""What stands for an object that can't be read, or that the bus can't carry. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal_contracts import state

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
