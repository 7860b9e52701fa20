"""NUMA-aware placement: from which zones of a node a pod's resources come, as its Topology Manager will choose them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any

from shoal_contracts.state import PodRecord
from shoal_core.placement.numa_zones import (
    BEST_EFFORT,
    POD,
    POLICIES,
    RESTRICTED,
    SINGLE,
    Amounts,
    Demand,
    Topology,
    demand,
    dimension,
    is_device,
    record,
    topology,
)
from shoal_core.status import RELEASING, STUCK
from shoal_model.labels import NUMA_OBSERVED, NUMA_PREDICTED

if TYPE_CHECKING:
    from shoal_core.rows import Pod

Placement = tuple[tuple[int, tuple[tuple[str, float], ...]], ...]
"""((zone index, ((resource, amount), ...)), ...), by zone index and then by resource."""

SETS = 20_000
"""How many sets of zones the restricted policy tries (a node of 16 zones has at most 12870 of one size)."""
REMEMBERED = 4096
"""How many pods' requests are kept, and per node how many results."""


def _covers(free: Iterable[Amounts], need: Amounts) -> bool:
    zones = list(free)
    return all(sum(z.get(d, 0.0) for z in zones) >= value for d, value in need.items())


def _single(free: list[Amounts], need: Amounts) -> tuple[int, ...] | None:
    return next(((i,) for i, zone in enumerate(free) if _covers((zone,), need)), None)


def _restricted(free: list[Amounts], need: Amounts, prefix: Mapping[str, list[float]]) -> tuple[int, ...] | None:
    """The lowest set of exactly as many zones as an empty node would need, the same number for every resource."""
    if not need:
        return ()
    widths = {next((k for k, total in enumerate(prefix[d], 1) if total >= value), 0) for d, value in need.items()}
    width = widths.pop()
    if widths or not width:
        return None
    for d, value in need.items():
        if sum(sorted((z.get(d, 0.0) for z in free), reverse=True)[:width]) < value:
            return None  # no set of this size has enough
    sets = islice(combinations(range(len(free)), width), SETS)
    return next((s for s in sets if _covers((free[i] for i in s), need)), None)


def _greedy(free: list[Amounts], need: Amounts) -> tuple[int, ...] | None:
    """Zones in the order in which they cover most of what is left."""
    left, picked = dict(need), []
    while any(value > 0 for value in left.values()):
        best, most = -1, 0.0
        for i, zone in enumerate(free):
            helps = sum(max(0.0, min(value, zone.get(d, 0.0))) for d, value in left.items())
            if i not in picked and helps > most:
                best, most = i, helps
        if best < 0:
            return None
        picked.append(best)
        left = {d: value - max(0.0, min(value, free[best].get(d, 0.0))) for d, value in left.items()}
    return tuple(picked)


def _choose(node: Topology, free: list[Amounts], need: Amounts) -> tuple[int, ...] | None:
    if node.policy == SINGLE:
        return _single(free, need)
    if node.policy == RESTRICTED:
        return _restricted(free, need, node.prefix)
    return _greedy(free, need)


def _draw(free: list[Amounts], need: Amounts, zones: tuple[int, ...], into: dict[int, Amounts]) -> None:
    for d, value in need.items():
        left = value
        for i in zones:
            taken = min(left, free[i].get(d, 0.0))
            if taken > 0:
                free[i][d] -= taken
                into.setdefault(i, {})[d] = into.get(i, {}).get(d, 0.0) + taken
                left -= taken


def _evaluate(node: Topology, asked: Demand, ignored: frozenset[str]) -> Placement | None:
    """Where the pod's resources come from now; None if they can't be aligned as the policy wants it."""

    def considered(request: Amounts) -> Amounts:
        return {
            d: value
            for d, value in request.items()
            if value > 0 and d in node.names and d not in ignored and (asked.guaranteed or is_device(d))
        }

    whole = node.scope == POD
    for request in () if whole else asked.alone:
        if _choose(node, [z.available for z in node.zones], considered(request)) is None:
            return None
    free = [dict(z.available) for z in node.zones]
    taken: dict[int, Amounts] = {}
    for request in (asked.whole,) if whole else asked.together:
        need = considered(request)
        zones = _choose(node, free, need)
        if zones is None:
            return None
        _draw(free, need, zones, taken)
    return _placement(node, taken)


def _placement(node: Topology, taken: Mapping[int, Amounts]) -> Placement:
    named = {i: sorted((node.names[d], value) for d, value in found.items() if value > 0) for i, found in taken.items()}
    return tuple((i, tuple(named[i])) for i in sorted(named) if named[i])


class Ledger:
    """Zones of all nodes with what is available of each; charged and given back as pods come and go."""

    def __init__(self, ignored: frozenset[str] = frozenset(), reconstruct: bool = True) -> None:
        self._ignored = frozenset(dimension(r) for r in ignored)
        self._reconstruct = reconstruct
        self._nodes: dict[str, Topology] = {}
        self._asked: dict[int, tuple[PodRecord, Demand]] = {}  # by id of the record, which is kept so that the id stays its own
        self._shapes: dict[tuple[Any, ...], Demand] = {}
        self._fits: dict[str, dict[Demand, Placement | None]] = {}  # what was evaluated since the node last changed
        self._devices: frozenset[str] | None = None
        self._widest = 0

    def put(self, node: str, body: Mapping[str, Any]) -> None:
        """Take a NodeResourceTopology, decoded; malformed parts are ignored. Available is the object's own until open."""
        self.remove(node)
        found = topology(body)
        if found is not None:
            self._nodes[node] = found

    def remove(self, node: str) -> None:
        """Forget the node's zones."""
        self._nodes.pop(node, None)
        self._fits.pop(node, None)
        self._devices = None

    @property
    def empty(self) -> bool:
        """No node reports zones."""
        return not self._nodes

    def renew(self, by_node: Mapping[str, Iterable[str]], pods: Mapping[str, Pod]) -> None:
        """Start a cycle with these pods (uids by node): each learns its zones."""
        running: dict[str, list[Placement]] = {}
        for name, uids in by_node.items():
            for uid in uids:
                pod = pods[uid]
                pod.zones = self.recorded(name, pod.record)
                if pod.status not in (RELEASING, STUCK):
                    running.setdefault(name, []).append(self.written(name, pod.record))
        self.open(running)

    def open(self, running: Mapping[str, Iterable[Placement]]) -> None:
        """Start a cycle: what is available where these records of running pods hold."""
        self._asked.clear()
        self._shapes.clear()
        self._fits.clear()
        for name, node in self._nodes.items():
            if not self._reconstruct or node.policy not in POLICIES:
                node.restore()
                continue
            for zone in node.zones:
                zone.available = dict(zone.allocatable)
            for placement in running.get(name, ()):
                self.charge(name, placement)

    def written(self, node: str, pod: PodRecord) -> Placement:
        """Where the pod's annotations say it sits, observed before predicted, whatever pod it is; () if nowhere on the node."""
        found = self._nodes.get(node)
        if found is None:
            return ()
        texts = (pod.annotations.get(name, "") for name in (NUMA_OBSERVED, NUMA_PREDICTED))
        said = next((r for r in map(record, texts) if r), ())
        taken: dict[int, Amounts] = {}
        for name, amounts in said:
            index = found.index.get(name)
            if index is None:
                return ()
            zone = taken.setdefault(index, {})
            for resource, value in amounts:
                if (d := dimension(resource)) in found.names:
                    zone[d] = zone.get(d, 0.0) + value
        return _placement(found, taken)

    def recorded(self, node: str, pod: PodRecord) -> Placement:
        """``written`` for a pod that the node's zones matter to; () for any other."""
        return self.written(node, pod) if self.handles(node, pod) else ()

    def handles(self, node: str, pod: PodRecord) -> bool:
        """Whether the pod is scored there and charged to zones: a policy that looks at zones, and a pod that it is for."""
        found = self._nodes.get(node)
        if found is None or found.policy not in POLICIES:
            return False
        if pod.qos_guaranteed:
            return True
        return any(d in found.names and d not in self._ignored for d in self._demand(pod).devices)

    def refuses(self, node: str, pod: PodRecord) -> bool:
        """Whether the node's Topology Manager would reject the pod now."""
        found = self._nodes.get(node)
        if found is None or found.policy == BEST_EFFORT or not self.handles(node, pod):
            return False
        return self._fit(node, found, pod) is None

    def place(self, node: str, pod: PodRecord) -> Placement:
        """Where the pod's resources would come from now; () if zones don't matter to it there or it can't be aligned."""
        found = self._nodes.get(node)
        if found is None or not self.handles(node, pod):
            return ()
        return self._fit(node, found, pod) or ()

    def score(self, node: str, pod: PodRecord) -> float:
        """100 over the number of zones that it would use; 0 if zones don't matter to it or it can't be aligned."""
        devices = self._all_devices()
        if not self._nodes or not (pod.qos_guaranteed or self._demand(pod).devices & devices):
            return 0.0
        found = self._nodes.get(node)
        if found is None:
            return 100.0 / self._widest
        if not self.handles(node, pod):
            return 100.0 / len(found.zones)
        fit = self._fit(node, found, pod)
        return 0.0 if fit is None else 100.0 / max(1, len(fit))

    def charge(self, node: str, placement: Placement, sign: float = 1.0) -> None:
        """Take the placement from what is available, or give it back (sign -1)."""
        found = self._nodes.get(node)
        if found is None or not placement:
            return
        self._fits.pop(node, None)
        for index, amounts in placement:
            if not 0 <= index < len(found.zones):
                continue
            free = found.zones[index].available
            for resource, value in amounts:
                if (d := dimension(resource)) in found.names:
                    free[d] = free.get(d, 0.0) - sign * value

    def available(self, node: str) -> dict[int, dict[str, float]]:
        """Zone index -> resource -> available, in base units."""
        found = self._nodes.get(node)
        if found is None:
            return {}
        return {i: {found.names[d]: value for d, value in sorted(z.available.items())} for i, z in enumerate(found.zones)}

    def names(self, node: str, placement: Placement) -> list[tuple[str, dict[str, float]]]:
        """The placement with the zones' names."""
        found = self._nodes.get(node)
        zones = found.zones if found else []
        return [(zones[i].name, dict(amounts)) for i, amounts in placement if 0 <= i < len(zones)]

    def _demand(self, pod: PodRecord) -> Demand:
        known = self._asked.get(id(pod))
        if known is not None:
            return known[1]
        shape = (
            pod.qos_guaranteed,
            tuple(pod.requests.items()),
            tuple((c.init, c.sidecar, tuple(c.requests.items())) for c in pod.container_requests),
            pod.share,
        )
        made = self._shapes.get(shape)
        if made is None:
            if len(self._shapes) >= REMEMBERED:
                self._shapes.clear()
            made = self._shapes[shape] = demand(pod)
        if len(self._asked) >= REMEMBERED:
            self._asked.clear()
        self._asked[id(pod)] = (pod, made)
        return made

    def _fit(self, node: str, found: Topology, pod: PodRecord) -> Placement | None:
        asked, fits = self._demand(pod), self._fits.setdefault(node, {})
        if asked not in fits:
            if len(fits) >= REMEMBERED:
                fits.clear()
            fits[asked] = _evaluate(found, asked, self._ignored)
        return fits[asked]

    def _all_devices(self) -> frozenset[str]:
        """Devices of all nodes whose policy looks at zones."""
        if self._devices is None:
            scored = [n for n in self._nodes.values() if n.policy in POLICIES]
            self._devices = frozenset(d for n in scored for d in n.names if is_device(d)) - self._ignored
            self._widest = max((len(n.zones) for n in self._nodes.values()), default=0)
        return self._devices
