"""Write what travels on the bus as documents: AsyncAPI 3, a JSON Schema per message, the streams.

``python -m shoal_contracts.export FOLDER``; the output is committed, and a test compares it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shoal_contracts import decision, events, journal, queries, state, streams
from shoal_contracts.base import kind_of

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Channel:
    """One family of subjects: which message travels there, who sends it and who reads it."""

    name: str
    subject: str
    message: type[msgspec.Struct]
    senders: tuple[str, ...]
    readers: tuple[str, ...]
    stream: str = ""


def _state(kind: str, message: type[msgspec.Struct], *, namespaced: bool = False) -> Channel:
    names = "{namespace}.{name}" if namespaced else "{name}"
    readers = ("pod-grouper", "queue-controller", "scheduler")
    return Channel(
        f"state.{kind}", f"shoal.v1.state.{{shard}}.{kind}.{names}", message, ("cluster-state",), readers, "SHOAL_STATE"
    )


CHANNELS = (
    _state("node", state.NodeRecord),
    _state("pod", state.PodRecord, namespaced=True),
    _state("group", state.GroupRecord, namespaced=True),
    _state("queue", state.QueueRecord),
    _state("priorityclass", state.PriorityClassRecord),
    _state("topology", state.TopologyRecord),
    _state("pdb", state.PdbRecord, namespaced=True),
    _state("namespace", state.NamespaceRecord),
    *(
        _state(kind, state.AdmissionRecord)
        for kind in ("validatingwebhook", "mutatingwebhook", "validatingpolicy", "mutatingpolicy")
    ),
    _state("claim", state.ObjectRecord, namespaced=True),
    _state("slice", state.ObjectRecord),
    _state("deviceclass", state.ObjectRecord),
    _state("pvc", state.ObjectRecord, namespaced=True),
    _state("pv", state.ObjectRecord),
    _state("storageclass", state.ObjectRecord),
    _state("csidriver", state.ObjectRecord),
    _state("csinode", state.ObjectRecord),
    _state("storagecapacity", state.ObjectRecord, namespaced=True),
    _state("nrt", state.ObjectRecord),
    Channel(
        "state.meta", "shoal.v1.state.{shard}.meta.synced", state.SyncMark, ("cluster-state",),
        ("pod-grouper", "queue-controller", "scheduler"), "SHOAL_STATE",
    ),
    Channel(
        "decision", "shoal.v1.decision.{shard}.{uid}", decision.Decision, ("scheduler",), ("binder", "scheduler"),
        "SHOAL_DECISION",
    ),
    Channel(
        "decision.epoch", "shoal.v1.decision.{shard}._epoch", decision.Epoch, ("scheduler",), ("binder", "scheduler"),
        "SHOAL_DECISION",
    ),
    Channel(
        "decision.gang", "shoal.v1.decision.{shard}._gang.{gang}", decision.GangGo, ("scheduler",), ("binder",),
        "SHOAL_DECISION",
    ),
    Channel(
        "outcome", "shoal.v1.outcome.{shard}.{uid}", decision.Outcome, ("binder",), ("scheduler",), "SHOAL_DECISION"
    ),
    Channel(
        "event.pod", "shoal.v1.event.{shard}.{queue}.pod.{what}.{namespace}.{name}", events.PodCloudEvent,
        ("scheduler", "binder"), ("users",), "SHOAL_EVENT",
    ),
    Channel(
        "event.group", "shoal.v1.event.{shard}.{queue}.group.{what}.{namespace}.{name}", events.GroupCloudEvent,
        ("scheduler",), ("users",), "SHOAL_EVENT",
    ),
    Channel("log.input", "shoal.v1.log.{shard}.input", journal.Input, ("scheduler",), ("shoal replay",), "SHOAL_LOG"),
    Channel(
        "log.decision", "shoal.v1.log.{shard}.decision", journal.Decided, ("scheduler",), ("shoal replay",), "SHOAL_LOG"
    ),
    Channel(
        "state.gpu", "shoal.v1.state.{shard}.gpu.{node}.{group}", state.GpuGroupRecord, ("gpu-reservation",), ("users",),
        "SHOAL_STATE",
    ),
    Channel(
        "query.reserve", "shoal.v1.q.gpu-reservation.reserve.{part}", queries.ReserveRequest, ("binder",),
        ("gpu-reservation",),
    ),
    Channel(
        "query.reserved", "_INBOX_binder.{id}", queries.ReserveReply, ("gpu-reservation",), ("binder",),
    ),
    Channel(
        "query.health", "shoal.v1.q.{service}.health", queries.HealthReply,
        (
            "cluster-state", "pod-grouper", "queue-controller", "scheduler", "binder", "gpu-reservation", "admission",
            "shard-controller",
        ), ("anyone",),
    ),
)  # fmt: skip
"""Everything that is sent."""


def name_of(message: type[msgspec.Struct]) -> str:
    """The name of a message in the documents: its kind, or its class for CloudEvents."""
    tag = message.__struct_config__.tag
    return kind_of(message) if tag else message.__name__  # type: ignore[arg-type]


def _messages() -> list[type[msgspec.Struct]]:
    return list(dict.fromkeys(c.message for c in CHANNELS))


def schemas() -> dict[str, dict[str, Any]]:
    """Message name -> JSON Schema that stands alone."""
    return {name_of(m): {"$schema": DRAFT, **msgspec.json.schema(m)} for m in _messages()}


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document."""
    messages = _messages()
    _, components = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for channel in CHANNELS:
        message = name_of(channel.message)
        parameters = [part[1:-1] for part in channel.subject.split(".") if part.startswith("{")]
        channels[channel.name] = {
            "address": channel.subject,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
            "parameters": {p: {"description": f"One token: the {p}, escaped."} for p in parameters},
            **({"x-jetstream": channel.stream} if channel.stream else {}),
        }
        for action, who in (("send", channel.senders), ("receive", channel.readers)):
            for service in who:
                operations[f"{service}.{action}.{channel.name}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{channel.name}"},
                    "x-service": service,
                }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Shoal", "version": version, "description": "What travels on the bus of Shoal."},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                name_of(m): {
                    "name": name_of(m),
                    "summary": (m.__doc__ or "").split("\n")[0],
                    "payload": {"$ref": f"#/components/schemas/{m.__name__}"},
                }
                for m in messages
            },
            "schemas": components,
        },
    }


def documents(version: str) -> dict[str, str]:
    """File name -> content of everything that is generated."""

    def text(found: Any) -> str:
        return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    # JSON is YAML: the files need no YAML writer here, and any YAML reader takes them.
    found = {"asyncapi.yaml": text(asyncapi(version))}
    declared = {"streams": msgspec.to_builtins(streams.STREAMS), "consumers": msgspec.to_builtins(streams.CONSUMERS)}
    found["streams.yaml"] = text(declared)
    for name, schema in schemas().items():
        found[f"schemas/{name}.json"] = text(schema)
    return found


def write(folder: Path, version: str) -> None:
    """Write all documents into ``folder``."""
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    for name, content in documents(version).items():
        (folder / name).write_text(content)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(target, (target.parent / "VERSION").read_text().strip())
