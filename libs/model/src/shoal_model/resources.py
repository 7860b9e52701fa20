"""What a pod asks for, as Kubernetes counts it (component-helpers' PodRequests, with the status of an in-place resize)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shoal_contracts.state import HostPort
from shoal_model import labels, objects
from shoal_model.quantity import BadQuantity, amount, exact, milli

Amounts = dict[str, float]
GPUS = ("gpu", labels.GPU, "amd.com/gpu")
"""Resources that count as GPUs in queues. A node is matched by the very one that a pod asks for."""
HUGE_PAGES = "hugepages-"
ALWAYS = "Always"
"""restartPolicy of an init container that runs as long as the pod does: a sidecar."""


def is_gpu(resource: str) -> bool:
    """Whether queues count the resource as GPUs: by its exact name, all others are plain extended resources."""
    return resource in GPUS


def gpus_of(requests: Mapping[str, float]) -> float:
    """Whole GPUs of all kinds among requests."""
    return sum(requests.get(name, 0.0) for name in GPUS)


def base_units(quantities: objects.Quantities | None, where: str) -> Amounts:
    """Quantities by resource in base units. Raises BadQuantity naming ``where`` and the resource."""
    found: Amounts = {}
    for resource, text in (quantities or {}).items():
        try:
            value = milli(str(text)) if resource == "cpu" else amount(str(text))
        except BadQuantity as error:
            raise BadQuantity(f"{where}.{resource}: {error}") from error
        if value < 0:
            raise BadQuantity(f"{where}.{resource}: {text} is negative")
        if "/" in resource and exact(str(text)) % 1:
            hint = f"; for a part of a GPU there is the annotation {labels.GPU_FRACTION}" if resource in GPUS else ""
            raise BadQuantity(f"{where}.{resource}: {text} is no whole number{hint}")
        found[resource] = value
    return found


def tolerant(quantities: objects.Quantities | None) -> Amounts:
    """The same of a status: what is no quantity is left out, what is negative is zero."""
    found: Amounts = {}
    for resource, text in (quantities or {}).items():
        try:
            found[resource] = max(0.0, milli(str(text)) if resource == "cpu" else amount(str(text)))
        except BadQuantity:
            continue  # who says nonsense of one resource has none of it
    return found


class Need(NamedTuple):
    """What one container asks for."""

    name: str
    requests: Amounts
    init: bool
    sidecar: bool
    """An init container that runs as long as the pod does."""


def container_needs(pod: objects.Pod) -> list[Need]:
    """What each container asks for, init containers first.

    During a resize in place that is the largest of spec, status.allocatedResources and status.resources; where the node
    can't ever grant the resize (Infeasible), the spec does not count. Raises BadQuantity.
    """
    spec, status = pod.spec, pod.status
    held: dict[str, objects.ContainerStatus] = {}
    for known in (status.container_statuses, status.init_container_statuses):
        for one in known or ():
            if one.allocated_resources or (one.resources is not None and one.resources.requests):
                held[one.name] = one
    infeasible = bool(held) and _infeasible(status)
    found: list[Need] = []
    for init, where, containers in (
        (True, "initContainers", spec.init_containers or ()),
        (False, "containers", spec.containers),
    ):
        for i, container in enumerate(containers):
            need = base_units(container.resources.requests, f"{where}[{i}].resources.requests")
            sidecar = init and container.restart_policy == ALWAYS
            if held and (sidecar or not init) and (one := held.get(container.name)) is not None:
                need = _held(need, one.allocated_resources, one.resources, infeasible)
            found.append(Need(container.name, need, init, sidecar))
    return found


def _infeasible(status: objects.PodStatus) -> bool:
    return any(c.type == "PodResizePending" and c.reason == "Infeasible" for c in status.conditions or ())


def _held(need: Amounts, allocated: objects.Quantities | None, actual: objects.Resources | None, infeasible: bool) -> Amounts:
    found = {} if infeasible else dict(need)
    _most(found, tolerant(allocated))
    _most(found, tolerant(actual.requests if actual else None))
    return found


def _add(into: Amounts, other: Amounts) -> None:
    for resource, value in other.items():
        into[resource] = into.get(resource, 0.0) + value


def _most(into: Amounts, other: Amounts) -> None:
    for resource, value in other.items():
        into[resource] = max(into.get(resource, 0.0), value)


def pod_requests(pod: objects.Pod, needs: list[Need] | None = None) -> Amounts:
    """The largest that the pod needs at once, in base units. ``needs``: its ``container_needs``, if they are known.

    Containers and sidecars run together; an init container runs beside the sidecars that were started before it
    (Kubernetes' rule for sidecars, KEP-753). What the pod asks for as a whole (KEP-2837) stands in the place of that sum.
    Overhead comes on top. Raises BadQuantity.
    """
    spec = pod.spec
    running: Amounts = {}
    sidecars: Amounts = {}
    peak: Amounts = {}
    for need in container_needs(pod) if needs is None else needs:
        if not need.init:
            _add(running, need.requests)
        elif need.sidecar:
            _add(sidecars, need.requests)
            _most(peak, sidecars)
        else:
            alone = dict(need.requests)
            _add(alone, sidecars)
            _most(peak, alone)
    _add(running, sidecars)
    _most(running, peak)
    if spec.resources is not None:
        running |= _as_a_whole(pod, spec.resources)
    _add(running, base_units(spec.overhead, "overhead"))
    return {resource: value for resource, value in running.items() if value}


def _as_a_whole(pod: objects.Pod, resources: objects.Resources) -> Amounts:
    """Requests of the pod itself, completed as the API server does where only limits are given."""
    named = {r for c in (*pod.spec.containers, *(pod.spec.init_containers or ())) for r in c.resources.requests or ()}

    def meant(amounts: Amounts) -> Amounts:
        return {r: v for r, v in amounts.items() if r in ("cpu", "memory") or r.startswith(HUGE_PAGES)}

    found = meant(base_units(resources.requests, "resources.requests"))
    for resource, limit in meant(base_units(resources.limits, "resources.limits")).items():
        # Huge pages can't be asked for with another limit: what the containers ask for is no default.
        if resource not in found and (resource.startswith(HUGE_PAGES) or resource not in named):
            found[resource] = limit
    status = pod.status
    if found and (status.allocated_resources or (status.resources is not None and status.resources.requests)):
        held = _held(found, status.allocated_resources, status.resources, _infeasible(status))
        found = {resource: held.get(resource, found[resource]) for resource in found}
    return found


def host_ports(spec: objects.PodSpec) -> list[HostPort]:
    """Ports of the node that the pod takes for as long as it runs: those of its containers and sidecars."""
    lasting = [*spec.containers, *(c for c in spec.init_containers or () if c.restart_policy == ALWAYS)]
    found: list[HostPort] = []
    for container in lasting:
        for port in container.ports or ():
            # In the node's network the API server makes every port a port of the node.
            number = port.host_port or (port.container_port if spec.host_network else 0)
            if number > 0:
                found.append(HostPort(port=number, protocol=port.protocol or "TCP", ip=port.host_ip))
    return found
