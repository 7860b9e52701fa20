"""Waiting for what a test expects to see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(look: Callable[[], Awaitable[Any]], what: str, limit: float = 40.0) -> Any:
    """Look until it gives something, and give that. Raises AssertionError with what was waited for after ``limit`` seconds."""
    try:
        async with asyncio.timeout(limit):
            while not (found := await look()):
                await asyncio.sleep(0.2)
            return found
    except TimeoutError as error:
        raise AssertionError(f"not seen in {limit:.0f} s: {what}") from error
