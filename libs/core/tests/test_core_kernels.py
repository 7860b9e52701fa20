"""Each kernel against its slow twin."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_core.kernels.charge import charge, charge_slowly
from shoal_core.kernels.domains import (
    order_domains,
    order_domains_slowly,
    renew_domains,
    renew_domains_slowly,
    sum_domains,
    sum_domains_slowly,
)
from shoal_core.kernels.place import count_short, count_short_slowly, place_run, place_run_slowly
from shoal_core.kernels.shared import charge_slot, place_shared, place_shared_slowly

SMALL = st.integers(0, 6)
RESOURCES = 4


class Situation:
    """A few nodes with some of their room in use."""

    def __init__(self, draw: st.DrawFn) -> None:
        nodes = draw(st.integers(1, 7))

        def table(values: st.SearchStrategy[int]) -> np.ndarray:
            return np.array([[float(draw(values)) for _ in range(nodes)] for _ in range(RESOURCES)])

        def flags() -> np.ndarray:
            return np.array(draw(st.lists(st.integers(0, 1), min_size=nodes, max_size=nodes)), np.uint8)

        self.allocatable = table(SMALL)
        self.idle = self.allocatable - table(st.integers(0, 3))
        self.releasing = table(st.integers(-1, 2))
        self.candidates, self.allowed, self.preferred = flags(), flags(), flags()
        self.room = np.array([draw(st.integers(-1, 3)) for _ in range(nodes)], np.int64)
        self.extra = np.array([float(draw(st.sampled_from([0, 0, 1000, 100000]))) for _ in range(nodes)])
        self.devices = np.array([float(draw(SMALL)) for _ in range(nodes)])
        self.rank = np.array(draw(st.permutations(range(nodes))), np.int64)
        self.request = np.array([float(draw(st.integers(0, 3))) for _ in range(RESOURCES)])
        self.rows = np.flatnonzero(self.request).astype(np.int64)
        self.nodes = nodes


situations = st.composite(Situation)()
FLAG = st.integers(0, 1)


@settings(max_examples=500, deadline=None)
@given(situations, st.sampled_from([0, 2]), st.integers(0, 2), FLAG, FLAG, FLAG, st.integers(0, 9))
def test_place_run(s: Situation, by: int, strategy: int, available: int, sharing: int, later: int, count: int) -> None:
    found = []
    for kernel in (place_run, place_run_slowly):
        idle, releasing = s.idle.copy(), s.releasing.copy()
        out, waits = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
        done = kernel(
            idle, releasing, s.allocatable, s.candidates, s.allowed, s.preferred, s.room, s.extra, s.devices, s.rank,
            s.request, s.rows, by, strategy, available, sharing, later, 1, count, out, waits,
        )  # fmt: skip
        found.append((done, out[:done].tolist(), waits[:done].tolist(), idle.tolist(), releasing.tolist()))
    assert found[0] == found[1]


@given(situations, st.integers(0, 2))
def test_charging_is_undone_exactly(s: Situation, how: int) -> None:
    for n in range(s.nodes):
        fast, slow = (s.idle.copy(), s.releasing.copy()), (s.idle.copy(), s.releasing.copy())
        charge(*fast, s.allocatable, s.request, s.rows, n, how, 1.0)
        charge_slowly(*slow, s.allocatable, s.request, s.rows, n, how, 1.0)
        assert [x.tolist() for x in fast] == [x.tolist() for x in slow]
        charge(*fast, s.allocatable, s.request, s.rows, n, how, -1.0)
        assert [x.tolist() for x in fast] == [s.idle.tolist(), s.releasing.tolist()]


@given(situations)
def test_count_short(s: Situation) -> None:
    fast, slow = np.zeros(s.rows.shape[0], np.int64), np.zeros(s.rows.shape[0], np.int64)
    count_short(s.idle, s.allowed, s.request, s.rows, fast)
    count_short_slowly(s.idle, s.allowed, s.request, s.rows, slow)
    np.testing.assert_array_equal(fast, slow)


@given(situations, FLAG, st.integers(1, 4), st.data())
def test_sum_domains(s: Situation, count: int, tasks: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    parent = np.array([-1] + [data.draw(st.integers(0, d - 1)) for d in range(1, size)], np.int64)
    leaf = np.array([data.draw(st.integers(-1, size - 1)) for _ in range(s.nodes)], np.int64)
    inside = np.ones(size, np.uint8)
    shared = np.array([data.draw(st.sampled_from([0.0, 0.5])) for _ in range(s.nodes)])
    found = []
    for kernel in (sum_domains, sum_domains_slowly):
        free, pods = np.zeros((RESOURCES, size)), np.zeros(size, np.int64)
        kernel(s.idle, s.releasing, inside, leaf, parent, s.request, shared, count, tasks, free, pods)
        found.append((free.tolist(), pods.tolist()))
    assert found[0] == found[1]


@settings(max_examples=300, deadline=None)
@given(situations, FLAG, st.integers(1, 3), st.integers(1, 4), st.data())
def test_domains_are_kept_up_to_date(s: Situation, count: int, above: int, below: int, data: st.DataObject) -> None:
    """Sums and orders after some nodes changed are the same as if made anew."""
    size = 1 + above + below
    parent = np.array([-1] + [0] * above + sorted(data.draw(st.integers(1, above)) for _ in range(below)), np.int64)
    leaf = np.array([data.draw(st.sampled_from([-1, *range(1 + above, size)])) for _ in range(s.nodes)], np.int64)
    bounds, rank = np.array([1, 1 + above, size], np.int64), np.array(data.draw(st.permutations(range(size))), np.int64)
    starts = np.cumsum([0, *((leaf == d).sum() for d in range(1 + above, size))]).astype(np.int64)
    members = np.array([n for d in range(1 + above, size) for n in np.flatnonzero(leaf == d)], np.int64)
    s.request[2] = max(1.0, s.request[2])
    free, pods = np.zeros((RESOURCES, size)), np.zeros(size, np.int64)
    none, inside = np.zeros(s.nodes), np.ones(size, np.uint8)
    sum_domains(s.idle, s.releasing, inside, leaf, parent, s.request, none, count, 1, free, pods)
    order = np.arange(size)
    for _ in range(2):
        changed = np.array(data.draw(st.lists(st.integers(0, s.nodes - 1), max_size=3)), np.int64)
        for n in changed:
            s.idle[data.draw(st.integers(0, RESOURCES - 1)), n] -= data.draw(st.integers(-2, 2))
        found = []
        total = s.request * 2
        for renew, sort in ((renew_domains, order_domains), (renew_domains_slowly, order_domains_slowly)):
            mine, fit, way = free.copy(), pods.copy(), order.copy()
            ratio, place = np.zeros(size), np.zeros(size, np.int64)
            renew(s.idle, s.releasing, leaf, parent, s.request, count, changed, starts, members, 1 + above, mine, fit)
            sort(mine, total, parent, rank, bounds, way, ratio, place)
            found.append([x.tolist() for x in (mine, fit, way, ratio, place)])
        assert found[0] == found[1]
        free, pods, order = np.array(found[0][0]), np.array(found[0][1]), np.array(found[0][2])


@settings(max_examples=500, deadline=None)
@given(situations, st.integers(0, 2), FLAG, FLAG, st.integers(0, 2), st.sampled_from([-1, 3]), FLAG, st.data())
def test_place_shared(
    s: Situation, strategy: int, available: int, sharing: int, order: int, pods_row: int, later: int, data: st.DataObject
) -> None:
    memory = np.array([data.draw(st.sampled_from([0, 100, 400])) for _ in range(s.nodes)], np.int64)
    used, leaving, held = (np.zeros((s.nodes, 3), np.int64) for _ in range(3))
    known, marked = np.zeros((s.nodes, 3), np.uint8), np.zeros((s.nodes, 3), np.uint8)
    whole, room = np.zeros(s.nodes), np.full(s.nodes, -1, np.int64)
    parts = st.tuples(st.integers(0, s.nodes - 1), st.integers(0, 2), st.sampled_from([25, 50, 75]), st.integers(0, 2))
    for n, slot, part, how in data.draw(st.lists(parts, max_size=8)):
        if used[n, slot] + part <= memory[n]:
            charge_slot(
                s.idle, s.releasing, whole, s.devices, memory, used, leaving, held, marked, known, room, n, slot, part, how, 1
            )
    asked, wanted = data.draw(st.sampled_from([0, 0, 50, 120])), data.draw(st.integers(1, 3))
    found = []
    for kernel in (place_shared, place_shared_slowly):
        out = np.full(2 + wanted, -9, np.int64)
        best = kernel(
            s.idle, s.releasing, s.allocatable, s.candidates, s.allowed, room, s.extra, s.devices, s.rank, memory, used,
            leaving, held, known, s.request, 0.5, asked, wanted, strategy, available, sharing, order, pods_row, later, out,
        )  # fmt: skip
        found.append((best, out.tolist() if best >= 0 else None))
    assert found[0] == found[1]


class Shared:
    """A node with two GPUs of 100 MiB, as slots."""

    def __init__(self) -> None:
        self.idle, self.releasing = np.zeros((RESOURCES, 1)), np.zeros((RESOURCES, 1))
        self.idle[2, 0] = 2.0
        self.allocatable = np.full((RESOURCES, 1), 2.0)
        self.whole, self.devices = np.zeros(1), np.full(1, 2.0)
        self.memory, self.room = np.full(1, 100, np.int64), np.full(1, -1, np.int64)
        self.used, self.leaving, self.held = (np.zeros((1, 4), np.int64) for _ in range(3))
        self.marked, self.known = np.zeros((1, 4), np.uint8), np.zeros((1, 4), np.uint8)

    def charge(self, slot: int, memory: int, how: int, sign: int = 1) -> list[float]:
        """[idle, releasing, used, leaving, held] afterwards."""
        charge_slot(
            self.idle, self.releasing, self.whole, self.devices, self.memory, self.used, self.leaving, self.held, self.marked,
            self.known, self.room, 0, slot, memory, how, sign,
        )  # fmt: skip
        u, r, a = (int(x[0, slot]) for x in (self.used, self.leaving, self.held))
        return [float(self.idle[2, 0]), float(self.releasing[2, 0]), u, r, a]


def test_a_shared_device_turns_from_idle_to_shared_and_back() -> None:
    node = Shared()
    assert node.charge(0, 40, 0) == [1, 0, 40, 0, 40]
    assert node.charge(0, 40, 0) == [1, 0, 80, 0, 80]
    node.charge(0, 40, 0, -1)
    assert node.charge(0, 40, 1) == [1, 0, 80, 40, 80]
    node.charge(0, 40, 0, -1)
    assert node.charge(0, 40, 1) == [1, 1, 80, 80, 80]
    assert node.room[0] == -1
    node.charge(0, 40, 1, -1)
    assert node.charge(0, 40, 1, -1) == [2, 0, 0, 0, 0]


def test_a_place_on_what_is_released_takes_the_released_device() -> None:
    node = Shared()
    node.charge(0, 50, 1)
    assert [float(node.idle[2, 0]), float(node.releasing[2, 0])] == [1, 1]
    assert node.charge(0, 50, 2) == [1, 0, 100, 0, 50]


def test_a_part_that_leaves_a_device_takes_no_idle_one() -> None:
    node = Shared()
    node.whole[0] = 1
    node.charge(0, 50, 2)
    assert node.charge(0, 50, 2)[:2] == [2, -1]
    node.charge(0, 50, 2, -1)
    assert node.charge(0, 50, 1)[:2] == [2, -1]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([25, 40, 50])), max_size=6))
def test_what_is_charged_to_slots_and_taken_off_leaves_no_trace(steps: list[tuple[int, int]]) -> None:
    node = Shared()
    for slot, memory in steps:
        node.charge(slot % 2, memory, 0)
    for slot, memory in reversed(steps):
        node.charge(slot % 2, memory, 0, -1)
    assert float(node.idle[2, 0]) == 2.0
    assert not node.used.any()
    assert not node.held.any()


def test_place_shared_joins_the_fullest_device_that_has_room() -> None:
    node, out = Shared(), np.zeros(3, np.int64)
    node.charge(0, 30, 0)
    node.charge(1, 60, 0)
    ones = np.ones(1, np.uint8)
    request = np.array([1.0, 1.0, 0.4, 1.0])
    node.idle[[0, 1, 3], 0] = 9.0

    def place(order: int) -> list[int]:
        found = place_shared(
            node.idle, node.releasing, node.allocatable, ones, ones, node.room, np.zeros(1), node.devices,
            np.zeros(1, np.int64), node.memory, node.used, node.leaving, node.held, node.known, request, 0.4, 0, 1, 0, 1, 1,
            order, 3, 0, out,
        )  # fmt: skip
        return [int(found), *out.tolist()]

    assert place(0) == [0, 0, 40, 1]
    assert place(1) == [0, 0, 40, 0]
    node.charge(1, 40, 0)
    assert place(0) == [0, 0, 40, 0]
    node.charge(0, 40, 0)
    assert place(0)[0] == -1
