"""A claim for devices as the session sees it, made from its object or for the extended resources of a pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shoal_core.placement.extended import Wanted
from shoal_core.placement.selectors import Device

EXTENDED = "resource.kubernetes.io/extended-resource-claim"
Key = tuple[str, str]
Results = tuple[tuple[str, Device], ...]
"""(request, device) of a claim."""
Asked = tuple[tuple[str, int], ...]
"""(extended resource that a class offers, amount) of a pod."""


class Claim:
    """A claim as the session sees it."""

    __slots__ = ("body", "consumers", "labels", "mappings", "requests", "results", "selector")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.results: Results | None = None
        self.selector: Any = None
        self.consumers: tuple[str, ...] = ()
        self.mappings: tuple[dict[str, str], ...] = ()
        """Of a claim for extended resources: which container uses which request."""
        self.read(body)

    def read(self, body: Mapping[str, Any]) -> None:
        """Take in its object but for the status."""
        self.body = body
        meta = body.get("metadata") or {}
        self.labels: dict[str, str] = {**(meta.get("labels") or {})}
        if (meta.get("annotations") or {}).get(EXTENDED) == "true":
            self.labels[EXTENDED] = "true"
        self.requests: list[dict[str, Any]] = list(((body.get("spec") or {}).get("devices") or {}).get("requests") or [])

    @property
    def devices(self) -> tuple[Device, ...]:
        """What is allocated to it."""
        return tuple(device for _, device in self.results or ())


def status(body: Mapping[str, Any]) -> tuple[Results | None, Any, tuple[str, ...]]:
    """(results, node selector, consumers) that the claim's object shows."""
    status = body.get("status") or {}
    consumers = tuple(str(c.get("uid") or c.get("name")) for c in status.get("reservedFor") or ())
    found = status.get("allocation")
    if not found:
        return None, None, consumers
    results = tuple(
        (str(r.get("request")), (str(r.get("driver")), str(r.get("pool")), str(r.get("device"))))
        for r in (found.get("devices") or {}).get("results") or ()
    )
    return results, found.get("nodeSelector"), consumers


def owner_of(body: Mapping[str, Any], consumers: tuple[str, ...]) -> str:
    """The pod that a claim for extended resources was made for."""
    owners = (body.get("metadata") or {}).get("ownerReferences") or ()
    return next((str(o.get("uid")) for o in owners if o.get("kind") == "Pod"), consumers[0] if consumers else "")


class Held(NamedTuple):
    """A claim's state."""

    claim: Claim
    results: Results | None
    selector: Any
    consumers: tuple[str, ...]
    key: Key
    remembered: tuple[Results, Any] | None


class Token(NamedTuple):
    """What a pod held, with which that can be restored."""

    uid: str
    claims: tuple[Held, ...]
    decided: tuple[Claim, Results | None, Any] | None
    leaving: tuple[tuple[Device, ...], Token] | None


def claim_for(wanted: Wanted) -> Claim:
    """The claim for extended resources that does not exist yet."""
    claim = Claim({})
    claim.requests, claim.mappings = list(wanted.requests), wanted.mappings
    claim.labels[EXTENDED] = "true"
    return claim


def allocation(claim: Claim) -> dict[str, Any]:
    """What the claim has, in the form of the API."""
    results = [{"request": r, "driver": d, "pool": p, "device": x} for r, (d, p, x) in claim.results or ()]
    found: dict[str, Any] = {"devices": {"results": results}}
    if claim.selector:
        found["nodeSelector"] = claim.selector
    return found
