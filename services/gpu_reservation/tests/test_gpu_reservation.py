"""gpu-reservation does not pretend: it stays, holds nothing, and says that sharing is to come."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shoal_gpu_reservation.app import NAME, Config, start
from shoal_service.config import BadConfig, load


async def test_it_stays_and_says_what_is_not_there_yet() -> None:
    said: list[str] = []
    context: Any = SimpleNamespace(log=SimpleNamespace(info=said.append))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await start(context)
    assert len(said) == 1
    assert "no sharing yet" in said[0]
    assert NAME == "gpu-reservation"


def test_a_setting_that_does_not_exist_is_named(tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("shares: 4\n")
    with pytest.raises(BadConfig, match="shares"):
        load(Config, str(file), {})
