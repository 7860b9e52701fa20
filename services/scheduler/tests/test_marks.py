"""Annotations of pod groups: the newest wins, also where an older write fails late."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from shoal_core import CycleResult
from shoal_core.results import Staleness
from shoal_kube import KubeError
from shoal_model import labels
from shoal_scheduler import marks
from shoal_scheduler.marks import Marks


async def test_a_write_that_fails_late_does_not_bring_an_older_mark_back(monkeypatch: Any) -> None:
    monkeypatch.setattr(marks, "PAUSE", 0.02)
    written: list[str | None] = []
    go_on = asyncio.Event()

    async def patch(path: str, body: Any) -> bytes:
        written.append(body["metadata"]["annotations"][labels.STALE_SINCE])
        if len(written) == 1:
            await go_on.wait()
            raise KubeError(0, "Unreachable", "no answer")
        return b""

    log = SimpleNamespace(info=lambda *_, **__: None)
    context: Any = SimpleNamespace(clock=SimpleNamespace(now=lambda: 0.0), log=log)
    found = Marks(context, SimpleNamespace(merge_patch=patch), SimpleNamespace(event=lambda *_: None))  # type: ignore[arg-type]
    task = asyncio.create_task(found.run())
    for since in (1.0, 0.0):
        result = CycleResult()
        result.stale.append(Staleness("ns", "g", since))
        found.cycle(result)
        await asyncio.sleep(0.06)
    go_on.set()
    await asyncio.sleep(0.1)
    assert not task.done()
    assert written == ["1970-01-01T00:00:01Z", None]
    task.cancel()
