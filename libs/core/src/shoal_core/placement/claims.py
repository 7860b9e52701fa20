"""Dynamic resource allocation: claims, the devices of the slices, and who holds what (placement spec 7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shoal_contracts.state import ObjectRecord, PodRecord, Requirement
from shoal_core.placement.feasible import matches
from shoal_core.placement.selectors import BadSelector, Device, Selectors

Key = tuple[str, str]
MOST_CONSUMERS = 256
MOST_DEVICES = 32
MOST_STEPS = 100_000
MOST = 2**63 - 1
CLAIM, SLICE, CLASS = "ResourceClaim", "ResourceSlice", "DeviceClass"
EXTENDED = "resource.kubernetes.io/extended-resource-claim"


class Claim:
    """A claim as the session sees it."""

    __slots__ = ("body", "consumers", "labels", "requests", "results", "selector")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body
        meta = body.get("metadata") or {}
        self.labels: dict[str, str] = {**(meta.get("labels") or {})}
        if (meta.get("annotations") or {}).get(EXTENDED) == "true":
            self.labels[EXTENDED] = "true"
        self.requests: list[dict[str, Any]] = list(((body.get("spec") or {}).get("devices") or {}).get("requests") or [])
        status = body.get("status") or {}
        self.consumers: tuple[str, ...] = tuple(str(c.get("uid") or c.get("name")) for c in status.get("reservedFor") or ())
        found = status.get("allocation")
        self.results: tuple[tuple[str, Device], ...] | None = None
        self.selector: Any = None
        if found:
            self.results = tuple(
                (str(r.get("request")), (str(r.get("driver")), str(r.get("pool")), str(r.get("device"))))
                for r in (found.get("devices") or {}).get("results") or ()
            )
            self.selector = found.get("nodeSelector")


def is_gpu(name: str) -> bool:
    """A class or driver of GPUs, by its name."""
    return "gpu" in name.lower()


class Claims:
    """Claims, devices and classes. Every change returns a token with which it can be undone."""

    def __init__(self, queue_label: str = "kai.scheduler/queue") -> None:
        self._queue_label = queue_label
        self._claims: dict[Key, Claim] = {}
        self._classes: dict[str, dict[str, Any]] = {}
        self._slices: dict[str, dict[str, Any]] = {}
        self._selectors = Selectors()
        self._references: dict[tuple[str, Device], int] = {}
        self._remembered: dict[tuple[str, Key], tuple[tuple[tuple[str, Device], ...], Any]] = {}
        self._counted: dict[str, tuple[str, tuple[Device, ...]]] = {}
        """Pod -> (node, GPU devices) for which it was charged."""

    def put(self, record: ObjectRecord) -> bool:
        """Take in an object; False if it is of another kind."""
        if record.type not in (CLAIM, SLICE, CLASS):
            return False
        body = msgspec.json.decode(record.body)
        if record.type == CLAIM:
            claim = self._claims[record.namespace, record.name] = Claim(body)
            if claim.results is not None:
                for uid in claim.consumers:
                    self._remembered[uid, (record.namespace, record.name)] = (claim.results, claim.selector)
        elif record.type == SLICE:
            self._slices[record.name] = body.get("spec") or {}
            self._selectors.forget()
        else:
            self._classes[record.name] = body.get("spec") or {}
        return True

    def remove(self, type: str, namespace: str, name: str) -> None:
        """An object that is gone."""
        if type == CLAIM:
            self._claims.pop((namespace, name), None)
        elif type == SLICE:
            self._slices.pop(name, None)
        elif type == CLASS:
            self._classes.pop(name, None)

    # what pods ask for, what nodes have

    def _of(self, pod: PodRecord) -> Iterator[tuple[str, Key, Claim | None]]:
        for use in pod.claims:
            key = (pod.namespace, use.claim)
            yield use.name, key, self._claims.get(key)

    def gpu_count(self, pod: PodRecord) -> float:
        """GPUs that its claims ask for."""
        total = 0
        for _, _, claim in self._of(pod):
            if claim is None or EXTENDED in claim.labels:
                continue
            for request in claim.requests:
                exact = request.get("exactly")
                if exact and is_gpu(str(exact.get("deviceClassName", ""))):
                    total += self._number(exact)
        return float(min(total, MOST))

    @staticmethod
    def _number(exact: Mapping[str, Any]) -> int:
        if exact.get("allocationMode") == "All":
            return 1
        count = exact.get("count")
        return min(int(count), MOST) if isinstance(count, int) and count > 0 else 1

    def node_gpus(self, node: str) -> int:
        """Devices of GPU drivers in the slices of the node."""
        return sum(
            len(s.get("devices") or ())
            for s in self._slices.values()
            if s.get("nodeName") == node and is_gpu(str(s.get("driver", "")))
        )

    # may it run

    def refused(self, pod: PodRecord, queue: str) -> str:
        """Why the claims of the pod can't be met anywhere; empty if there is no such reason."""
        for use, (_, key, claim) in zip(pod.claims, self._of(pod), strict=True):
            if not use.claim:
                return f"its claim {use.name} from template {use.template} is not made yet"
            if claim is None:
                return f"resource claim {key[0]}/{key[1]} does not exist: create it"
            if len(claim.consumers) >= MOST_CONSUMERS:
                return f"resource claim {key[0]}/{key[1]} has reached its maximum number of consumers ({MOST_CONSUMERS})"
            classes = [str(r["exactly"].get("deviceClassName", "")) for r in claim.requests if r.get("exactly")]
            if not use.template and any(is_gpu(c) for c in classes):
                label = claim.labels.get(self._queue_label)
                if label is None:
                    return f"claim {key[1]} is a shared GPU claim without the label {self._queue_label}: add it"
                if label != queue:
                    return f"claim {key[1]} is a shared GPU claim of queue {label}, the pod is in queue {queue}"
            if claim.results is None:
                for request, name in zip(claim.requests, classes, strict=False):
                    if name not in self._classes:
                        return f"device class {name} of claim {key[0]}/{key[1]}, request {request.get('name')}, does not exist"
                    try:
                        for expression in self._expressions(request):
                            self._selectors.compiled(expression)
                    except BadSelector as error:
                        return f"claim {key[0]}/{key[1]}, request {request.get('name')}: {error}"
                if len(classes) < len(claim.requests):
                    return f"claim {key[0]}/{key[1]} has requests other than exactly, which are not supported"
        return ""

    def _expressions(self, request: Mapping[str, Any]) -> list[str]:
        """CEL expressions that a device of the request has to meet: those of the class, then its own."""
        exact = request.get("exactly") or {}
        own = self._classes.get(str(exact.get("deviceClassName", "")), {})
        given = [*(own.get("selectors") or ()), *(exact.get("selectors") or ())]
        return [str((s.get("cel") or {}).get("expression", "")) for s in given]

    def unfit(self, pod: PodRecord, node: str, labels: Mapping[str, str]) -> str:
        """Why the claims can't be met on this node now; empty if they can."""
        taken = self._taken()
        for _, key, claim in self._of(pod):
            if claim is None:
                return f"resource claim {key[0]}/{key[1]} does not exist"
            if claim.results is not None:
                if not _selected(claim.selector, node, labels):
                    return f"node(s) don't reach the devices of claim {key[1]}"
                continue
            kept = self._kept(pod, key, taken, node, labels)
            try:
                found = kept[0] if kept else self._solve(claim, node, labels, taken)
            except BadSelector as error:
                return f"node(s) cannot allocate claim {key[1]}: {error}"
            if found is None:
                return f"node(s) lack free devices for claim {key[1]}"
            taken |= {device for _, device in found}
        return ""

    def _taken(self) -> set[Device]:
        return {device for claim in self._claims.values() for _, device in claim.results or ()}

    def _kept(
        self, pod: PodRecord, key: Key, taken: set[Device], node: str, labels: Mapping[str, str]
    ) -> tuple[tuple[tuple[str, Device], ...], Any] | None:
        """What the pod had of the claim before, if it is still free and reachable."""
        found = self._remembered.get((pod.uid, key))
        if found is None or any(d in taken for _, d in found[0]) or not _selected(found[1], node, labels):
            return None
        return found

    def _devices(self, node: str, labels: Mapping[str, str]) -> list[tuple[Device, Mapping[str, Any], bool]]:
        """(device, its body, whether it is of this node alone) of all complete pools that the node reaches."""
        pools: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for name in sorted(self._slices):
            spec = self._slices[name]
            pool = spec.get("pool") or {}
            pools.setdefault((str(spec.get("driver")), str(pool.get("name"))), []).append(spec)
        found: list[tuple[Device, Mapping[str, Any], bool]] = []
        for (driver, pool), specs in sorted(pools.items()):
            newest = max(int((s.get("pool") or {}).get("generation") or 0) for s in specs)
            current = [s for s in specs if int((s.get("pool") or {}).get("generation") or 0) == newest]
            if len(current) < int((current[0].get("pool") or {}).get("resourceSliceCount") or 1):
                continue
            for spec in current:
                local = spec.get("nodeName") == node
                if not (
                    local
                    or spec.get("allNodes")
                    or (spec.get("nodeSelector") and _selected(spec["nodeSelector"], node, labels))
                ):
                    continue
                for device in spec.get("devices") or ():
                    if device.get("consumesCounters"):
                        continue
                    found.append(((driver, pool, str(device.get("name"))), device, local))
        return found

    def _solve(
        self, claim: Claim, node: str, labels: Mapping[str, str], taken: set[Device]
    ) -> tuple[tuple[str, Device], ...] | None:
        """Devices for every request of the claim, the first that fit; None if there are none. Raises BadSelector."""
        there = self._devices(node, labels)
        wanted: list[tuple[str, list[int]]] = []
        for request in claim.requests:
            exact, name = request.get("exactly") or {}, str(request.get("name"))
            expressions = self._expressions(request)
            meant = [
                i
                for i, (device, body, _) in enumerate(there)
                if all(self._selectors.match(e, device, body) for e in expressions)
            ]
            if exact.get("adminAccess"):
                return None
            free = [i for i in meant if there[i][0] not in taken]
            if exact.get("allocationMode") != "All":
                wanted += [(name, free)] * min(self._number(exact), MOST_DEVICES + 1)
            elif len(free) == len(meant) > 0:
                wanted += [(name, [i]) for i in free]
            else:
                return None
        if len(wanted) > MOST_DEVICES:
            return None
        alike: list[Mapping[str, Any]] = [*(((claim.body.get("spec") or {}).get("devices") or {}).get("constraints") or [])]
        return _search(wanted, there, alike)

    def _solved(
        self, claim: Claim, node: str, labels: Mapping[str, str], taken: set[Device]
    ) -> tuple[tuple[str, Device], ...] | None:
        try:
            return self._solve(claim, node, labels, taken)
        except BadSelector:
            return None

    # who holds what

    def _state(self, pod: PodRecord) -> tuple[Any, ...]:
        return tuple(
            (key, claim.results, claim.selector, claim.consumers, self._remembered.get((pod.uid, key)), pod.uid)
            for _, key, claim in self._of(pod)
            if claim is not None
        )

    def allocate(self, pod: PodRecord, node: str, labels: Mapping[str, str]) -> object:
        """The pod gets its place on the node: its claims are met and reserved for it."""
        token = self._state(pod)
        taken = self._taken()
        for _, key, claim in self._of(pod):
            if claim is None:
                continue
            if pod.uid not in claim.consumers:
                claim.consumers = (*claim.consumers, pod.uid)
            if claim.results is None:
                kept = self._kept(pod, key, taken, node, labels)
                if kept:
                    claim.results, claim.selector = kept
                elif found := self._solved(claim, node, labels, taken):
                    local = any(s.get("nodeName") == node for s in self._slices.values())
                    claim.results = found
                    claim.selector = (
                        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}
                        if local
                        else None
                    )
                taken |= {device for _, device in claim.results or ()}
            if claim.results is not None:
                self._remembered[pod.uid, key] = (claim.results, claim.selector)
        return token

    def release(self, pod: PodRecord) -> object:
        """The pod leaves: what nobody else holds is free."""
        token = self._state(pod)
        for _, _, claim in self._of(pod):
            if claim is not None:
                claim.consumers = tuple(uid for uid in claim.consumers if uid != pod.uid)
                if not claim.consumers:
                    claim.results = claim.selector = None
        return token

    def undo(self, token: object) -> None:
        """Back to what was before."""
        assert isinstance(token, tuple)
        for key, results, selector, consumers, remembered, uid in token:
            claim = self._claims[key]
            claim.results, claim.selector, claim.consumers = results, selector, consumers
            if remembered is None:
                self._remembered.pop((uid, key), None)
            else:
                self._remembered[uid, key] = remembered

    def allocations(self, pod: PodRecord) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """(name of the pod's claim, allocation as in the API) for the binding."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        for name, _, claim in self._of(pod):
            if claim is not None and claim.results is not None:
                results = [{"request": r, "driver": d, "pool": p, "device": x} for r, (d, p, x) in claim.results]
                body: dict[str, Any] = {"devices": {"results": results}}
                if claim.selector:
                    body["nodeSelector"] = claim.selector
                found.append((name, body))
        return tuple(found)

    def record(self, record: ObjectRecord) -> ObjectRecord:
        """The claim's object with what is allocated and reserved now. For tools and tests."""
        claim = self._claims[record.namespace, record.name]
        status: dict[str, Any] = {}
        if claim.results is not None:
            results = [{"request": r, "driver": d, "pool": p, "device": x} for r, (d, p, x) in claim.results]
            status["allocation"] = {"devices": {"results": results}, "nodeSelector": claim.selector}
        if claim.consumers:
            status["reservedFor"] = [{"resource": "pods", "name": uid, "uid": uid} for uid in claim.consumers]
        body = {**claim.body, "status": status}
        return ObjectRecord(
            type=CLAIM, namespace=record.namespace, name=record.name, body=msgspec.Raw(msgspec.json.encode(body))
        )

    # what it takes of a node's GPUs

    def _held(self, pod: PodRecord) -> tuple[Device, ...]:
        found = [self._remembered.get((pod.uid, key)) for _, key, _ in self._of(pod)]
        return tuple(d for f in found if f for _, d in f[0] if is_gpu(d[0]))

    def charge(self, pod: PodRecord, node: str, gpus: float) -> float:
        """Refer to the pod's GPUs on the node; returns how many of ``gpus`` nobody else there was charged for."""
        devices = self._held(pod)
        known = sum(1 for d in devices if self._references.get((node, d), 0) > 0)
        for d in devices:
            self._references[node, d] = self._references.get((node, d), 0) + 1
        self._counted[pod.uid] = (node, devices)
        return max(0.0, gpus - known)

    def discharge(self, pod: PodRecord, node: str, gpus: float) -> float:
        """The opposite; returns how many are given back."""
        where, devices = self._counted.pop(pod.uid, (node, self._held(pod)))
        left = 0
        for d in devices:
            count = self._references.get((where, d), 0) - 1
            if count > 0:
                self._references[where, d] = count
                left += 1
            else:
                self._references.pop((where, d), None)
        return max(0.0, gpus - left)

    def discount(self, pod: PodRecord, node: str) -> float:
        """GPUs of the pod that others on the node use already: they need no more room there."""
        return float(
            sum(
                1
                for _, key, claim in self._of(pod)
                if claim is not None
                for _, d in (claim.results or self._remembered.get((pod.uid, key), ((), None))[0])
                if is_gpu(d[0]) and self._references.get((node, d), 0) > 0
            )
        )


def _selected(selector: Any, node: str, labels: Mapping[str, str]) -> bool:
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


def _search(
    wanted: list[tuple[str, list[int]]],
    there: list[tuple[Device, Mapping[str, Any], bool]],
    alike: list[Mapping[str, Any]],
) -> tuple[tuple[str, Device], ...] | None:
    """Depth first, in order, with backtracking: each of ``wanted`` gets one of its devices, all of them different."""
    steps = 0
    chosen: list[int] = []

    def good() -> bool:
        for rule in alike:
            attribute, names = rule.get("matchAttribute"), rule.get("requests") or ()
            values = [
                _value(there[c], str(attribute))
                for c, (name, _) in zip(chosen, wanted, strict=False)
                if not names or name in names
            ]
            if attribute is None or None in values or any(v != values[0] for v in values):
                return False
        return True

    def deeper() -> bool:
        nonlocal steps
        at = len(chosen)
        if at == len(wanted):
            return True
        name, meant = wanted[at]
        # Devices of one request are interchangeable: they are taken in order.
        after = chosen[-1] if at and wanted[at - 1][0] == name else -1
        for i in meant:
            if i <= after or i in chosen:
                continue
            steps += 1
            if steps > MOST_STEPS:
                return False
            chosen.append(i)
            if good() and deeper():
                return True
            chosen.pop()
        return False

    if not deeper():
        return None
    return tuple((name, there[c][0]) for c, (name, _) in zip(chosen, wanted, strict=True))


def _value(found: tuple[Device, Mapping[str, Any], bool], attribute: str) -> Any:
    """The attribute of a device; names without a domain are those of its driver."""
    given = found[1].get("attributes") or {}
    domain, _, own = attribute.rpartition("/")
    value = given.get(attribute)
    return given.get(own) if value is None and domain == found[0][0] else value
