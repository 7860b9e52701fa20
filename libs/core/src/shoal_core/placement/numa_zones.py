"""What NUMA-aware placement reads: a node's zones, a pod's requests by container, and records of where a pod sits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from shoal_contracts.state import ContainerRequest, PodRecord
from shoal_model.quantity import BadQuantity, amount, milli

Amounts = dict[str, float]
"""Dimension -> amount in base units."""
Record = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
"""((zone name, ((resource, amount), ...)), ...), as annotations say it."""

NONE, BEST_EFFORT, RESTRICTED, SINGLE = "none", "best-effort", "restricted", "single-numa-node"
POLICIES = frozenset({BEST_EFFORT, RESTRICTED, SINGLE})
"""Policies of the Topology Manager under which zones matter."""
CONTAINER, POD = "container", "pod"
_LEGACY = {
    "SingleNUMANodePodLevel": (SINGLE, POD),
    "SingleNUMANodeContainerLevel": (SINGLE, CONTAINER),
    "RestrictedPodLevel": (RESTRICTED, POD),
    "Restricted": (RESTRICTED, CONTAINER),
    "RestrictedContainerLevel": (RESTRICTED, CONTAINER),
    "BestEffortPodLevel": (BEST_EFFORT, POD),
    "BestEffort": (BEST_EFFORT, CONTAINER),
    "BestEffortContainerLevel": (BEST_EFFORT, CONTAINER),
}
CPU, GPU = "cpu", "gpu"
LARGEST = 2.0**53
"""No amount counts for more: up to here sums and differences of whole numbers are exact."""
LONGEST = 65536
"""Longest record that is looked at."""


def dimension(resource: str) -> str:
    """All resources whose name ends in ``gpu`` are one dimension."""
    return GPU if resource.endswith("gpu") else resource


def is_device(dim: str) -> bool:
    """Whether it is neither CPU nor memory of any kind."""
    return dim not in (CPU, "memory") and not dim.startswith("hugepages-")


def quantity(resource: str, value: Any) -> float | None:
    """A quantity of the API in base units, never negative; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = milli(str(value)) if resource == CPU else amount(str(value))
    except (BadQuantity, OverflowError, ValueError):
        return None
    return min(max(found, 0.0), LARGEST)


@dataclass(eq=False, slots=True)
class Zone:
    """One NUMA zone."""

    name: str
    allocatable: Amounts = field(default_factory=dict)
    reported: Amounts = field(default_factory=dict)
    """What the node says is available."""
    available: Amounts = field(default_factory=dict)
    """What is available now, as the ledger has it."""


@dataclass(eq=False, slots=True)
class Topology:
    """The zones of one node in their order, with the policy of its Topology Manager."""

    policy: str
    scope: str
    zones: list[Zone]
    names: dict[str, str]
    """Dimension -> resource name under which the node reports it (the last one if several)."""
    index: dict[str, int]
    """Zone name -> index."""
    prefix: dict[str, list[float]]
    """Dimension -> sums of the 1, 2, ... largest amounts that zones have in all."""

    def restore(self) -> None:
        """Available as the node reports it."""
        for zone in self.zones:
            zone.available = dict(zone.reported)


def _objects(found: Any) -> list[Mapping[str, Any]]:
    return [x for x in found if isinstance(x, Mapping)] if isinstance(found, list) else []


def _rank(name: str) -> tuple[int, int, str]:
    digits = name[len(name.rstrip("0123456789")) :]
    return (0, int(digits), name) if 0 < len(digits) < 19 else (1, 0, name)


def _policy(body: Mapping[str, Any]) -> tuple[str, str]:
    said = {a.get("name"): a.get("value") for a in _objects(body.get("attributes")) if isinstance(a.get("name"), str)}
    if "topologyManagerPolicy" in said:
        policy, scope = said["topologyManagerPolicy"], said.get("topologyManagerScope")
        known = policy if isinstance(policy, str) and policy in POLICIES else NONE
        return known, POD if scope == POD else CONTAINER
    legacy = body.get("topologyPolicies")
    first = legacy[0] if isinstance(legacy, list) and legacy else None
    return _LEGACY.get(first, (NONE, CONTAINER)) if isinstance(first, str) else (NONE, CONTAINER)


def _zone(name: str, body: Mapping[str, Any], names: dict[str, str]) -> Zone:
    zone = Zone(name)
    for entry in _objects(body.get("resources")):
        resource = entry.get("name")
        if not isinstance(resource, str) or not resource:
            continue
        have, free = quantity(resource, entry.get("allocatable")), quantity(resource, entry.get("available"))
        if have is None and free is None:
            continue
        dim = dimension(resource)
        names[dim] = max(resource, names.get(dim, ""))
        zone.allocatable[dim] = zone.allocatable.get(dim, 0.0) + (have or 0.0)
        zone.reported[dim] = zone.reported.get(dim, 0.0) + (free or 0.0)
    return zone


def topology(body: Mapping[str, Any]) -> Topology | None:
    """The zones that a NodeResourceTopology reports; None if it reports none. Malformed parts are ignored."""
    if not isinstance(body, Mapping):
        return None
    names: dict[str, str] = {}
    found: dict[str, Zone] = {}
    for entry in _objects(body.get("zones")):
        name = entry.get("name")
        if entry.get("type") == "Node" and isinstance(name, str) and name and name not in found:
            found[name] = _zone(name, entry, names)
    if not found:
        return None
    zones = [found[name] for name in sorted(found, key=_rank)]
    prefix: dict[str, list[float]] = {}
    for dim in names:
        sums, total = [], 0.0
        for have in sorted((z.allocatable.get(dim, 0.0) for z in zones), reverse=True):
            total += have
            sums.append(total)
        prefix[dim] = sums
    policy, scope = _policy(body)
    made = Topology(policy, scope, zones, names, {z.name: i for i, z in enumerate(zones)}, prefix)
    made.restore()
    return made


@lru_cache(maxsize=8192)
def record(text: str) -> Record:
    """Zones with amounts as an annotation says them; empty if it is not a valid record."""
    if len(text) > LONGEST:
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(found, list):
        return ()
    zones: list[tuple[str, tuple[tuple[str, float], ...]]] = []
    for entry in found:
        if not isinstance(entry, dict):
            return ()
        name, said = entry.get("zone", ""), entry.get("amount")
        if not isinstance(name, str) or not isinstance(said, dict | None):
            return ()
        amounts: list[tuple[str, float]] = []
        for resource, value in (said or {}).items():
            number = quantity(resource, value)
            if number is None:
                return ()
            amounts.append((resource, number))
        zones.append((name, tuple(amounts)))
    return tuple(zones)


def text(zones: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    """(zone's name, resource -> amount in base units) as an annotation that ``record`` reads."""
    entries = [
        {"zone": name, "amount": {r: f"{round(v)}m" if r == CPU else str(round(v)) for r, v in sorted(amounts.items())}}
        for name, amounts in zones
    ]
    return json.dumps(entries, separators=(",", ":"))


@dataclass(frozen=True, eq=False, slots=True)
class Demand:
    """What a pod asks of zones. One object stands for all pods of the same shape that it was made for."""

    guaranteed: bool
    devices: frozenset[str]
    """Devices that it asks for, a share of a GPU included."""
    whole: Amounts
    """Its request where the scope is the pod."""
    together: tuple[Amounts, ...]
    """Where the scope is the container: sidecars and containers in their order ..."""
    alone: tuple[Amounts, ...]
    """... and ordinary init containers."""


def _amounts(requests: Mapping[str, float], guaranteed: bool) -> Amounts:
    """By dimension; CPU counts only in whole cores of a Guaranteed pod, since the kubelet pins no other."""
    found: Amounts = {}
    for resource, value in requests.items():
        dim = dimension(resource)
        found[dim] = found.get(dim, 0.0) + value
    if CPU in found and (not guaranteed or found[CPU] % 1000):
        found[CPU] = 0.0
    return found


def demand(pod: PodRecord) -> Demand:
    """What the pod asks of zones."""
    sure = pod.qos_guaranteed
    containers = pod.container_requests or [ContainerRequest(name="", requests=pod.requests)]
    sidecars = [_amounts(c.requests, sure) for c in containers if c.sidecar]
    apps = [_amounts(c.requests, sure) for c in containers if not c.init]
    alone, peak, before = [], 0.0, 0.0
    for container in containers:
        if not container.init:
            continue
        need = _amounts(container.requests, sure)
        if container.sidecar:
            before += need.get(CPU, 0.0)
        else:
            alone.append(need)
            peak = max(peak, before + need.get(CPU, 0.0))
    together = (*sidecars, *apps)
    whole = _amounts(pod.requests, sure)
    whole[CPU] = max(peak, sum(c.get(CPU, 0.0) for c in together))
    devices = {d for d, value in whole.items() if value > 0 and is_device(d)}
    if pod.share is not None and round(pod.share.fraction * 100) * pod.share.devices > 0:
        devices.add(GPU)
    return Demand(sure, frozenset(devices), whole, together, tuple(alone))
