"""Names that admission and binder must agree on: the container that gets the share, its ConfigMaps, its environment.

Admission writes the prefix on the pod and points the container's environment at ConfigMaps of names derived from it;
the binder fills ConfigMaps of the same names before it binds (spec: kubernetes.md 5.5, 6.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal_model import labels

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
PORTION = "GPU_PORTION"
NUMBER_OF_GPUS = "RUNAI_NUM_OF_GPUS"
"""Holds the portion too: its name is older than shares."""
MEMORY_LIMIT = "CUDA_DEVICE_MEMORY_LIMIT"
"""For HAMi-core, as ``<MiB>m``."""
ENVIRONMENT = (VISIBLE_DEVICES, NUMBER_OF_GPUS, PORTION)
"""Variables of the container that gets the share, each a key of the same name in the ConfigMap of values."""

_SUFFIX = "shared-gpu"
_LABEL = 63
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
TOKEN_LENGTH = 7
LONGEST_PREFIX = 240
"""Leaves room for ``-i<index>-evar`` in a name of 253 characters."""


@dataclass(frozen=True)
class Target:
    """The container that gets the share."""

    name: str
    index: int
    """Among containers, or among init containers where ``init``."""
    init: bool = False

    @property
    def token(self) -> str:
        """As it stands in the ConfigMaps' names: ``0``, or ``i0`` for an init container."""
        return f"i{self.index}" if self.init else str(self.index)


@dataclass(frozen=True)
class ConfigNames:
    """The ConfigMaps of one shared pod, in its namespace."""

    values: str
    """Read variable by variable: portion, and the devices where the container has the variable from a ConfigMap."""
    direct: str
    """Taken as a whole into the container's environment (``envFrom``)."""


def wanted(annotations: Mapping[str, str]) -> bool:
    """Whether the pod asks for a share of a GPU, rightly or not."""
    return labels.GPU_FRACTION in annotations or labels.GPU_MEMORY in annotations


def target(containers: Sequence[str], init_containers: Sequence[str], annotations: Mapping[str, str]) -> Target | None:
    """The container that the annotation names (init containers are looked at first), else the first; None: no such one.

    The containers are given by name, in the pod's order.
    """
    name = annotations.get(labels.GPU_CONTAINER)
    if name is None:
        return Target(containers[0], 0) if containers else None
    if name in init_containers:
        return Target(name, list(init_containers).index(name), init=True)
    return Target(name, list(containers).index(name)) if name in containers else None


def make_prefix(base: str, token: str, at: Target) -> str:
    """``<base>-<token>-shared-gpu``, a valid start of names whatever the base.

    ``base`` is the owner's or the pod's name (or the start of one that is to be generated); ``token`` makes it the
    pod's own: 7 characters of a-z and 0-9. The base is cut so that volumes named after the ConfigMaps fit in 63
    characters.
    """
    clean = re.sub(r"[^a-z0-9.-]", "-", base.lower())
    # Each part between dots must begin and end with a letter or digit.
    clean = re.sub(r"-*\.[.-]*", ".", clean).lstrip(".-")
    room = _LABEL - 13 - len(_SUFFIX) - len(str(at.index)) - 1 - 5
    return f"{clean[:room].rstrip('.-') or 'pod'}-{token}-{_SUFFIX}"


def prefix(annotations: Mapping[str, str]) -> str:
    """The prefix that admission wrote; empty where there is none, or one that no ConfigMap can be named after."""
    found = annotations.get(labels.SHARED_GPU_CONFIG, "")
    return found if valid_prefix(found) else ""


def valid_prefix(text: str) -> bool:
    """Whether ConfigMaps can be named after it."""
    return len(text) <= LONGEST_PREFIX and _SUBDOMAIN.fullmatch(text) is not None


def config_names(prefix: str, at: Target) -> ConfigNames:
    """The names of the ConfigMaps for that prefix and container."""
    values = f"{prefix}-{at.token}"
    return ConfigNames(values, f"{values}-evar")


def volume_name(config_map: str) -> str:
    """The pod's volume of a ConfigMap: a DNS label."""
    return re.sub(r"[^a-z0-9-]", "-", f"{config_map}-vol".lower())[-_LABEL:].strip("-")
