"""Arithmetic over nodes: small pure functions on arrays, compiled, each with a slow twin that tests compare it with."""

from __future__ import annotations

import numpy as np

from shoal_core.kernels.charge import charge
from shoal_core.kernels.domains import order_domains, renew_domains, sum_domains
from shoal_core.kernels.place import count_short, place_run
from shoal_core.kernels.shared import charge_slot, place_shared, place_shared_run


def warm() -> None:
    """Load every kernel (from numba's cache, or by compiling): call it before the first cycle."""
    one, flags, row, line = np.ones((4, 1)), np.ones(1, np.uint8), np.zeros(1, np.int64), np.ones(1)
    slots, marks = np.zeros((1, 2), np.int64), np.zeros((1, 2), np.uint8)
    place_run(
        one.copy(), one.copy(), one, flags, flags, flags, row, line, line, row, np.ones(4), row, 0, 0, 1, 0, 0, 0, 1,
        row.copy(), row.copy(),
    )  # fmt: skip
    place_shared(
        one, one, one, flags, flags, row, line, line, row, row, slots, slots, slots, marks, np.ones(4), 0.5, 0, 1, 0, 1, 1,
        0, 3, 0, np.zeros(3, np.int64),
    )  # fmt: skip
    place_shared_run(
        one.copy(), one.copy(), one, flags, flags[None, :], row.copy(), line, line, row, row, slots.copy(), slots.copy(),
        slots.copy(), marks.copy(), marks.copy(), line, row.copy(), np.ones((1, 4)), line, 0, 1, 1, 0, 3, row, row.copy(),
        row.copy(), flags.copy(),
    )  # fmt: skip
    charge(one.copy(), one.copy(), one, np.ones(4), row, 0, 0, 1.0)
    charge_slot(one.copy(), one.copy(), line, line, row, slots, slots, slots, marks, marks, row, 0, 0, 1, 0, 1)
    count_short(one, flags, np.ones(4), row, row.copy())
    sum_domains(one, one, flags, row, np.array([-1]), np.ones(4), line, 1, 1, np.zeros((4, 1)), row.copy())
    renew_domains(one, one, row, np.array([-1]), np.ones(4), 1, row, np.array([0, 1]), row, 0, np.zeros((4, 1)), row.copy())
    order_domains(np.ones((4, 1)), np.ones(4), np.array([-1]), row, np.array([1]), row.copy(), line.copy(), row.copy())
