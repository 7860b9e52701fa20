"""The work of pod-grouper beside its news: what goes while workers are waited for, what comes while one is busy."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from shoal_pod_grouper.app import Config, Service

KEYS = [("ns", f"p{i}") for i in range(4)]


class Slow(Service):
    """Looks at pods until it may go on."""

    def __init__(self, workers: int) -> None:
        clock = SimpleNamespace(monotonic=lambda: 1.0, now=lambda: 1.0)
        log = SimpleNamespace(error=lambda *_, **__: None, warning=lambda *_, **__: None)
        context: Any = SimpleNamespace(config=Config(workers=workers), clock=clock, log=log)
        super().__init__(context, None, None)  # type: ignore[arg-type]
        self.looked: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()
        self.wrong = False
        self._current.set()

    async def _look(self, key: tuple[str, str]) -> None:
        self.looked.append(key)
        await self.go_on.wait()
        if self.wrong:
            raise ValueError("an odd owner")


async def test_a_pod_that_goes_while_workers_are_busy_is_not_looked_at() -> None:
    found = Slow(workers=1)
    found._due = dict.fromkeys(KEYS, 0.0)
    task = asyncio.create_task(found.work())
    await asyncio.sleep(0.05)
    assert found.looked == KEYS[:1]
    for key in KEYS[1:3]:
        del found._due[key]
    found.go_on.set()
    await asyncio.sleep(0.05)
    assert not task.done()
    assert found.looked == [KEYS[0], KEYS[3]]
    task.cancel()


async def test_news_that_come_while_a_pod_is_looked_at_are_not_put_off() -> None:
    found = Slow(workers=1)
    found.wrong = True
    found._due[KEYS[0]] = 0.0
    task = asyncio.create_task(found.work())
    await asyncio.sleep(0.05)
    found._due[KEYS[0]] = 0.5
    found.go_on.set()
    await asyncio.sleep(0.05)
    assert not task.done(), "an odd pod does not end the service"
    assert len(found.looked) > 1
    task.cancel()
