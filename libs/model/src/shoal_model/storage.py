"""Claims, volumes and what new volumes are made from, with only the fields that placement and binding read."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal_model.objects import LabelSelector, Meta, NodeSelector, Obj, Quantities, Resources
from shoal_model.quantity import BadQuantity, amount

SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""On a claim: the node for which its volume is to be made."""
BOUND = "pv.kubernetes.io/bind-completed"
"""On a claim: it is bound to the volume that it names."""
ZONES = {
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
"""Labels of volumes and nodes that say where they are -> the label that has taken their place."""
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
"""On a volume: the claim was matched with it, its creator did not name it."""
NO_PROVISIONER = "kubernetes.io/no-provisioner"
WAITS = "WaitForFirstConsumer"
IMMEDIATE = "Immediate"


def size(quantities: Quantities | None) -> float:
    """Bytes of storage; 0 where nothing, or no quantity, is said."""
    try:
        return amount(str((quantities or {}).get("storage", 0)))
    except BadQuantity:
        return 0.0


class ClaimSpec(Obj):
    """spec of a PersistentVolumeClaim."""

    volume_name: str = ""
    storage_class_name: str | None = None
    access_modes: list[str] | None = None
    volume_mode: str | None = None
    resources: Resources = msgspec.field(default_factory=Resources)
    selector: LabelSelector | None = None


class Phase(Obj):
    """status of a claim or volume."""

    phase: str = ""


class Claim(Obj):
    """A PersistentVolumeClaim."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: ClaimSpec = msgspec.field(default_factory=ClaimSpec)
    status: Phase = msgspec.field(default_factory=Phase)

    @property
    def bound(self) -> bool:
        """Whether the volume controller has bound it to a volume."""
        said = BOUND in (self.metadata.annotations or {}) or self.status.phase in ("Bound", "Lost")
        return bool(self.spec.volume_name) and said

    @property
    def selected_node(self) -> str:
        """The node for which its volume is made already."""
        return (self.metadata.annotations or {}).get(SELECTED_NODE, "")


class ClaimRef(Obj):
    """spec.claimRef of a volume."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


class VolumeAffinity(Obj):
    """spec.nodeAffinity of a volume."""

    required: NodeSelector | None = None


class CsiSource(Obj):
    """spec.csi of a volume."""

    driver: str = ""
    volume_handle: str = ""


class VolumeSpec(Obj):
    """spec of a PersistentVolume."""

    capacity: Quantities | None = None
    access_modes: list[str] | None = None
    storage_class_name: str = ""
    volume_mode: str | None = None
    claim_ref: ClaimRef | None = None
    node_affinity: VolumeAffinity | None = None
    csi: CsiSource | None = None


class Volume(Obj):
    """A PersistentVolume."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: VolumeSpec = msgspec.field(default_factory=VolumeSpec)
    status: Phase = msgspec.field(default_factory=Phase)


class LabelValues(Obj):
    """allowedTopologies[].matchLabelExpressions[]."""

    key: str = ""
    values: list[str] | None = None


class TopologyTerm(Obj):
    """allowedTopologies[] of a storage class."""

    match_label_expressions: list[LabelValues] | None = None


class StorageClass(Obj):
    """A StorageClass."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    provisioner: str = ""
    volume_binding_mode: str = IMMEDIATE
    allowed_topologies: list[TopologyTerm] | None = None


class DriverSpec(Obj):
    """spec of a CSIDriver."""

    storage_capacity: bool | None = None


class Driver(Obj):
    """A CSIDriver."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: DriverSpec = msgspec.field(default_factory=DriverSpec)


class Capacity(Obj):
    """A CSIStorageCapacity: what volumes of a class may still be made for some nodes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    storage_class_name: str = ""
    node_topology: LabelSelector | None = None
    capacity: str | None = None
    maximum_volume_size: str | None = None


class DriverLimit(Obj):
    """spec.drivers[].allocatable of a CSINode."""

    count: int | None = None


class NodeDriver(Obj):
    """spec.drivers[] of a CSINode."""

    name: str = ""
    allocatable: DriverLimit | None = None


class NodeDrivers(Obj):
    """spec of a CSINode."""

    drivers: list[NodeDriver] | None = None


class CsiNode(Obj):
    """A CSINode: how many volumes of each driver the node of its name takes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: NodeDrivers = msgspec.field(default_factory=NodeDrivers)

    @property
    def limits(self) -> dict[str, int]:
        """Driver -> how many of its volumes the node takes; drivers without a limit are not in it."""
        drivers = self.spec.drivers or ()
        return {d.name: d.allocatable.count for d in drivers if d.allocatable and d.allocatable.count is not None}


KINDS: dict[str, tuple[str, msgspec.json.Decoder[Any]]] = {
    "PersistentVolumeClaim": ("pvc", msgspec.json.Decoder(Claim)),
    "PersistentVolume": ("pv", msgspec.json.Decoder(Volume)),
    "StorageClass": ("storageclass", msgspec.json.Decoder(StorageClass)),
    "CSIDriver": ("csidriver", msgspec.json.Decoder(Driver)),
    "CSINode": ("csinode", msgspec.json.Decoder(CsiNode)),
    "CSIStorageCapacity": ("storagecapacity", msgspec.json.Decoder(Capacity)),
}
"""Kind -> (kind in the state plane's subjects, what reads its JSON)."""


def slim(kind: str, body: bytes) -> bytes:
    """The JSON of an object with no more than the fields that are read; as it is where it is of another kind, or bad."""
    if kind not in KINDS:
        return body
    try:
        return msgspec.json.encode(KINDS[kind][1].decode(body))
    except msgspec.DecodeError:
        return body


def zones(volume: Volume) -> tuple[tuple[str, frozenset[str]], ...]:
    """(label, its values) of nodes that reach the volume, as its labels say it (Kubernetes' VolumeZone)."""
    tags = volume.metadata.labels or {}
    return tuple((key, frozenset(v.strip() for v in tags[key].split("__"))) for key in ZONES if key in tags)


def suits(volume: Volume, claim: Claim) -> bool:
    """Whether the claim may be bound to the volume: nobody has it, or it is kept for this claim; its class, mode, access,
    size and labels do (labels: ``matchLabels`` of the claim's selector; expressions are the caller's)."""
    ref, mine, meta = volume.spec.claim_ref, claim.spec, claim.metadata
    if volume.metadata.deletion_timestamp is not None:
        return False
    kept = ref is not None and (ref.namespace, ref.name) == (meta.namespace, meta.name) and ref.uid in ("", meta.uid)
    if ref is not None and not kept:
        return False
    if ref is None and volume.status.phase not in ("", "Available"):
        return False
    tags = volume.metadata.labels or {}
    return (
        volume.spec.storage_class_name == (mine.storage_class_name or "")
        and (volume.spec.volume_mode or "Filesystem") == (mine.volume_mode or "Filesystem")
        and set(mine.access_modes or ()) <= set(volume.spec.access_modes or ())
        and size(volume.spec.capacity) >= size(mine.resources.requests)
        and all(tags.get(k) == v for k, v in ((mine.selector.match_labels if mine.selector else None) or {}).items())
    )
