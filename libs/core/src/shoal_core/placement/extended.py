"""Extended resources that device classes offer: which devices a pod's containers ask for (placement spec 7.6, KEP-5004)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from shoal_contracts.state import ContainerRequest, PodRecord
from shoal_model.quantity import BadQuantity, seconds

IMPLICIT = "deviceclass.resource.kubernetes.io/"
"""Every class offers this resource, followed by its own name."""


class Wanted(NamedTuple):
    """What a pod asks of devices: ``requests`` as in a claim, ``mappings`` say which container uses which of them."""

    requests: tuple[dict[str, Any], ...]
    mappings: tuple[dict[str, str], ...]


class Extended:
    """Resource -> device class."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[float, str]] = {}
        """Class -> (when it was made, the resource that it names)."""
        self._class_of: dict[str, str] = {}
        self.version = 0
        """Changes whenever another class offers a resource."""

    def put(self, name: str, body: Mapping[str, Any]) -> None:
        """A class that is new or changed."""
        resource = (body.get("spec") or {}).get("extendedResourceName")
        try:
            made = seconds(str((body.get("metadata") or {}).get("creationTimestamp") or ""))
        except BadQuantity:
            made = 0.0
        self._given[name] = (made, resource if isinstance(resource, str) and "/" in resource else "")
        self._renew()

    def remove(self, name: str) -> None:
        """A class that is gone."""
        self._given.pop(name, None)
        self._renew()

    def _renew(self) -> None:
        """Of two classes with the same resource the newer one has it, then the one that comes first by name."""
        before = self._class_of
        self._class_of = {IMPLICIT + name: name for name in self._given}
        for name in sorted(sorted(self._given, reverse=True), key=lambda n: self._given[n][0]):
            if resource := self._given[name][1]:
                self._class_of[resource] = name
        self.version += self._class_of != before

    def class_of(self, resource: str) -> str:
        """The class that offers the resource; empty if none does."""
        return self._class_of.get(resource, "")

    def of(self, requests: Mapping[str, float]) -> tuple[tuple[str, int], ...]:
        """(resource, amount) of those requests that a class offers, by name."""
        if not self._class_of:
            return ()
        return tuple((r, math.ceil(v)) for r, v in sorted(requests.items()) if v > 0 and r in self._class_of)

    def wanted(self, pod: PodRecord, asked: tuple[tuple[str, int], ...], allocatable: Mapping[str, float]) -> Wanted | None:
        """What has to be met by devices on a node; None if the node counts all of ``asked`` itself."""
        lacking = [resource for resource, _ in asked if not allocatable.get(resource)]
        if not lacking:
            return None
        containers = pod.container_requests or [ContainerRequest(name=pod.container, requests=pod.requests)]
        requests: list[dict[str, Any]] = []
        mappings: list[dict[str, str]] = []
        for resource in lacking:
            for name, count in _counts(containers, resource, mappings):
                exactly = {"deviceClassName": self._class_of[resource], "allocationMode": "ExactCount", "count": count}
                requests.append({"name": name, "exactly": exactly})
        requests.sort(key=lambda r: r["name"])
        return Wanted(tuple(requests), tuple(mappings))


def _counts(containers: list[ContainerRequest], resource: str, mappings: list[dict[str, str]]) -> list[tuple[str, int]]:
    """(name of the request, devices) for one resource; says in ``mappings`` who uses which.

    Containers and sidecars have their devices to themselves. An init container runs before what is declared after it and
    takes those devices for its own time; what it asks for beyond them is one more request, the same for all init
    containers, as large as the one that lacks most.
    """

    def called(i: int) -> str:
        return f"container-{i}-request-{sorted(containers[i].requests).index(resource)}"

    asked = [(i, math.ceil(c.requests.get(resource, 0.0))) for i, c in enumerate(containers)]
    lasting = [(i, n) for i, n in asked if n > 0 and (containers[i].sidecar or not containers[i].init)]
    found = [(called(i), n) for i, n in lasting]
    uses = [(i, called(i)) for i, _ in lasting]
    most, largest, short = 0, -1, []
    for i, n in asked:
        if n <= 0 or containers[i].sidecar or not containers[i].init:
            continue
        for k, there in lasting:
            if n > 0 and k > i:
                uses.append((i, called(k)))
                n -= there
        if n > 0:
            short.append(i)
            if n > most:
                most, largest = n, i
    if most:
        found.append((called(largest), most))
        uses += [(i, called(largest)) for i in short]
    mappings += [
        {"containerName": containers[i].name, "requestName": name, "resourceName": resource} for i, name in sorted(uses)
    ]
    return found
