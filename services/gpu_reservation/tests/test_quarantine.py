"""After the stream of decisions was made anew, nothing is taken for unused for a while, whatever this machine's clock says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shoal_bus import Unavailable
from shoal_gpu_reservation.app import Service


def service(age: float | None) -> Service:
    async def told(_: str) -> float:
        if age is None:
            raise Unavailable("no answer")
        return age

    found = Service.__new__(Service)
    found._context = SimpleNamespace(bus=SimpleNamespace(age=told), clock=None)  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(("age", "left"), [(0.5, 19.5), (19.0, 1.0), (500.0, 0.0), (None, 20.0)])
async def test_how_long_is_left(age: Any, left: float) -> None:
    assert await service(age)._unsure(20.0) == left
