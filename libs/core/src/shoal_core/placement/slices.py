"""Devices that ResourceSlices publish, and which of them a node reaches (placement spec 7.1, 7.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal_contracts.state import Requirement
from shoal_core.placement.feasible import matches
from shoal_core.placement.selectors import Device

Offer = tuple[Device, Mapping[str, Any], bool]
"""A device, its body, and whether it is of one node alone."""
Spec = Mapping[str, Any]


def is_gpu(name: str) -> bool:
    """A class or driver of GPUs, by its name."""
    return "gpu" in name.lower()


def selected(selector: Any, node: str, labels: Mapping[str, str]) -> bool:
    """Whether a node selector in the form of the API is true of the node; none is true of all."""
    if not selector:
        return True
    own = {"metadata.name": node}

    def met(found: Mapping[str, Any], by: Mapping[str, str]) -> bool:
        values = [str(v) for v in found.get("values") or ()]
        return matches(Requirement(key=str(found.get("key")), operator=str(found.get("operator")), values=values), by)

    return any(
        all(met(e, labels) for e in term.get("matchExpressions") or ())
        and all(met(f, own) for f in term.get("matchFields") or ())
        for term in selector.get("nodeSelectorTerms") or ()
    )


class Slices:
    """The slices by name, and by the nodes that reach them."""

    def __init__(self) -> None:
        self._specs: dict[str, Spec] = {}
        self._gpus: dict[str, int] = {}
        """Node -> devices of GPU drivers in its own slices."""
        self._own: dict[str, list[tuple[tuple[str, str], str, Spec]]] | None = None
        """Node -> (pool, slice's name, slice) of complete pools; None: to be made."""
        self._wide: list[tuple[tuple[str, str], str, Spec]] = []
        """Those that several nodes reach."""
        self._kept: dict[str, tuple[Mapping[str, str], list[Offer]]] = {}

    def put(self, name: str, spec: Spec) -> tuple[str, ...]:
        """A slice that is new or changed; the nodes whose own devices may have changed."""
        before = self.remove(name)
        self._specs[name] = spec
        return (*before, *self._count(spec, 1))

    def remove(self, name: str) -> tuple[str, ...]:
        """A slice that is gone; the nodes whose own devices may have changed."""
        self._own = None
        self._kept.clear()
        spec = self._specs.pop(name, None)
        return self._count(spec, -1) if spec is not None else ()

    def _count(self, spec: Spec, sign: int) -> tuple[str, ...]:
        node = str(spec.get("nodeName") or "")
        if not node:
            return ()
        if is_gpu(str(spec.get("driver", ""))):
            self._gpus[node] = self._gpus.get(node, 0) + sign * len(spec.get("devices") or ())
        return (node,)

    def gpus(self, node: str) -> int:
        """Devices of GPU drivers in the slices of the node."""
        return self._gpus.get(node, 0)

    def _index(self) -> dict[str, list[tuple[tuple[str, str], str, Spec]]]:
        if self._own is not None:
            return self._own
        pools: dict[tuple[str, str], list[tuple[str, Spec]]] = {}
        for name in sorted(self._specs):
            spec = self._specs[name]
            pool = spec.get("pool") or {}
            pools.setdefault((str(spec.get("driver")), str(pool.get("name"))), []).append((name, spec))
        own, self._wide = {}, []
        for pool, found in sorted(pools.items()):
            newest = max(int((s.get("pool") or {}).get("generation") or 0) for _, s in found)
            current = [(n, s) for n, s in found if int((s.get("pool") or {}).get("generation") or 0) == newest]
            if len(current) < int((current[0][1].get("pool") or {}).get("resourceSliceCount") or 1):
                continue
            for name, spec in current:
                node = spec.get("nodeName")
                (own.setdefault(str(node), []) if node else self._wide).append((pool, name, spec))
        self._own = own
        return own

    def devices(self, node: str, labels: Mapping[str, str]) -> list[Offer]:
        """Devices of all complete pools that the node reaches, by driver, pool and slice."""
        kept = self._kept.get(node)
        if kept is not None and (kept[0] is labels or kept[0] == labels):
            return kept[1]
        there = self._index().get(node, [])
        wide = [
            entry
            for entry in self._wide
            if entry[2].get("allNodes") or (entry[2].get("nodeSelector") and selected(entry[2]["nodeSelector"], node, labels))
        ]
        found: list[Offer] = []
        for (driver, pool), _, spec in sorted([*there, *wide], key=lambda e: e[:2]) if wide else there:
            local = bool(spec.get("nodeName"))
            devices = [d for d in spec.get("devices") or () if not d.get("consumesCounters")]
            found += [((driver, pool, str(d.get("name"))), d, local) for d in devices]
        self._kept[node] = (labels, found)
        return found
