"""The nodes as columns: one row per resource, one column per node, updated in place; and their shared GPUs as slots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shoal_contracts.state import NodeRecord, PodRecord
from shoal_core.kernels.charge import charge
from shoal_core.kernels.shared import charge_slot
from shoal_core.placement.feasible import may_use_cordoned, names_nodes, selected, tolerated
from shoal_core.rows import GPU_MEMORY, MIG, REGULAR, Pod, Shape, mig_gpus
from shoal_core.vocabulary import FIRST_RESOURCES, GPU, PODS, SHARED_RESOURCES, Interner, counted
from shoal_model import labels
from shoal_model.resources import gpus_of

PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
DEFAULT_PODS = 110.0
DEFAULT_GPU_MEMORY = 100
CROWD = 64
"""Shared devices of a node that are opened before those that nobody uses are forgotten."""
NO_STRATEGY, SINGLE, MIXED = range(3)
STRATEGIES = {"single": SINGLE, "mixed": MIXED}
TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
NVIDIA_ALONE = f"{labels.GPU} alone"
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Saved = tuple[list[tuple[int, int, int, int, int, int]], float, float, int]
"""Slots as they were, with the node's idle and releasing GPUs and its room."""

_BY_NODE = {
    "usable": np.uint8, "cordoned": np.uint8, "cpu_only": np.uint8, "mig": np.uint8, "strategy": np.uint8, "synced": np.uint8,
    "rank": np.int64, "gpu_memory": np.int64, "room": np.int64, "whole_used": np.float64, "devices": np.float64,
    "claim_gpus": np.float64, "other_gpus": np.float64,
}  # fmt: skip
_BY_SLOT = {"used": np.int64, "leaving": np.int64, "held": np.int64, "marked": np.uint8, "known": np.uint8}


def healthy(record: NodeRecord) -> bool:
    """Whether the node is ready and short of nothing."""
    return record.ready and all(record.conditions.get(p, "False") == "False" for p in PRESSURES)


def gpu_memory(record: NodeRecord) -> tuple[int, bool]:
    """(MiB of each GPU, whether the node says so): the label, in bytes or MiB, down to hundreds (placement spec 1.6)."""
    text = record.labels.get(labels.GPU_MEMORY_LABEL, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        return DEFAULT_GPU_MEMORY, False
    value = int(text)
    if value >= 1 << 20:
        value >>= 20
    return value - value % 100, True


class Nodes:
    """Arrays (resources, nodes), float64: ``allocatable``, ``idle`` (what is free), ``releasing`` (what will be).

    ``usable``, ``cordoned`` (healthy, for pods that tolerate it), ``cpu_only``, ``mig``, ``strategy``, ``synced`` are
    flags by node (uint8); ``gpu_memory`` is MiB of each GPU, ``room`` the most free MiB of a shared one (-1: none),
    ``whole_used`` GPUs used whole, ``devices`` how many there are. Shared GPUs are slots, arrays (nodes, slots): see
    ``kernels.shared.charge_slot``. A node that goes leaves its column empty and unusable; the next new node takes it.
    """

    usable: Bytes
    cordoned: Bytes
    cpu_only: Bytes
    mig: Bytes
    strategy: Bytes
    synced: Bytes
    rank: Ints
    gpu_memory: Ints
    room: Ints
    whole_used: Floats
    devices: Floats
    claim_gpus: Floats
    other_gpus: Floats
    used: Ints
    leaving: Ints
    held: Ints
    marked: Bytes
    known: Bytes

    def __init__(self) -> None:
        self.resources = Interner(FIRST_RESOURCES)
        self.columns: dict[str, int] = {}
        self.records: list[NodeRecord | None] = []
        self.allocatable: Floats = np.zeros((len(FIRST_RESOURCES), 0))
        self.idle: Floats = np.zeros((len(FIRST_RESOURCES), 0))
        self.releasing: Floats = np.zeros((len(FIRST_RESOURCES), 0))
        for name, kind in _BY_NODE.items():
            setattr(self, name, np.zeros(0, kind))
        for name, kind in _BY_SLOT.items():
            setattr(self, name, np.zeros((0, 4), kind))
        self.slots: list[dict[str, int]] = []
        """By node: id of a shared device -> its slot."""
        self.slot_names: list[list[str]] = []
        self.named: dict[str, int] = {}
        """Names of shared devices: on how many nodes each is known."""
        self.crowded: set[int] = set()
        """Columns with many slots, most of them of devices that nobody shares any more: to be charged anew."""
        self.mixed = False
        """Some node has, or had, GPUs of NVIDIA and others."""
        self.nvidia = -1
        """Row of NVIDIA's GPUs alone, once there are mixed nodes."""
        self.moved: list[int] = []
        """Columns whose idle or releasing changed, in turn; begun anew (``eras``) when it is long."""
        self.eras = 0
        self.version = 0
        """Changes whenever labels, taints, sizes, or the set of nodes changed."""
        self._profiles: Interner[tuple[object, ...]] = Interner()
        self._profile_of: list[int] = []
        self._columns_profiles: Ints = np.zeros(0, np.int64)
        self._samples: dict[int, NodeRecord] = {}
        self._grouped_at = -1
        self._free: list[int] = []
        self._ranked = self._totalled = -1
        self._total: Floats = np.zeros(SHARED_RESOURCES)
        self._largest: Floats = np.zeros(0)
        self._memories = (0.0, 0.0)
        self._allowed: dict[int, tuple[int, Bytes]] = {}
        self._verdicts: dict[int, dict[int, bool]] = {}
        """Shape -> profile of nodes -> whether such pods may use them."""

    def __len__(self) -> int:
        return len(self.columns)

    def _grow(self, columns: int, rows: int) -> None:
        have_rows, have = self.allocatable.shape
        if columns <= have and rows <= have_rows:
            return
        wide = max(have, 16)
        while wide < columns:
            wide *= 2
        tall = max(rows, have_rows)
        for name in ("allocatable", "idle", "releasing"):
            bigger = np.zeros((tall, wide))
            bigger[:have_rows, :have] = getattr(self, name)
            setattr(self, name, bigger)
        if wide == have:
            return
        for name, kind in _BY_NODE.items():
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(wide - have, kind)]))
        for name, kind in _BY_SLOT.items():
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((wide - have, old.shape[1]), kind)]))
        self._allowed.clear()

    def vector(self, requests: dict[str, float]) -> Floats:
        """A pod's requests as a column: (resources,), one pod included; GPUs of all kinds in one row, and those that are not
        NVIDIA's also in their own. See ``unknown`` for what is not in it."""
        found = np.zeros(self.allocatable.shape[0])
        for name, value in requests.items():
            if name != labels.GPU and (number := self.resources.find(name)) is not None:
                found[number] = counted(name, value)
        found[GPU] = counted(labels.GPU, gpus_of(requests), gpus=True)
        if self.nvidia >= 0:
            found[self.nvidia] = counted(labels.GPU, requests.get(labels.GPU, 0.0), gpus=True)
        found[PODS] = 1.0
        return found

    def unknown(self, requests: dict[str, float]) -> tuple[str, ...]:
        """Resources that no node ever had: pods can name any number of them, so they have no row."""
        return tuple(sorted(r for r, value in requests.items() if value and self.resources.find(r) is None))

    def split_gpus(self) -> None:
        """Open a row for NVIDIA's GPUs alone. What runs on nodes has to be charged anew by the caller."""
        self.nvidia = self.resources.number(NVIDIA_ALONE)
        self._grow(0, len(self.resources))
        for column in self.columns.values():
            record = self.records[column]
            assert record is not None
            self.allocatable[self.nvidia, column] = record.allocatable.get(labels.GPU, 0.0)
        self.version += 1

    def same(self, record: NodeRecord, claim_gpus: float) -> bool:
        """Whether nothing changed of a known node that placing looks at."""
        column = self.columns[record.name]
        old = self.records[column]
        assert old is not None
        return (
            old.labels == record.labels
            and old.taints == record.taints
            and old.allocatable == record.allocatable
            and old.unschedulable == record.unschedulable
            and old.ready == record.ready
            and old.conditions == record.conditions
            and float(self.claim_gpus[column]) == claim_gpus
        )

    def put(self, record: NodeRecord, claim_gpus: float = 0.0) -> int:
        """A node that is new or changed; its column. What runs on it has to be charged anew by the caller."""
        column = self.columns.get(record.name)
        if column is None:
            column = self._free.pop() if self._free else len(self.records)
            if column == len(self.records):
                self.records.append(None)
                self._profile_of.append(-1)
                self.slots.append({})
                self.slot_names.append([])
            self.columns[record.name] = column
        for name in record.allocatable:
            self.resources.number(name)
        self._grow(column + 1, len(self.resources))
        have = np.zeros(self.allocatable.shape[0])
        have[PODS] = DEFAULT_PODS
        for name, value in record.allocatable.items():
            have[self.resources.number(name)] = value
        nvidia = record.allocatable.get(labels.GPU, 0.0)
        have[GPU] = gpus_of(record.allocatable) + claim_gpus
        self.other_gpus[column] = other = gpus_of(record.allocatable) - nvidia
        self.mixed = self.mixed or bool(other and nvidia)
        if self.nvidia >= 0:
            have[self.nvidia] = nvidia
        self.allocatable[:, column] = have
        good = healthy(record)
        self.usable[column] = good and not record.unschedulable
        self.cordoned[column] = good and record.unschedulable
        self.claim_gpus[column] = claim_gpus
        self._gpus(record, column)
        self.records[column] = record
        node_labels = tuple(sorted((k, v) for k, v in record.labels.items() if k != "kubernetes.io/hostname"))
        taints = tuple((t.key, t.value, t.effect) for t in record.taints)
        self._profile_of[column] = self._profiles.number((node_labels, taints))
        self.version += 1
        self.clear(column)
        return column

    def _gpus(self, record: NodeRecord, column: int) -> None:
        tags, gpus = record.labels, float(self.allocatable[GPU, column])
        enabled = tags.get(labels.MIG_ENABLED)
        if enabled is not None:
            mig = enabled in TRUE
        else:
            mig = any(name.startswith(labels.MIG_PREFIX) and value > 0 for name, value in record.allocatable.items())
        self.mig[column] = mig
        self.strategy[column] = STRATEGIES.get(tags.get(labels.MIG_STRATEGY, ""), NO_STRATEGY) if mig else NO_STRATEGY
        self.cpu_only[column] = not mig and gpus <= 0
        self.gpu_memory[column], self.synced[column] = gpu_memory(record)
        # Not what a label says: devices that are not healthy are in it, too.
        self.devices[column] = int(gpus)

    def clear(self, column: int) -> None:
        """Nothing is charged to the node."""
        self.moved.append(column)
        self.idle[:, column] = self.allocatable[:, column]
        self.releasing[:, column] = 0.0
        self.whole_used[column] = 0.0
        self.room[column] = -1
        for name in _BY_SLOT:
            getattr(self, name)[column] = 0
        for group in self.slot_names[column]:
            left = self.named.pop(group) - 1
            if left:
                self.named[group] = left
        self.slots[column].clear()
        self.slot_names[column].clear()

    def remove(self, name: str) -> None:
        """A node that is gone. What was charged to it is forgotten."""
        column = self.columns.pop(name, None)
        if column is None:
            return
        self.allocatable[:, column] = 0.0
        self.clear(column)
        self.usable[column] = self.cordoned[column] = 0
        self.cpu_only[column] = 0
        self.records[column] = None
        self._profile_of[column] = -1
        self._free.append(column)
        self.version += 1

    def name(self, column: int) -> str:
        """The node's name."""
        record = self.records[column]
        return record.name if record else ""

    # shared devices

    def slot(self, column: int, group: str) -> int:
        """The slot of a shared device, a new one if the node does not know it."""
        slots = self.slots[column]
        found = slots.get(group)
        if found is None:
            found = slots[group] = len(self.slot_names[column])
            self.slot_names[column].append(group)
            self.named[group] = self.named.get(group, 0) + 1
            self._grow_slots(found + 1)
            if found % CROWD == CROWD - 1:
                self.crowded.add(column)
        return found

    def _grow_slots(self, wanted: int) -> None:
        while wanted > self.used.shape[1]:
            for name, kind in _BY_SLOT.items():
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(old.shape, kind)], axis=1))

    def room_for_slots(self) -> Ints:
        """(nodes,): how many slots were ever in use; there will be room for all devices that are free now."""
        opened = np.zeros(self.usable.shape[0], np.int64)
        opened[: len(self.slot_names)] = [len(names) for names in self.slot_names]
        free = np.floor(np.maximum(self.idle[GPU] + self.releasing[GPU], 0.0)).astype(np.int64)
        self._grow_slots(int((opened + free).max(initial=0)))
        return opened

    def groups(self, column: int, pod: Pod, slots: list[int], keep: bool = True) -> tuple[str, ...]:
        """The names of the devices in these slots; -1 is one that nobody shares yet: it is named after the pod. With ``keep``
        that may be the device that the pod has already."""
        names, known, number = self.slot_names[column], self.slots[column], 0
        found: list[str] = []
        for slot in slots:
            if slot >= 0:
                found.append(names[slot])
                continue
            while True:
                name = f"{pod.uid}-{number}"
                number += 1
                # The pod may have opened a device before that others use now.
                if (keep and name in pod.groups) or (at := known.get(name)) is None or not self.used[column, at]:
                    break
            found.append(name)
        return tuple(found)

    def charge_slot(self, column: int, group: str, memory: int, how: int, sign: int) -> None:
        """Charge a shared device, see ``kernels.shared.charge_slot``."""
        self.moved.append(column)
        slot = self.slot(column, group)
        charge_slot(
            self.idle, self.releasing, self.whole_used, self.devices, self.gpu_memory, self.used, self.leaving, self.held,
            self.marked, self.known, self.room, column, slot, memory, how, sign,
        )  # fmt: skip

    def saved_slots(self, column: int, groups: tuple[str, ...]) -> Saved:
        """Everything that charging these devices may change, for ``restore_slots``."""
        found: list[tuple[int, int, int, int, int, int]] = []
        for group in groups:
            s = self.slot(column, group)
            found.append(
                (s, int(self.used[column, s]), int(self.leaving[column, s]), int(self.held[column, s]),
                 int(self.marked[column, s]), int(self.known[column, s]))
            )  # fmt: skip
        return (found, float(self.idle[GPU, column]), float(self.releasing[GPU, column]), int(self.room[column]))

    def restore_slots(self, column: int, saved: Saved) -> None:
        """Undo what was charged to devices of the node since ``saved_slots``."""
        slots, idle, releasing, room = saved
        self.moved.append(column)
        for s, used, leaving, held, marked, known in slots:
            self.used[column, s], self.leaving[column, s], self.held[column, s] = used, leaving, held
            self.marked[column, s], self.known[column, s] = marked, known
        self.idle[GPU, column], self.releasing[GPU, column], self.room[column] = idle, releasing, room

    def charge(self, column: int, request: Floats, rows: Ints, how: int, sign: float = 1.0) -> None:
        """Charge whole resources, see ``kernels.charge.charge``."""
        self.moved.append(column)
        charge(self.idle, self.releasing, self.allocatable, request, rows, column, how, sign)

    def start_era(self) -> None:
        """Forget which nodes changed so far."""
        self.moved.clear()
        self.eras += 1

    # derived

    def ranks(self) -> Ints:
        """Rank of each node by name, for ties."""
        if self._ranked != self.version:
            for rank, name in enumerate(sorted(self.columns)):
                self.rank[self.columns[name]] = rank
            self._ranked = self.version
        return self.rank

    def allowed(self, shape: Shape, pod: PodRecord, restrict: bool = False) -> Bytes:
        """0 or 1 per column: nodes that such pods may use by labels, taints and kind of device. Kept until these change."""
        kept = self._allowed.get(shape.number)
        if kept is None or kept[0] != self.version:
            mask = np.zeros(self.usable.shape[0], np.uint8)
            worker = (labels.CPU_WORKER if shape.cpu_only else labels.GPU_WORKER) if restrict else ""

            def verdict(record: NodeRecord) -> bool:
                good = selected(pod, record.name, record.labels) and tolerated(pod, record.taints)
                return good and (not worker or worker in record.labels)

            if names_nodes(pod):
                for column, record in enumerate(self.records):
                    mask[column] = record is not None and verdict(record)
            else:
                profiles, samples = self._grouped()
                table = np.zeros(len(self._profiles) + 1, np.uint8)
                known = self._verdicts.setdefault(shape.number, {})
                for number, record in samples.items():
                    found = known.get(number)
                    if found is None:
                        found = known[number] = verdict(record)
                    table[number] = found
                # Columns without a node have -1, the last entry.
                mask[: profiles.shape[0]] = table[profiles]
            mask &= self.open_to(pod) & self._device_kind(shape)
            if shape.missing:
                mask[:] = 0
            kept = self._allowed[shape.number] = (self.version, mask)
        return kept[1]

    def forget_shape(self, number: int) -> None:
        """No pod has the shape any more."""
        self._allowed.pop(number, None)
        self._verdicts.pop(number, None)

    def open_to(self, pod: PodRecord) -> Bytes:
        """Nodes on which such pods may be placed at all: (nodes,), those that are cordoned for pods that tolerate it."""
        return self.usable | self.cordoned if pod.tolerations and may_use_cordoned(pod) else self.usable

    def _grouped(self) -> tuple[Ints, dict[int, NodeRecord]]:
        """(profile of each column, one node of each profile)."""
        if self._grouped_at != self.version:
            if len(self._profiles) > 2 * len(self.columns) + 64:
                self._number_profiles()
            pairs = zip(self._profile_of, self.records, strict=True)
            self._samples = {number: record for number, record in pairs if record is not None}
            self._columns_profiles = np.array(self._profile_of, np.int64)
            self._grouped_at = self.version
        return self._columns_profiles, self._samples

    def alike(self, columns: NDArray[np.bool_], *, each: bool) -> Iterator[tuple[NodeRecord, int]]:
        """(one node, how many) of those in ``columns`` (nodes,) that have the same labels and taints; ``each``: one by one."""
        if each:
            yield from ((record, 1) for column, record in enumerate(self.records) if record is not None and columns[column])
            return
        profiles, samples = self._grouped()
        numbers, counts = np.unique(profiles[columns[: profiles.shape[0]]], return_counts=True)
        yield from ((samples[n], c) for n, c in zip(numbers.tolist(), counts.tolist(), strict=True) if n in samples)

    def _number_profiles(self) -> None:
        """Labels of nodes changed so often that most profiles are those of no node: number them anew."""
        old = self._profiles.values
        self._profiles = Interner[tuple[object, ...]]()
        self._profile_of = [self._profiles.number(old[number]) if number >= 0 else -1 for number in self._profile_of]
        self._verdicts.clear()

    def _device_kind(self, shape: Shape) -> Bytes:
        """Nodes whose kind of GPU suits the request (placement spec 2.4, steps 2 and 3)."""
        if shape.cpu_only and not shape.legacy_mig:
            return np.ones_like(self.usable)
        if shape.legacy_mig:
            return np.zeros_like(self.usable)
        good = np.ones(self.usable.shape[0], bool)
        if shape.kind == MIG:
            good &= self.mig == 1
        else:
            good &= self.strategy != MIXED
        if shape.kind != REGULAR:
            good &= self.strategy != SINGLE
        if shape.shared:
            # Nobody knows how many of several kinds of GPUs are shared ones.
            good &= (self.claim_gpus == 0) & (self.other_gpus == 0)
        elif shape.record.requests.get(labels.GPU):
            good &= (self.other_gpus == 0) | (self.allocatable[GPU] > self.other_gpus + self.claim_gpus)
        if shape.kind == GPU_MEMORY:
            good &= self.synced == 1
        return good.astype(np.uint8)

    def _refresh(self) -> None:
        if self._totalled == self.version:
            return
        ready = self.usable.astype(float)
        self._total = (self.allocatable[:SHARED_RESOURCES] * ready).sum(axis=1)
        for number, name in enumerate(self.resources.values):
            if weight := mig_gpus(name):
                self._total[GPU] += weight * float((self.allocatable[number] * ready).sum())
        self._largest = self.allocatable.max(axis=1, initial=0.0)
        sizes = [int(self.gpu_memory[c]) for c in self.columns.values() if self.gpu_memory[c] > DEFAULT_GPU_MEMORY]
        self._memories = (float(min(sizes)), float(max(sizes))) if sizes else (0.0, 0.0)
        self._totalled = self.version

    def total(self) -> Floats:
        """CPU, memory and GPUs of all nodes that are ready: (3,)."""
        self._refresh()
        return self._total

    def largest(self) -> Floats:
        """The most that one node has of each resource: (resources,)."""
        self._refresh()
        return self._largest

    def gpu_memories(self) -> tuple[float, float]:
        """(least, most) MiB of a GPU among nodes that say so; 0 if none does."""
        self._refresh()
        return self._memories

    def idle_and_leaving_gpus(self) -> tuple[Floats, Floats]:
        """GPUs of each node that are idle, and those that are being released less what is promised of them; with the free
        parts of shared ones and MIG instances: two (nodes,)."""
        idle, leaving = self.idle[GPU], self.releasing[GPU]
        for number, name in enumerate(self.resources.values):
            if weight := mig_gpus(name):
                idle, leaving = idle + weight * self.idle[number], leaving + weight * self.releasing[number]
        if self.used.any():
            memory = np.maximum(self.gpu_memory, 1)[:, None].astype(float)
            taken = np.ceil(np.round(self.held / memory * 100, 9)) / 100
            idle = idle + np.where(self.held > 0, 1 - taken, 0.0).sum(axis=1)
            parts = np.ceil(np.round(self.leaving / memory * 100, 9)) / 100
            partly = (self.leaving > 0) & ~((self.leaving == self.used) & (self.used != 0))
            leaving = leaving + np.where(partly, parts, 0.0).sum(axis=1)
        return idle, leaving

    def free_gpus(self) -> Floats:
        """Idle and leaving GPUs of each node together: (nodes,)."""
        idle, leaving = self.idle_and_leaving_gpus()
        return idle + leaving

    def most_free_gpus(self) -> float:
        """No more GPUs than this can be placed on all nodes together, unless some are given up."""
        found = float(np.maximum(self.idle[GPU] + self.releasing[GPU], 0.0).sum())
        for number, name in enumerate(self.resources.values):
            if weight := mig_gpus(name):
                found += weight * float(np.maximum(self.idle[number] + self.releasing[number], 0.0).sum())
        if self.used.any():
            memory = np.maximum(self.gpu_memory, 1)[:, None].astype(float)
            found += float(np.where(self.used != 0, np.maximum(0.0, memory - self.held + self.leaving) / memory, 0.0).sum())
        return found

    def free_gpu_memory(self) -> Floats:
        """MiB of GPU memory that is idle or leaving on each node: (nodes,)."""
        whole = np.floor(np.maximum(self.idle[GPU], 0)) + np.floor(np.maximum(self.releasing[GPU], 0))
        shared = np.where(self.held > 0, self.gpu_memory[:, None] - self.held, 0).sum(axis=1) + np.maximum(self.leaving, 0).sum(
            axis=1
        )
        return whole * self.gpu_memory + shared
