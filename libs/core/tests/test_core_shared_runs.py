"""Runs of pods on parts of GPUs: the kernel beside one call for each pod, and the whole cycle beside one job at a time."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_core import CycleResult, cycle
from shoal_core.actions.singles import Singles
from shoal_core.kernels.charge import charge_slowly
from shoal_core.kernels.shared import charge_slot, place_shared, place_shared_run
from shoal_core.results import digest
from shoal_testkit.small import node, queue, work, world

RESOURCES, SLOTS = 4, 6
PARTS = (0.2, 0.25, 0.5, 0.8)


class Devices:
    """Nodes with GPUs, some of them shared."""

    def __init__(self, seed: int) -> None:
        few = np.random.default_rng(seed)
        n = int(few.integers(1, 140))
        self.allocatable = few.integers(0, 5, (RESOURCES, n)).astype(float) * np.array([[8], [8], [1], [4]])
        self.idle, self.releasing = self.allocatable.copy(), np.zeros((RESOURCES, n))
        self.candidates = few.integers(0, 4, n).clip(0, 1).astype(np.uint8)
        self.allowed = few.integers(0, 4, (len(PARTS), n)).clip(0, 1).astype(np.uint8)
        self.room, self.whole = np.full(n, -1, np.int64), np.zeros(n)
        self.extra = few.choice([0.0, 0.0, 1000.0], n)
        self.devices, self.rank = self.allocatable[2].copy(), few.permutation(n).astype(np.int64)
        self.memory = few.choice([100, 400], n).astype(np.int64)
        self.used, self.leaving, self.held = (np.zeros((n, SLOTS), np.int64) for _ in range(3))
        self.marked, self.known = np.zeros((n, SLOTS), np.uint8), np.zeros((n, SLOTS), np.uint8)
        self.opened = np.zeros(n, np.int64)
        self.request = np.ones((len(PARTS), RESOURCES))
        self.request[:, 2] = PARTS
        for _ in range(int(few.integers(0, 2 * n))):
            at = int(few.integers(0, n))
            if self.idle[2, at] >= 1 and self.opened[at] < SLOTS:
                self.charge(at, int(self.opened[at]), int(few.choice([20, 50])), int(few.integers(0, 2)))
                self.opened[at] += 1

    def charge(self, n: int, slot: int, memory: int, how: int = 0) -> None:
        charge_slot(
            self.idle, self.releasing, self.whole, self.devices, self.memory, self.used, self.leaving, self.held, self.marked,
            self.known, self.room, n, slot, memory, how, 1,
        )  # fmt: skip

    def arrays(self) -> list[Any]:
        """All that placing may change."""
        found = (self.idle, self.releasing, self.room, self.used, self.leaving, self.held, self.marked, self.known, self.opened)
        return [x.tolist() for x in found]


def one_by_one(d: Devices, kinds: list[int], strategy: int, available: int, sharing: int, order: int) -> list[tuple[int, int]]:
    """The slow twin of ``place_shared_run``."""
    found: list[tuple[int, int]] = []
    out = np.zeros(3, np.int64)
    for kind in kinds:
        request, part = d.request[kind], PARTS[kind]
        n = place_shared(
            d.idle, d.releasing, d.allocatable, d.candidates, d.allowed[kind], d.room, d.extra, d.devices, d.rank, d.memory,
            d.used, d.leaving, d.held, d.known, request, part, 0, 1, strategy, available, sharing, order, 3, 0, out,
        )  # fmt: skip
        if n < 0 or out[0]:
            break
        slot = int(out[2])
        if slot < 0:
            if d.opened[n] >= SLOTS:
                break
            slot = int(d.opened[n])
            d.opened[n] += 1
        charge_slowly(d.idle, d.releasing, d.allocatable, request, np.array([0, 1, 3]), n, 0, 1.0)
        d.charge(n, slot, int(out[1]))
        found.append((n, slot))
    return found


FLAG = st.integers(0, 1)
KINDS = st.lists(st.integers(0, len(PARTS) - 1), max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2),
    FLAG,
    FLAG,
    st.integers(0, 2),
    st.lists(st.integers(0, len(PARTS) - 1), max_size=60),
)
def test_a_run_is_as_one_by_one(seed: int, strategy: int, available: int, sharing: int, order: int, kinds: list[int]) -> None:
    fast, slow = Devices(seed), Devices(seed)
    count = len(kinds)
    out, slots, fresh = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.uint8)
    done = place_shared_run(
        fast.idle, fast.releasing, fast.allocatable, fast.candidates, fast.allowed, fast.room, fast.extra, fast.devices,
        fast.rank, fast.memory, fast.used, fast.leaving, fast.held, fast.marked, fast.known, fast.whole, fast.opened,
        fast.request, np.array(PARTS), strategy, available, sharing, order, 3, np.array(kinds, np.int64), out, slots, fresh,
    )  # fmt: skip
    found = list(zip(out[:done].tolist(), slots[:done].tolist(), strict=True))
    assert found == one_by_one(slow, kinds, strategy, available, sharing, order)
    assert fast.arrays() == slow.arrays()


JOB = st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([0.25, 0.3, 0.5, 1.0, 2.0]), st.integers(1, 2))


def _cycles(jobs: list[tuple[str, float, int]], gpus: list[int]) -> list[str]:
    c = world(
        queue("a", gpu=2), queue("b", gpu=1, limit=2), queue("c", gpu=1), *(node(f"n{i}", gpus=g) for i, g in enumerate(gpus))
    )
    for i, (q, each, pods) in enumerate(jobs):
        for record in work(f"j{i}", q, pods=pods, gpus=each, created=i // 2):
            c.apply(record)
    found: list[CycleResult] = [cycle(c, now=10_000.0 + i) for i in range(2)]
    c.check()
    return [digest(r) for r in found]


@settings(max_examples=80, deadline=None)
@given(st.lists(JOB, min_size=1, max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_runs_decide_as_one_job_at_a_time(jobs: list[tuple[str, float, int]], gpus: list[int]) -> None:
    fast = _cycles(jobs, gpus)
    with patch.object(Singles, "take", lambda self, order, job: job):
        assert fast == _cycles(jobs, gpus)
