"""Events: written once, repeats counted, and never more remembered than fits."""

from __future__ import annotations

import asyncio
from typing import Any

from shoal_kube.recorder import QUIET, REMEMBERED, Recorder, Ref

POD = Ref("v1", "Pod", "ns", "p", "u")


class Clock:
    at = 0.0

    def now(self) -> float:
        return 1_700_000_000 + self.at

    def monotonic(self) -> float:
        return self.at


class Api:
    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.patched: list[tuple[str, dict[str, Any]]] = []

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        self.made.append(body)
        return b""

    async def merge_patch(self, path: str, patch: dict[str, Any]) -> bytes:
        self.patched.append((path, patch))
        return b""


async def written(recorder: Recorder) -> None:
    """Until nothing is queued any more."""
    task = asyncio.create_task(recorder.run())
    while recorder._queue.qsize():
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_repeats_are_counted_on_the_event_that_was_written() -> None:
    clock, api = Clock(), Api()
    recorder = Recorder(api, "test", clock)  # type: ignore[arg-type]
    for at in (0.0, 5.0, 65.0):
        clock.at = at
        recorder.event(POD, "Warning", "Bad", "it is odd")
    clock.at = 70.0
    recorder.event(Ref("v1", "Pod", "ns", "other", "v"), "Warning", "Bad", "it is odd")
    await written(recorder)
    assert [(b["involvedObject"]["name"], b["count"]) for b in api.made] == [("p", 1), ("other", 1)]
    assert api.patched == []
    clock.at = QUIET
    recorder.event(POD, "Warning", "Bad", "it is odd")
    await written(recorder)
    (path, patch) = api.patched[0]
    assert path.endswith(api.made[0]["metadata"]["name"])
    assert patch == {"count": 3, "lastTimestamp": "2023-11-14T22:14:25Z"}
    assert len(api.made) == 3, "after ten minutes it is written again"
    assert len({b["metadata"]["name"] for b in api.made}) == 3


async def test_events_of_objects_without_uid_are_of_their_own_object() -> None:
    api = Api()
    recorder = Recorder(api, "test", Clock())  # type: ignore[arg-type]
    for name in "ab":
        recorder.event(Ref("v1", "Pod", "ns", name, ""), "Normal", "Evict", "for another")
    await written(recorder)
    assert [b["involvedObject"]["name"] for b in api.made] == ["a", "b"]


async def test_what_is_remembered_is_bounded_whatever_comes() -> None:
    clock = Clock()
    recorder = Recorder(Api(), "test", clock)  # type: ignore[arg-type]
    for number in range(REMEMBERED + 5_000):
        recorder.event(Ref("v1", "Pod", "ns", f"p{number}", f"u{number}"), "Normal", "R", "m")
        assert len(recorder._said) <= REMEMBERED
    assert recorder._said.keys() == recorder._events.keys()
    assert recorder.dropped > 0
    clock.at = QUIET
    recorder._forget(REMEMBERED)
    assert not recorder._said
    assert not recorder._events
