"""Dynamic resource allocation: claims, the devices of the slices, and who holds what (placement spec 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shoal_contracts.state import NodeRecord, ObjectRecord, PodRecord
from shoal_core.placement.choose import search
from shoal_core.placement.claim import (
    EXTENDED,
    Asked,
    Claim,
    Held,
    Key,
    Results,
    Token,
    allocation,
    claim_for,
    owner_of,
    status,
)
from shoal_core.placement.extended import Extended
from shoal_core.placement.selectors import BadSelector, Device, Selectors
from shoal_core.placement.slices import Slices, is_gpu, selected

MOST_CONSUMERS = 256
MOST_DEVICES = 32
MOST = 2**63 - 1
CLAIM, SLICE, CLASS = "ResourceClaim", "ResourceSlice", "DeviceClass"


class Claims:
    """Claims, devices and classes. Every change returns a token with which it can be undone."""

    def __init__(self, queue_label: str = "kai.scheduler/queue") -> None:
        self._queue_label = queue_label
        self.slices = Slices()
        self.extended = Extended()
        self._claims: dict[Key, Claim] = {}
        self._classes: dict[str, dict[str, Any]] = {}
        self._selectors = Selectors()
        self._used: dict[Device, int] = {}
        """How many claims each device is allocated to."""
        self._own: dict[str, Claim] = {}
        """Pod -> the claim for its extended resources that was decided and does not exist as an object yet."""
        self._made: dict[str, Key] = {}
        """Pod -> the object for its extended resources."""
        self._leaving: dict[str, tuple[tuple[Device, ...], Token]] = {}
        """Pods that have to go -> the devices that they use until then, and how it was before."""
        self._of_class: dict[tuple[str, str], tuple[Mapping[str, str], list[Device] | None]] = {}
        """(extended resource, node) -> the node's labels, its devices of the class."""
        self._references: dict[tuple[str, Device], int] = {}
        self._remembered: dict[tuple[str, Key], tuple[Results, Any]] = {}
        self._counted: dict[str, tuple[str, tuple[Device, ...]]] = {}
        """Pod -> (node, GPU devices) for which it was charged."""

    def put(self, record: ObjectRecord) -> tuple[str, ...] | None:
        """Take in an object: the nodes whose own devices may have changed; None if it is of another kind."""
        if record.type not in (CLAIM, SLICE, CLASS):
            return None
        body = msgspec.json.decode(record.body)
        if record.type == SLICE:
            self._selectors.forget()
            self._of_class.clear()
            return self.slices.put(record.name, body.get("spec") or {})
        if record.type == CLASS:
            self._classes[record.name] = body.get("spec") or {}
            self.extended.put(record.name, body)
            self._of_class.clear()
            return ()
        key = (record.namespace, record.name)
        claim = self._claims.get(key)
        if claim is None:
            claim = self._claims[key] = Claim(body)
        else:
            claim.read(body)
        results, selector, consumers = status(body)
        if consumers and all(uid in self._leaving for uid in consumers):
            # Whom it is reserved for has to go: its devices are known to be in use until then.
            return ()
        claim.consumers = consumers
        self._give(claim, results, selector)
        if results is not None:
            for uid in consumers:
                self._remembered[uid, key] = (results, selector)
        if EXTENDED in claim.labels and (owner := owner_of(body, consumers)):
            self._made[owner] = key
            if results is not None and (decided := self._own.pop(owner, None)):
                self._give(decided, None, None)
        return ()

    def remove(self, kind: str, namespace: str, name: str) -> tuple[str, ...]:
        """An object that is gone, ``kind`` as in the state plane's subjects; the nodes whose own devices changed."""
        if kind in ("slice", "deviceclass"):
            self._of_class.clear()
        if kind == "slice":
            return self.slices.remove(name)
        if kind == "deviceclass" and self._classes.pop(name, None) is not None:
            self.extended.remove(name)
        elif kind == "claim" and (claim := self._claims.pop((namespace, name), None)) is not None:
            self._give(claim, None, None)
            for uid, (_, token) in list(self._leaving.items()):
                # What is gone can't be had back.
                kept = token._replace(claims=tuple(h for h in token.claims if h.claim is not claim))
                decided = kept.decided[1] if kept.decided else None
                left = [*(d for h in kept.claims for _, d in h.results or ()), *(d for _, d in decided or ())]
                self._leaving[uid] = (tuple(left), kept)
            for uid in [uid for uid, key in self._made.items() if key == (namespace, name)]:
                del self._made[uid]
        return ()

    def _give(self, claim: Claim, results: Results | None, selector: Any) -> None:
        """The claim has these devices from now on, and no others."""
        for device in claim.devices:
            left = self._used[device] - 1
            if left:
                self._used[device] = left
            else:
                del self._used[device]
        claim.results, claim.selector = results, selector
        for device in claim.devices:
            self._used[device] = self._used.get(device, 0) + 1

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

    def unfit(self, pod: PodRecord, asked: Asked, node: NodeRecord) -> tuple[str, bool]:
        """(why the claims and the extended resources ``asked`` for can't be met on this node, empty if they can; whether
        the pod has to wait there for devices of pods that have to go)."""
        if asked and (why := self.lacks(pod, asked, node)):
            return why, False
        why = self._unfit(pod, asked, node, self._going(pod) if self._leaving else set())
        if why and self._leaving and not self._unfit(pod, asked, node, set()):
            return "", True
        return why, False

    def lacks(self, pod: PodRecord, asked: Asked, node: NodeRecord) -> str:
        """Why fewer devices are free on the node than the pod asks for, whatever has to go; empty if there are enough."""
        if pod.uid in self._made:
            return ""
        for resource, amount in asked:
            if node.allocatable.get(resource):
                continue
            meant = self._meant(resource, node)
            if meant is not None and sum(1 for d in meant if d not in self._used) < amount:
                return f"node(s) lack free devices for {resource}"
        return ""

    def _meant(self, resource: str, node: NodeRecord) -> list[Device] | None:
        """Devices of the node that are of the resource's class; None if its selectors fail."""
        kept = self._of_class.get((resource, node.name))
        if kept is not None and (kept[0] is node.labels or kept[0] == node.labels):
            return kept[1]
        expressions = self._expressions({"exactly": {"deviceClassName": self.extended.class_of(resource)}})
        try:
            found = [
                device
                for device, body, _ in self.slices.devices(node.name, node.labels)
                if all(self._selectors.match(e, device, body) for e in expressions)
            ]
        except BadSelector:
            found = None
        self._of_class[resource, node.name] = (node.labels, found)
        return found

    def _unfit(self, pod: PodRecord, asked: Asked, node: NodeRecord, taken: set[Device]) -> str:
        for _, key, claim in self._of(pod):
            if claim is None:
                return f"resource claim {key[0]}/{key[1]} does not exist"
            if claim.results is not None:
                if not selected(claim.selector, node.name, node.labels):
                    return f"node(s) don't reach the devices of claim {key[1]}"
                continue
            kept = self._kept(pod, key, taken, node)
            try:
                found = kept[0] if kept else self._solve(claim, node, taken)
            except BadSelector as error:
                return f"node(s) cannot allocate claim {key[1]}: {error}"
            if found is None:
                return f"node(s) lack free devices for claim {key[1]}"
            taken = taken | {device for _, device in found}
        if asked and (wanted := self.extended.wanted(pod, asked, node.allocatable)):
            names = ", ".join(resource for resource, _ in asked if not node.allocatable.get(resource))
            try:
                if self._solve(claim_for(wanted), node, taken, self._mine(pod)) is None:
                    return f"node(s) lack free devices for {names}"
            except BadSelector as error:
                return f"node(s) cannot allocate devices for {names}: {error}"
        return ""

    def _going(self, pod: PodRecord) -> set[Device]:
        """Devices that others use which have to go."""
        return {d for uid, (devices, _) in self._leaving.items() if uid != pod.uid for d in devices}

    def _mine(self, pod: PodRecord) -> frozenset[Device]:
        """Devices that an earlier try to start the pod took for it."""
        key = self._made.get(pod.uid)
        return frozenset(self._claims[key].devices) if key in self._claims else frozenset()

    def _kept(self, pod: PodRecord, key: Key, taken: set[Device], node: NodeRecord) -> tuple[Results, Any] | None:
        """What the pod had of the claim before, if it is still free and reachable."""
        found = self._remembered.get((pod.uid, key))
        if (
            found is None
            or any(d in taken or d in self._used for _, d in found[0])
            or not selected(found[1], node.name, node.labels)
        ):
            return None
        return found

    def _solve(
        self, claim: Claim, node: NodeRecord, taken: set[Device], own: frozenset[Device] = frozenset()
    ) -> Results | None:
        """Devices for every request of the claim, the first that fit; None if there are none. Raises BadSelector.

        Neither those in use nor ``taken`` are free, except ``own``.
        """
        there = self.slices.devices(node.name, node.labels)
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
            free = [i for i in meant if (d := there[i][0]) in own or (d not in taken and d not in self._used)]
            if exact.get("allocationMode") != "All":
                wanted += [(name, free)] * min(self._number(exact), MOST_DEVICES + 1)
            elif len(free) == len(meant) > 0:
                wanted += [(name, [i]) for i in free]
            else:
                return None
        if len(wanted) > MOST_DEVICES:
            return None
        alike: list[Mapping[str, Any]] = [*(((claim.body.get("spec") or {}).get("devices") or {}).get("constraints") or [])]
        return search(wanted, there, alike)

    def _solved(
        self, claim: Claim, node: NodeRecord, going: set[Device], own: frozenset[Device] = frozenset()
    ) -> Results | None:
        """Free devices, or else such as the pods that have to go leave."""
        try:
            return self._solve(claim, node, going, own) or (self._solve(claim, node, set(), own) if going else None)
        except BadSelector:
            return None

    # who holds what

    def _all(self, pod: PodRecord) -> Iterator[tuple[Key, Claim]]:
        """Its claims that exist, with that for its extended resources."""
        for _, key, claim in self._of(pod):
            if claim is not None:
                yield key, claim
        made = self._made.get(pod.uid)
        if made is not None and made in self._claims:
            yield made, self._claims[made]

    def _state(self, pod: PodRecord) -> Token:
        uid, own = pod.uid, self._own.get(pod.uid)
        claims = tuple(
            Held(claim, claim.results, claim.selector, claim.consumers, key, self._remembered.get((uid, key)))
            for key, claim in self._all(pod)
        )
        return Token(uid, claims, (own, own.results, own.selector) if own else None, self._leaving.get(uid))

    def allocate(self, pod: PodRecord, asked: Asked, node: NodeRecord) -> Token:
        """The pod gets its place on the node: its claims are met and reserved for it, and what is ``asked`` for of
        extended resources that the node does not count itself. Returns what ``undo`` needs."""
        token = self._state(pod)
        going = self._going(pod) if self._leaving else set()
        for _, key, claim in self._of(pod):
            if claim is None:
                continue
            if pod.uid not in claim.consumers:
                claim.consumers = (*claim.consumers, pod.uid)
            if claim.results is None:
                kept = self._kept(pod, key, going, node)
                if kept:
                    self._give(claim, *kept)
                elif found := self._solved(claim, node, going):
                    self._give(claim, found, self._selector(found, node))
            if claim.results is not None:
                self._remembered[pod.uid, key] = (claim.results, claim.selector)
        if asked and (wanted := self.extended.wanted(pod, asked, node.allocatable)):
            claim, mine = claim_for(wanted), self._mine(pod)
            if found := self._solved(claim, node, going, mine):
                if mine:
                    self._give(self._claims[self._made[pod.uid]], None, None)
                claim.consumers = (pod.uid,)
                self._own[pod.uid] = claim
                self._give(claim, found, self._selector(found, node))
        return token

    def _selector(self, found: Results, node: NodeRecord) -> Any:
        """The nodes that reach these devices: this one alone if one of them is its own."""
        given = {device for _, device in found}
        if not any(local for device, _, local in self.slices.devices(node.name, node.labels) if device in given):
            return None
        field = {"key": "metadata.name", "operator": "In", "values": [node.name]}
        return {"nodeSelectorTerms": [{"matchFields": [field]}]}

    def release(self, pod: PodRecord, *, leaves: bool) -> Token:
        """The pod gives up what nobody else holds: at once, or when it ``leaves`` its node. Returns what ``undo`` needs."""
        token, freed = self._state(pod), list[Device]()
        for _, claim in self._all(pod):
            claim.consumers = tuple(uid for uid in claim.consumers if uid != pod.uid)
            if not claim.consumers:
                freed += claim.devices
                self._give(claim, None, None)
        if own := self._own.pop(pod.uid, None):
            freed += own.devices
            self._give(own, None, None)
        if leaves and freed:
            self._leaving[pod.uid] = (tuple(freed), token)
        return token

    def undo(self, token: Token) -> None:
        """Back to what was before."""
        uid, claims, own, leaving = token
        for claim, results, selector, consumers, key, remembered in claims:
            claim.consumers = consumers
            self._give(claim, results, selector)
            if remembered is None:
                self._remembered.pop((uid, key), None)
            else:
                self._remembered[uid, key] = remembered
        if now := self._own.pop(uid, None):
            self._give(now, None, None)
        if own is not None:
            self._own[uid] = own[0]
            self._give(*own)
        if leaving is None:
            self._leaving.pop(uid, None)
        else:
            self._leaving[uid] = leaving

    def stays(self, uid: str) -> bool:
        """Whether a pod that had to go could have its devices back."""
        found = self._leaving.get(uid)
        return found is None or not any(d in self._used for d in found[0])

    def keep(self, uid: str) -> None:
        """A pod that had to go stays after all."""
        if found := self._leaving.get(uid):
            self.undo(found[1])

    def gone(self, uid: str) -> None:
        """The pod is on no node any more: what was decided for it is void."""
        self._leaving.pop(uid, None)
        if own := self._own.pop(uid, None):
            self._give(own, None, None)

    def allocations(self, pod: PodRecord) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """(name of the pod's claim, allocation as in the API) for the binding."""
        return tuple(
            (name, allocation(claim)) for name, _, claim in self._of(pod) if claim is not None and claim.results is not None
        )

    def for_extended(self, uid: str) -> Mapping[str, Any] | None:
        """What the pod's extended resources got, for the binding: ``allocation`` and ``deviceRequests`` as in the API, and
        ``containerMappings``; None if no device was chosen."""
        claim = self._own.get(uid)
        if claim is None:
            return None
        return {
            "allocation": allocation(claim), "deviceRequests": claim.requests, "containerMappings": list(claim.mappings),
        }  # fmt: skip

    def made_for(self, uid: str, namespace: str) -> ObjectRecord | None:
        """The object that a binder would make for the pod's extended resources. For tools and tests."""
        claim = self._own.get(uid)
        if claim is None:
            return None
        name = f"{uid}-extended-resources"
        meta = {
            "name": name, "namespace": namespace, "annotations": {EXTENDED: "true"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid, "controller": True}],
        }  # fmt: skip
        shown = {"allocation": allocation(claim), "reservedFor": [{"resource": "pods", "name": uid, "uid": uid}]}
        body = {"metadata": meta, "spec": {"devices": {"requests": claim.requests}}, "status": shown}
        return ObjectRecord(type=CLAIM, namespace=namespace, name=name, body=msgspec.Raw(msgspec.json.encode(body)))

    def record(self, record: ObjectRecord) -> ObjectRecord:
        """The claim's object with what is allocated and reserved now. For tools and tests."""
        claim = self._claims[record.namespace, record.name]
        shown: dict[str, Any] = {}
        if claim.results is not None:
            shown["allocation"] = allocation(claim)
        if claim.consumers:
            shown["reservedFor"] = [{"resource": "pods", "name": uid, "uid": uid} for uid in claim.consumers]
        body = {**claim.body, "status": shown}
        return ObjectRecord(
            type=CLAIM, namespace=record.namespace, name=record.name, body=msgspec.Raw(msgspec.json.encode(body))
        )

    def check(self) -> None:
        """Recount what is in use; raises AssertionError where it differs, or where a device is given twice. For tests."""
        held = [*self._claims.values(), *self._own.values()]
        assert self._used == Counter(device for claim in held for device in claim.devices)
        assert all(count == 1 for count in self._used.values()), "a device is given twice"

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
