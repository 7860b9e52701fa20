"""Reads a cluster from a file or folder: a snapshot in KAI's format, or Kubernetes YAML and JSON."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shoal_client.grouping import grouped
from shoal_client.workloads import COUNT, BadWorkload, owned, pods_of, with_defaults
from shoal_contracts.state import ObjectRecord, PodRecord, StateMessage
from shoal_model.labels import SCHEDULER_NAME, SKIP_GROUPER
from shoal_model.normalise import TYPES, from_dict
from shoal_model.objects import drop_nulls, metadata_of

LARGEST = 2 << 30
MOST_FILES = 100_000
PLURALS = {
    "nodes": "Node", "namespaces": "Namespace", "queues": "Queue", "priorityClasses": "PriorityClass",
    "podGroups": "PodGroup", "topologies": "Topology",
    "resourceClaims": "ResourceClaim", "resourceSlices": "ResourceSlice", "deviceClasses": "DeviceClass",
    "nodeResourceTopologies": "NodeResourceTopology", "persistentVolumes": "PersistentVolume",
    "persistentVolumeClaims": "PersistentVolumeClaim", "storageClasses": "StorageClass", "csiDrivers": "CSIDriver",
    "csiNodes": "CSINode", "csiStorageCapacities": "CSIStorageCapacity",
    "configMaps": "ConfigMap", "podDisruptionBudgets": "PodDisruptionBudget",
    "pods": "Pod",
}  # fmt: skip
WHOLE = frozenset(PLURALS.values()) - TYPES.keys()
"""Kinds that are passed on as they are."""
CLUSTER_WIDE = frozenset(
    {
        "Node", "Namespace", "Queue", "PriorityClass", "Topology", "ResourceSlice", "DeviceClass", "NodeResourceTopology",
        "PersistentVolume", "StorageClass", "CSIDriver", "CSINode",
    }
)  # fmt: skip
API_GROUPS = {
    "Pod": "", "Node": "", "Namespace": "", "Queue": "scheduling.run.ai", "PodGroup": "scheduling.run.ai",
    "PriorityClass": "scheduling.k8s.io", "Topology": "kai.scheduler", "PodDisruptionBudget": "policy",
}  # fmt: skip
"""API groups of the kinds whose names others use too: Volcano and Kubernetes have a PodGroup, Knative a Node and so on."""
BAD_YAML = (OSError, ValueError, RecursionError, yaml.YAMLError)
BAD_ZIP = (OSError, ValueError, RecursionError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What the readers raise for files that are broken, encrypted or packed in a way that is not known."""


_SEPARATOR = re.compile(rb"^---(?=\s|$)", re.MULTILINE)


class _Loader(yaml.CSafeLoader):
    """YAML without objects, and without dates: a time stays the text that the API has for it."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


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
    """The cluster in a snapshot (zip, gzip or JSON), or in a file or folder of manifests. Raises CantRead."""
    if not path.exists():
        raise CantRead(f"{path} does not exist")
    found = Snapshot()
    packed = _packed(path)
    if packed is not None:
        _snapshot(packed, path, found)
    elif path.suffix == ".json" and isinstance(body := _json(path), dict) and "rawObjects" in body:
        _snapshot(body, path, found)
    else:
        others: list[dict[str, Any]] = []
        everything = list(_manifests(path, found))
        for file, raw in everything:
            _add(raw, _kind(raw), file, found, others)
        _make_pods(everything, others, found)
        found.records = grouped(found.records, others)
        found.problems += [_alone(r) for r in found.records if isinstance(r, PodRecord) and _ungrouped(r)]
    if not found.records:
        raise CantRead(f"{path} holds no object that matters for scheduling")
    found.records.sort(key=lambda r: isinstance(r, PodRecord))
    found.now = max((getattr(r, "created", 0.0) for r in found.records), default=0.0) + 1.0
    return found


def _kind(raw: dict[str, Any]) -> str:
    """The object's kind; with its API group where that is not the one that the scheduler reads under the name."""
    kind, version = str(raw.get("kind") or ""), raw.get("apiVersion")
    group = version.rpartition("/")[0] if isinstance(version, str) and version else API_GROUPS.get(kind)
    return kind if group == API_GROUPS.get(kind, group) else f"{kind}.{group}"


def _ungrouped(pod: PodRecord) -> bool:
    return pod.scheduler_name == SCHEDULER_NAME and not pod.group and not pod.node and pod.phase == "Pending"


def _alone(pod: PodRecord) -> str:
    why = pod.error or f"it names no PodGroup and stays out of the pod-grouper ({SKIP_GROUPER})"
    return f"Pod {pod.namespace}/{pod.name} waits: {why}"


def _packed(path: Path) -> dict[str, Any] | None:
    """The snapshot in a zip or gzip file, None if it is neither."""
    if path.is_dir():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if path.suffix == ".zip" or head == b"PK\x03\x04":
                return _unzipped(path)
            if head[:2] != b"\x1f\x8b" and path.suffix not in (".gz", ".gzip"):
                return None
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                text = unpacked.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CantRead(f"{path}: {error}") from error
    if len(text) > LARGEST:
        raise CantRead(f"{path}: unpacked it is over {LARGEST >> 30} GiB")
    if text[:4] == b"PK\x03\x04":
        return _unzipped(path, io.BytesIO(text))
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CantRead(f"{path}: no snapshot, JSON or a zip is expected in it: {error}") from error
    if not isinstance(body, dict):
        raise CantRead(f"{path}: no snapshot, an object is expected in it")
    return body


def _unzipped(path: Path, content: io.BytesIO | None = None) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(content or path) as archive:
            member = archive.getinfo("snapshot.json")
            if member.file_size > LARGEST:
                raise CantRead(f"{path}: snapshot.json is over {LARGEST >> 30} GiB")
            body = json.loads(archive.read(member))
    except BAD_ZIP as error:
        raise CantRead(f"{path}: no snapshot, a zip with snapshot.json is expected: {error}") from error
    if not isinstance(body, dict):
        raise CantRead(f"{path}: snapshot.json is not an object")
    return body


def _make_pods(given: list[tuple[Path, dict[str, Any]]], others: list[dict[str, Any]], found: Snapshot) -> None:
    """Pods of workloads of which none are there."""
    have = owned(raw for _, raw in given if isinstance(raw.get("metadata"), dict))
    files = {id(raw): file for file, raw in given}
    for workload in others:
        kind, meta, where = workload.get("kind"), workload["metadata"], files[id(workload)]
        if kind not in COUNT or meta["uid"] in have:
            continue
        try:
            pods = pods_of(workload)
        except BadWorkload as problem:
            found.problems.append(f"{where}: {kind} {meta['name']} was left out: {problem}")
            continue
        for pod in pods:
            _add(pod, "Pod", where, found, others)


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CantRead(f"{path}: {error}") from error


def _bytes(path: Path) -> bytes:
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{size >> 20} MiB, over {LARGEST >> 30} GiB are not read")
    return path.read_bytes()


def configuration(path: Path) -> dict[str, Any]:
    """A scheduler configuration in a file of its own. Raises CantRead."""
    try:
        found = yaml.load(_bytes(path), _Loader)
    except BAD_YAML as error:
        raise CantRead(f"{path}: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, dict):
        raise CantRead(f"{path}: a scheduler configuration is expected: actions, tiers and so on")
    return found or {}


def _snapshot(body: dict[str, Any], path: Path, found: Snapshot) -> None:
    found.config, found.params = body.get("config") or {}, body.get("schedulerParams") or {}
    raw = body.get("rawObjects")
    if not isinstance(raw, dict):
        raise CantRead(f"{path}: rawObjects is missing")
    if waiting := _items(raw, "bindRequests", path, found):
        found.problems.append(f"{len(waiting)} BindRequests were left out: their pods are taken as waiting")
    for plural, kind in PLURALS.items():
        for item in _items(raw, plural, path, found):
            _add(item, kind, path, found, [])


def _items(raw: dict[str, Any], key: str, path: Path, found: Snapshot) -> list[Any]:
    items = raw.get(key)
    if items is None or isinstance(items, list):
        return items or []
    found.problems.append(f"{path}: {key} was left out: a list is expected, not a {type(items).__name__}")
    return []


def _manifests(path: Path, found: Snapshot) -> Iterator[tuple[Path, dict[str, Any]]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
    if len(files) > MOST_FILES:
        raise CantRead(f"{path} has over {MOST_FILES} files")
    for file in files:
        for document in _documents(file, found):
            for raw in _unwrapped(document, file, found):
                if isinstance(raw, dict):
                    yield file, raw
                elif raw is not None:
                    found.problems.append(f"{file}: a {type(raw).__name__} was left out: a Kubernetes object is expected")


def _documents(file: Path, found: Snapshot) -> list[Any]:
    """The documents of a file; where some can't be read, the others, each by itself as kubectl does."""
    try:
        text = _bytes(file)
        return list(yaml.load_all(text, _Loader))
    except BAD_YAML as error:
        broken = f"{file}: {' '.join(str(error).split())}"
    found.problems.append(broken)
    documents: list[Any] = []
    try:
        parts = _SEPARATOR.split(_bytes(file))
    except BAD_YAML:
        return documents
    for part in parts if len(parts) > 1 else ():
        try:
            documents += yaml.load_all(part, _Loader)
        except BAD_YAML:
            continue
    return documents


def _unwrapped(document: Any, file: Path, found: Snapshot) -> list[Any]:
    """The objects of a List; those of a PodList need not say what they are."""
    kind = str(document.get("kind") or "") if isinstance(document, dict) else ""
    if not kind.endswith("List") or "items" not in document:
        return [document]
    items: list[Any] = []
    for raw in _items(document, "items", file, found):
        if isinstance(raw, dict) and kind != "List" and not raw.get("kind"):
            raw |= {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion", "")}
        items += _unwrapped(raw, file, found)
    return items


def _add(raw: Any, kind: str, where: Path, found: Snapshot, others: list[dict[str, Any]]) -> None:
    drop_nulls(raw)
    meta = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(meta, dict) or not meta.get("name"):
        found.problems.append(f"{where}: an object of kind {kind or '?'} without metadata.name was left out")
        return
    meta["namespace"] = meta.get("namespace") or ("" if kind in CLUSTER_WIDE else "default")
    meta["uid"] = meta.get("uid") or f"{meta['namespace']}/{meta['name']}".lstrip("/")
    try:
        metadata_of(raw)
        if kind in TYPES:
            if kind == "Pod":
                raw = with_defaults(raw)
            found.records.append(from_dict({**raw, "kind": kind}))
        elif kind in WHOLE:
            body = msgspec.Raw(msgspec.json.encode(raw))
            found.records.append(
                ObjectRecord(type=kind, namespace=meta["namespace"], name=meta["name"], uid=meta["uid"], body=body)
            )
        else:
            others.append(raw)
    except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
        found.problems.append(f"{where}: {kind} {meta['name']} was left out: {error}")
