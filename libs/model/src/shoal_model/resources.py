"""What a pod asks for, as the scheduler counts it."""

from __future__ import annotations

from shoal_model import objects
from shoal_model.quantity import BadQuantity, amount, milli


def base_units(quantities: objects.Quantities | None, where: str) -> dict[str, float]:
    """Quantities by resource in base units. Raises BadQuantity naming ``where`` and the resource."""
    found: dict[str, float] = {}
    for resource, text in (quantities or {}).items():
        try:
            value = milli(str(text)) if resource == "cpu" else amount(str(text))
        except BadQuantity as error:
            raise BadQuantity(f"{where}.{resource}: {error}") from error
        if value < 0:
            raise BadQuantity(f"{where}.{resource}: {text} is negative")
        found[resource] = value
    return found


def _add(into: dict[str, float], other: dict[str, float]) -> None:
    for resource, value in other.items():
        into[resource] = into.get(resource, 0.0) + value


def pod_requests(spec: objects.PodSpec) -> dict[str, float]:
    """The largest that the pod needs at once, in base units.

    Containers and sidecars run together; an init container runs beside the sidecars that were started before it
    (Kubernetes' rule for sidecars, KEP-753); overhead comes on top. Raises BadQuantity.
    """
    running: dict[str, float] = {}
    for i, container in enumerate(spec.containers):
        _add(running, base_units(container.resources.requests, f"containers[{i}].resources.requests"))
    sidecars: dict[str, float] = {}
    peak: dict[str, float] = {}
    for i, container in enumerate(spec.init_containers or ()):
        need = base_units(container.resources.requests, f"initContainers[{i}].resources.requests")
        if container.restart_policy == "Always":
            _add(sidecars, need)
            need = dict(sidecars)
        else:
            _add(need, sidecars)
        for resource, value in need.items():
            peak[resource] = max(peak.get(resource, 0.0), value)
    _add(running, sidecars)
    for resource, value in peak.items():
        running[resource] = max(running.get(resource, 0.0), value)
    _add(running, base_units(spec.overhead, "overhead"))
    return {resource: value for resource, value in running.items() if value}
