"""What is done again, and what is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shoal_bus import NotAllowed, Unavailable, Unknown
from shoal_kube import Invalid, Throttled, Unreachable
from shoal_service.main import Context


class Log:
    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []

    def warning(self, text: str, **_: Any) -> None:
        pass

    def error(self, text: str, **more: Any) -> None:
        self.errors.append(more)


def context() -> tuple[Context[Any], Log]:
    log = Log()
    return Context("s", None, None, None, log, None, None, "i"), log  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [Unavailable("x"), Unknown("x"), Unreachable(0, "", ""), Unreachable(503, "", ""), Throttled(429, "", ""), TimeoutError(),
     ConnectionResetError()],
)  # fmt: skip
async def test_what_can_pass_is_done_again(error: Exception) -> None:
    failures = [error, error]

    async def work() -> None:
        if failures:
            raise failures.pop()

    given, log = context()
    await given.retry("here", work, wait=0.0)
    assert (failures, log.errors) == ([], [])


class Deposed(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [Deposed("by another"), TypeError("a mistake"), KeyError("k"), AssertionError(), NotAllowed("no"), Invalid(422, "", "")],
)
async def test_what_no_repetition_mends_is_raised_and_logged_with_its_place(error: Exception) -> None:
    async def work() -> None:
        raise error

    given, log = context()
    with pytest.raises(type(error)):
        await asyncio.wait_for(given.retry("here", work, wait=0.0), 10)
    assert [(e["place"], e["exc_info"]) for e in log.errors] == [("here", error)]


async def test_an_end_from_outside_is_no_failure() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    given, log = context()
    with pytest.raises(asyncio.CancelledError):
        await given.retry("here", work)
    assert log.errors == []
