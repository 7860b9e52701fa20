"""Reasons are told once they have lasted, and again only when they are others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from shoal_contracts.state import GroupRecord
from shoal_core import Waiting
from shoal_scheduler.reporter import NUMBERS_AFTER, WRITERS, Reporter

KEY = ("ns", "g")


def waiting(code: str = "Unschedulable", message: str = "no room") -> Waiting:
    return Waiting(namespace="ns", group="g", queue="q", code=code, message=message, pods=["u"])


class Clock:
    at = 0.0

    def monotonic(self) -> float:
        return self.at


def reporter() -> tuple[Reporter, Clock]:
    clock = Clock()
    context: Any = SimpleNamespace(clock=clock)
    return Reporter(context, None, None, settle=2.0, node_pool=""), clock  # type: ignore[arg-type]


def write(of: Reporter, now: float) -> None:
    told = of._told[KEY]
    told.written, told.written_at = (told.waiting.code, told.waiting.message), now


def test_a_reason_that_does_not_last_is_not_written() -> None:
    found, _ = reporter()
    found.cycle([waiting()], set())
    assert found.due(1.9) == []
    assert found.due(2.0) == [KEY]
    found.cycle([], {KEY})
    assert found.due(9.0) == []


def test_a_written_reason_is_not_written_again() -> None:
    found, _ = reporter()
    found.cycle([waiting()], set())
    write(found, 2.0)
    found.cycle([waiting()], set())
    assert found.due(1000.0) == []


def test_other_numbers_are_written_after_a_while_and_another_reason_once_it_lasts() -> None:
    found, clock = reporter()
    found.cycle([waiting()], set())
    write(found, 2.0)
    found.cycle([waiting(message="room for 3")], set())
    assert found.due(2.0 + NUMBERS_AFTER) == []
    assert found.due(2.1 + NUMBERS_AFTER) == [KEY]
    clock.at = 10.0
    found.cycle([waiting(code="OverLimit")], set())
    assert found.due(11.0) == []
    assert found.due(12.0) == [KEY]


def test_a_group_that_is_gone_is_forgotten() -> None:
    found, _ = reporter()
    found.cycle([waiting()], set())
    found.forget(KEY)
    assert found.due(9.0) == []


async def test_a_group_that_starts_while_others_are_written_is_not_told() -> None:
    written: list[str] = []
    slow = asyncio.Event()

    async def patch(path: str, body: Any) -> bytes:
        written.append(path)
        await slow.wait()
        return b""

    clock = Clock()
    clock.now = lambda: 0.0  # type: ignore[attr-defined]
    context: Any = SimpleNamespace(clock=clock)
    kube: Any = SimpleNamespace(merge_patch=patch)
    found = Reporter(context, kube, SimpleNamespace(event=lambda *_: None), settle=2.0, node_pool="")  # type: ignore[arg-type]
    reasons = [Waiting(namespace="ns", group=f"g{i}", queue="q", code="C", message="m", pods=[]) for i in range(3 * WRITERS)]
    for reason in reasons:
        found.groups["ns", reason.group] = GroupRecord(namespace="ns", name=reason.group, uid=reason.group)
    found.cycle(reasons, set())
    clock.at = 3.0
    task = asyncio.create_task(found.run())
    await asyncio.sleep(0.1)
    assert len(written) == WRITERS
    found.cycle([], {("ns", reason.group) for reason in reasons})
    slow.set()
    await asyncio.sleep(0.1)
    assert not task.done()
    assert len(written) == WRITERS
    task.cancel()
