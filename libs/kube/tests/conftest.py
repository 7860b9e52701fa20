"""Fixtures that the client's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal_testkit.scripted_api import Script, scripted_api


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[Script]:
    """An API server that answers by script."""
    async with scripted_api(tmp_path) as found:
        yield found
