"""The shapes of pods: those that ask for the same have the same one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shoal_contracts.state import PodRecord, PodTerm, Selector, SpreadConstraint
from shoal_core.nodes import Nodes
from shoal_core.placement.claims import Claims
from shoal_core.rows import MIG, Shape, mig_gpus
from shoal_core.vocabulary import GPU, counted
from shoal_model import labels


def _seen_labels(record: PodRecord) -> list[tuple[str, str]]:
    """The pod's labels that its own terms and constraints look at: of equal pods the others differ without effect."""
    affinity, found = record.affinity, set[str]()
    terms: Iterable[PodTerm | SpreadConstraint] = record.spread
    if affinity is not None:
        terms = (
            *affinity.pod_required, *affinity.pod_preferred, *affinity.anti_required, *affinity.anti_preferred, *terms,
        )  # fmt: skip
    for term in terms:
        found.update(_keys(term.selector), term.match_label_keys)
        if isinstance(term, PodTerm):
            found.update(term.mismatch_label_keys)
    return sorted((key, record.labels[key]) for key in found if key in record.labels)


def _keys(selector: Selector | None) -> Iterable[str]:
    return (r.key for r in selector.requirements) if selector is not None else ()


class Shapes:
    """Each is kept as long as a pod has it; ``renew`` tells them what device classes offer."""

    def __init__(self, nodes: Nodes, claims: Claims) -> None:
        self._nodes, self._claims = nodes, claims
        self._shapes: dict[bytes, Shape] = {}
        self._pods: dict[int, tuple[bytes, int]] = {}
        """Number of a shape -> its key, and how many pods have it."""
        self._next = 0
        self._lacking: dict[int, Shape] = {}
        """By number: shapes that ask for resources that no node ever had."""
        self._resources = len(nodes.resources)
        self._version = 0
        """The version of the extended resources that shapes know of."""

    def of(self, record: PodRecord) -> Shape:
        """The shape of a pod that comes; ``release`` it when the pod goes."""
        gpus = self._claims.gpu_count(record) if record.claims else 0.0
        mig = sorted(k for k in record.annotations if k.startswith(labels.MIG_PREFIX))
        key = msgspec.json.encode(
            (
                sorted(record.requests.items()), sorted(record.node_selector.items()), record.affinity, record.tolerations,
                record.host_ports, record.claims, record.share, bool(record.volumes), mig, gpus,
                (record.namespace, _seen_labels(record), record.spread) if record.affinity or record.spread else None,
            )
        )  # fmt: skip
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = self._made(self._next, record, gpus)
            self._next += 1
        self._pods[found.number] = (key, self._pods.get(found.number, (key, 0))[1] + 1)
        return found

    def _made(self, number: int, record: PodRecord, gpus: float) -> Shape:
        quota = sum(counted(name, mig_gpus(name) * value, gpus=True) for name, value in record.requests.items())
        found = Shape(number, record, self._nodes.vector(record.requests), quota, gpus)
        if self._nodes.nvidia >= 0:
            self._split(found)
        found.lacking = self._nodes.unknown(record.requests)
        extended = self._claims.extended.of(record.requests)
        if extended or found.lacking:
            found.offer(extended)
        if found.lacking:
            self._lacking[number] = found
        return found

    def split_gpus(self) -> None:
        """Count NVIDIA's GPUs on their own as well."""
        for shape in self._shapes.values():
            self._split(shape)

    def _split(self, shape: Shape) -> None:
        request = self._nodes.vector(shape.record.requests)
        request[GPU] = shape.request[GPU]
        if shape.kind == MIG:
            request[self._nodes.nvidia] = 0.0
        shape.ask(request, self._nodes.nvidia)

    def release(self, shape: Shape) -> None:
        """A pod that had it is gone; with the last one all that is kept of the shape goes. Numbers are not used again."""
        key, pods = self._pods.pop(shape.number)
        if pods > 1:
            self._pods[shape.number] = (key, pods - 1)
            return
        del self._shapes[key]
        self._lacking.pop(shape.number, None)
        self._nodes.forget_shape(shape.number)

    def renew(self) -> bool:
        """Whether device classes offer other resources than when this was last asked; then all shapes know."""
        if self._version == self._claims.extended.version:
            return False
        self._version = self._claims.extended.version
        for shape in self._shapes.values():
            shape.offer(self._claims.extended.of(shape.record.requests))
        for shape in self._lacking.values():
            self._nodes.forget_shape(shape.number)
        return True

    def count_new_resources(self) -> bool:
        """Nodes may have resources by now that none had: shapes that ask for them are made anew, in place. Whether there
        are any: then what has such a shape is to be charged anew."""
        if self._resources == len(self._nodes.resources):
            return False
        self._resources = len(self._nodes.resources)
        found = [s for s in self._lacking.values() if self._nodes.unknown(s.record.requests) != s.lacking]
        for shape in found:
            del self._lacking[shape.number]
            fresh = self._made(shape.number, shape.record, shape.claim_gpus)
            for name in Shape.__slots__:
                setattr(shape, name, getattr(fresh, name))
            if shape.lacking:
                self._lacking[shape.number] = shape
            self._nodes.forget_shape(shape.number)
        return bool(found)
