"""Reads a cluster from a file or folder: a snapshot in KAI's format, or Kubernetes YAML and JSON."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shoal_client.grouping import grouped
from shoal_contracts.state import ObjectRecord, PodRecord, StateMessage
from shoal_model.normalise import TYPES, from_dict

LARGEST = 2 << 30
MOST_FILES = 100_000
PLURALS = {
    "nodes": "Node", "queues": "Queue", "priorityClasses": "PriorityClass", "podGroups": "PodGroup", "topologies": "Topology",
    "resourceClaims": "ResourceClaim", "resourceSlices": "ResourceSlice", "deviceClasses": "DeviceClass",
    "nodeResourceTopologies": "NodeResourceTopology", "persistentVolumes": "PersistentVolume",
    "persistentVolumeClaims": "PersistentVolumeClaim", "storageClasses": "StorageClass", "configMaps": "ConfigMap",
    "pods": "Pod",
}  # fmt: skip
WHOLE = frozenset(PLURALS.values()) - TYPES.keys()
"""Kinds that are passed on as they are."""


class CantRead(Exception):
    """The input is not there or not what it should be; the message says where and how to repair it."""


@dataclass
class Snapshot:
    """A cluster as it was found."""

    records: list[StateMessage] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    now: float = 0.0
    """A second after the newest object was made."""
    problems: list[str] = field(default_factory=list)
    """Objects that were left out, and why."""


def read(path: Path) -> Snapshot:
    """The cluster in a snapshot (zip or JSON), or in a file or folder of manifests. Raises CantRead."""
    if not path.exists():
        raise CantRead(f"{path} does not exist")
    found = Snapshot()
    if path.suffix == ".zip":
        _snapshot(_unzipped(path), path, found)
    elif path.suffix == ".json" and isinstance(body := _json(path), dict) and "rawObjects" in body:
        _snapshot(body, path, found)
    else:
        others: list[dict[str, Any]] = []
        for file, raw in _manifests(path, found):
            _add(raw, str(raw.get("kind") or ""), file, found, others)
        found.records = grouped(found.records, others)
    if not found.records:
        raise CantRead(f"{path} holds no object that matters for scheduling")
    found.records.sort(key=lambda r: isinstance(r, PodRecord))
    found.now = max((getattr(r, "created", 0.0) for r in found.records), default=0.0) + 1.0
    return found


def _unzipped(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("snapshot.json")
            if member.file_size > LARGEST:
                raise CantRead(f"{path}: snapshot.json is over {LARGEST >> 30} GiB")
            body = json.loads(archive.read(member))
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise CantRead(f"{path}: no snapshot, a zip with snapshot.json is expected: {error}") from error
    if not isinstance(body, dict):
        raise CantRead(f"{path}: snapshot.json is not an object")
    return body


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CantRead(f"{path}: {error}") from error


def _snapshot(body: dict[str, Any], path: Path, found: Snapshot) -> None:
    found.config, found.params = body.get("config") or {}, body.get("schedulerParams") or {}
    raw = body.get("rawObjects")
    if not isinstance(raw, dict):
        raise CantRead(f"{path}: rawObjects is missing")
    if raw.get("bindRequests"):
        found.problems.append(f"{len(raw['bindRequests'])} BindRequests were left out: their pods are taken as waiting")
    for plural, kind in PLURALS.items():
        for item in raw.get(plural) or ():
            _add(item, kind, path, found, [])


def _manifests(path: Path, found: Snapshot) -> Iterator[tuple[Path, dict[str, Any]]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
    if len(files) > MOST_FILES:
        raise CantRead(f"{path} has over {MOST_FILES} files")
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_bytes()))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            found.problems.append(f"{file}: {' '.join(str(error).split())}")
            continue
        for document in documents:
            items = (
                document.get("items") if isinstance(document, dict) and str(document.get("kind", "")).endswith("List") else None
            )
            for raw in [document] if items is None else items:
                if isinstance(raw, dict):
                    yield file, raw


def _add(raw: Any, kind: str, where: Path, found: Snapshot, others: list[dict[str, Any]]) -> None:
    meta = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(meta, dict) or not meta.get("name"):
        found.problems.append(f"{where}: an object of kind {kind or '?'} without metadata.name was left out")
        return
    if kind in ("Pod", "PodGroup"):
        meta.setdefault("namespace", "default")
    meta.setdefault("uid", f"{meta.get('namespace', '')}/{meta['name']}".lstrip("/"))
    try:
        if kind in TYPES:
            found.records.append(from_dict({**raw, "kind": kind}))
        elif kind in WHOLE:
            body = msgspec.Raw(msgspec.json.encode(raw))
            found.records.append(
                ObjectRecord(type=kind, namespace=meta.get("namespace", ""), name=meta["name"], uid=meta["uid"], body=body)
            )
        else:
            others.append(raw)
    except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
        found.problems.append(f"{where}: {kind} {meta['name']} was left out: {error}")
