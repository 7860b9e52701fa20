"""Reviews of pods: what is written into them, what is refused. Pure.

The order of the rules is the reference's: sharing, HAMi-core, device access, runtime class (spec: kubernetes.md 6.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from shoal_kube.admission import Operation, Request, Verdict
from shoal_model import gpu, labels, objects, sharing
from shoal_model.objects import Obj
from shoal_model.sharing import VISIBLE_DEVICES, Target
from shoal_model.unheeded import unheeded

HARMLESS = ("", "void", "none")
"""Values of NVIDIA_VISIBLE_DEVICES that give a container no device."""
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Rules:
    """What the administrator chose."""

    scheduler_name: str = labels.SCHEDULER_NAME
    gpu_sharing: bool = True
    hami_core: bool = False
    """Give HAMi-core its memory limit."""
    block_visible_devices: bool = False
    """No container may choose its devices by NVIDIA_VISIBLE_DEVICES."""
    runtime_class: str = "nvidia"
    """Of pods with a share that name none; empty: left alone."""


class _Container(Obj):
    name: str = ""
    env: list[dict[str, Any]] | None = None
    env_from: list[dict[str, Any]] | None = None


class _Spec(Obj):
    containers: list[_Container] = []
    init_containers: list[_Container] | None = None
    ephemeral_containers: list[_Container] | None = None
    volumes: list[dict[str, Any]] | None = None
    runtime_class_name: str | None = None


class _Meta(Obj):
    generate_name: str = ""


class _Parts(Obj):
    """What is changed in a pod, with the rest of each list kept as it came."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_PODS = msgspec.json.Decoder(objects.Pod, strict=False)
_PARTS = msgspec.json.Decoder(_Parts, strict=False)


class NotAPod(ValueError):
    """The object can't be read as a pod."""


@dataclass(frozen=True)
class Pod:
    """A pod under review."""

    found: objects.Pod
    parts: _Parts

    @classmethod
    def read(cls, data: bytes | msgspec.Raw) -> Pod:
        """Raises NotAPod."""
        try:
            return cls(_PODS.decode(data), _PARTS.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotAPod(f"the object can't be read as a pod: {error}") from error

    @property
    def notes(self) -> dict[str, str]:
        """Its annotations."""
        return self.found.metadata.annotations or {}

    @property
    def shares(self) -> bool:
        """Whether it asks for a share of a GPU."""
        return sharing.wanted(self.notes)

    @property
    def target(self) -> Target | None:
        """The container that gets the share; None for a pod without a share."""
        spec = self.found.spec
        if not self.shares:
            return None
        return sharing.target([c.name for c in spec.containers], [c.name for c in spec.init_containers or ()], self.notes)

    def containers(self) -> list[tuple[str, objects.Container, _Container]]:
        """(JSON path, rules' view, patches' view) of each container but the one that gets the share."""
        spec, parts, at = self.found.spec, self.parts.spec, self.target
        found = []
        for init, name, one, other in (
            (True, "initContainers", spec.init_containers or [], parts.init_containers or []),
            (False, "containers", spec.containers, parts.containers),
        ):
            found += [
                (f"/spec/{name}/{i}", a, b)
                for i, (a, b) in enumerate(zip(one, other, strict=True))
                if at is None or (at.init, at.index) != (init, i)
            ]
        return found


def mutate(request: Request, rules: Rules) -> Verdict:
    """The patch for a new pod, or why it can't be made. A pod that was patched already gets no patch."""
    try:
        pod = Pod.read(request.object)
    except NotAPod as error:
        return Verdict(False, str(error))
    if pod.found.spec.scheduler_name != rules.scheduler_name:
        return Verdict()
    if problem := _misplaced(pod, request) or _share_problem(pod, rules):
        return Verdict(False, problem)
    operations: list[Operation] = []
    if (at := pod.target) is not None:
        operations += _share(pod, at, request.uid, rules)
    if rules.block_visible_devices:
        operations += _hide_devices(pod)
    if pod.shares and rules.runtime_class and not pod.parts.spec.runtime_class_name:
        operations.append({"op": "add", "path": "/spec/runtimeClassName", "value": rules.runtime_class})
    return Verdict(patch=tuple(operations))


def validate(request: Request, rules: Rules) -> Verdict:
    """Whether a pod may be created, or updated, as it stands."""
    try:
        pod = Pod.read(request.object)
        old = Pod.read(request.old_object) if request.operation == "UPDATE" else None
    except NotAPod as error:
        return Verdict(False, str(error))
    if pod.found.spec.scheduler_name != rules.scheduler_name:
        return Verdict()
    if old is not None:
        problem = _changed(old, pod) or (_share_problem(pod, rules) if _told(old) != _told(pod) else "")
        if rules.block_visible_devices:
            known = {c.name for c in old.parts.spec.ephemeral_containers or ()}
            fresh = [c for c in pod.parts.spec.ephemeral_containers or () if c.name not in known]
            problem = problem or _chosen_devices(fresh)
    else:
        problem = _misplaced(pod, request) or _share_problem(pod, rules)
        if rules.block_visible_devices:
            problem = problem or _chosen_devices([parts for _, _, parts in pod.containers()])
    warnings = tuple(unheeded(pod.found.spec)) if old is None else ()
    return Verdict(not problem, problem, warnings)


def _misplaced(pod: Pod, request: Request) -> str:
    inside = pod.found.metadata.namespace
    if inside and request.namespace and inside != request.namespace:
        return f"metadata.namespace is {inside!r}, the request is for {request.namespace!r}: make them the same"
    return ""


def _share_problem(pod: Pod, rules: Rules) -> str:
    problem = gpu.request(pod.notes, pod.found.spec)[1]
    if not problem and pod.shares and not rules.gpu_sharing:
        problem = (
            f"GPU sharing is disabled in this cluster: ask for whole GPUs ({labels.GPU} in the limits of a container)"
            f" instead of {labels.GPU_FRACTION} or {labels.GPU_MEMORY}, or have sharing enabled"
        )
    return problem


def _told(pod: Pod) -> tuple[str | None, ...]:
    return tuple(pod.notes.get(key) for key in gpu.SHARING)


def _changed(old: Pod, new: Pod) -> str:
    """Why the annotations of sharing can't be changed like that: what was written at creation would not fit."""
    if _told(old) == _told(new):
        return ""  # whatever is wrong was wrong before: a pod that can't be updated can't be repaired, or deleted
    fixed = (labels.GPU_CONTAINER, labels.SHARED_GPU_CONFIG)
    if old.shares != new.shares or (new.shares and any(old.notes.get(k) != new.notes.get(k) for k in fixed)):
        return "a share of a GPU can't be added, removed or moved to another container later: delete the pod and create it anew"
    if new.shares and new.found.spec.node_name:
        return (
            f"the share of a pod that has a node can't change (it is on {new.found.spec.node_name}):"
            " delete the pod and create it anew"
        )
    return ""


# sharing


def _token(uid: str) -> str:
    number, letters = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]), ""
    for _ in range(sharing.TOKEN_LENGTH):
        number, digit = divmod(number, len(_LETTERS))
        letters += _LETTERS[digit]
    return letters


def _base(pod: Pod) -> str:
    """What the pod's ConfigMaps are named after: its owner, so that they can be told in a list; else its own name."""
    meta = pod.found.metadata
    owners = meta.owner_references or []
    return (owners[0].name if owners else "") or meta.name or pod.parts.metadata.generate_name


def _share(pod: Pod, at: Target, uid: str, rules: Rules) -> list[Operation]:
    operations: list[Operation] = []
    prefix = sharing.prefix(pod.notes)
    if not prefix:
        prefix = sharing.make_prefix(_base(pod), _token(uid), at)
        path = f"/metadata/annotations/{labels.SHARED_GPU_CONFIG.replace('/', '~1')}"
        operations.append({"op": "add", "path": path, "value": prefix})
    names = sharing.config_names(prefix, at)
    spec = pod.parts.spec
    where = f"/spec/{'initContainers' if at.init else 'containers'}/{at.index}"
    container = (spec.init_containers or [])[at.index] if at.init else spec.containers[at.index]
    wanted = [_from_config(name, names.values) for name in sharing.ENVIRONMENT]
    if rules.hami_core:
        wanted.append(_from_config(sharing.MEMORY_LIMIT, names.values, optional=True))
    operations += _set_env(where, container.env or [], wanted)
    sources = container.env_from or []
    source = {"configMapRef": {"name": names.direct, "optional": False}}
    if source not in sources:
        operations.append({"op": "add", "path": f"{where}/envFrom", "value": [*sources, source]})
    volumes, volume = spec.volumes or [], sharing.volume_name(names.values)
    if all(v.get("name") != volume for v in volumes):
        value = {"name": volume, "configMap": {"name": names.values}}
        # Nothing mounts it: it makes the kubelet wait for the ConfigMap.
        path, found = ("/spec/volumes/-", value) if volumes else ("/spec/volumes", [value])
        operations.append({"op": "add", "path": path, "value": found})
    return operations


def _from_config(name: str, config_map: str, *, optional: bool = False) -> dict[str, Any]:
    source: dict[str, Any] = {"name": config_map, "key": name}
    return {"name": name, "valueFrom": {"configMapKeyRef": source | ({"optional": True} if optional else {})}}


def _set_env(where: str, env: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> list[Operation]:
    """An operation that gives each wanted variable once, in the place of the one that had its name; none if it is so."""
    left = {w["name"]: w for w in wanted}
    found: list[dict[str, Any]] = []
    for entry in env:
        name = entry.get("name")
        if all(name != w["name"] for w in wanted):
            found.append(entry)
        elif (ours := left.pop(name, None)) is not None:
            found.append(ours)
    found += left.values()
    return [] if found == env else [{"op": "add", "path": f"{where}/env", "value": found}]


# device access


def _has_devices(container: objects.Container) -> bool:
    for amounts in (container.resources.requests, container.resources.limits):
        for resource, text in (amounts or {}).items():
            if (resource == labels.GPU or resource.startswith(labels.MIG_PREFIX)) and str(text).strip() not in ("", "0"):
                return True
    return False


def _hide_devices(pod: Pod) -> list[Operation]:
    """Containers without devices see none, whatever their image says."""
    void = [{"name": VISIBLE_DEVICES, "value": "void"}]
    operations: list[Operation] = []
    for path, container, parts in pod.containers():
        if not _has_devices(container):
            operations += _set_env(path, parts.env or [], void)
    return operations


def _chosen_devices(containers: Iterable[_Container]) -> str:
    for container in containers:
        for entry in container.env or ():
            if entry.get("name") != VISIBLE_DEVICES:
                continue
            value = entry.get("value") or ""
            if entry.get("valueFrom") is not None or value not in HARMLESS:
                given = "from a reference" if entry.get("valueFrom") is not None else f"to {str(value)[:64]!r}"
                return (
                    f"container {container.name} sets {VISIBLE_DEVICES} {given}: its devices are chosen by the device plugin;"
                    f" remove the variable and ask for {labels.GPU} in the container's limits"
                )
    return ""
