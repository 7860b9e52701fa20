"""Writers of status beside news: what goes while a write is under way, and what changes meanwhile."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_contracts.state import GroupRecord, PodRecord, PriorityClassRecord, QueueRecord
from shoal_queue_controller.app import GRACE, Config, Service
from shoal_testkit.waiting import until

GROUP = ("ns", "g")


class Slow:
    """An API that answers when it may."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.go_on = asyncio.Event()

    async def merge_patch(self, path: str, body: Any) -> bytes:
        self.written.append((path.rpartition("/status")[0].rpartition("/")[2], body))
        await self.go_on.wait()
        return b""


def service(kube: Slow) -> tuple[Service, Any]:
    clock = SimpleNamespace(at=100.0)
    clock.monotonic = clock.now = lambda: clock.at
    config = Config(settle=0.0, every=0.0)
    log = SimpleNamespace(info=lambda *_, **__: None)
    found = Service(SimpleNamespace(config=config, clock=clock, log=log), kube, SimpleNamespace(event=lambda *_: None))  # type: ignore[arg-type]
    found._current.set()
    return found, clock


def pod(name: str) -> PodRecord:
    return PodRecord(
        namespace="ns",
        name=name,
        uid=name,
        scheduler_name="kai-scheduler",
        group="g",
        requests={"cpu": 1000.0},
        phase="Pending",
    )


async def test_a_queue_that_goes_while_another_is_written_does_not_end_the_service() -> None:
    kube = Slow()
    found, _ = service(kube)
    for name in ("a", "b", "c"):
        found._queues[name] = QueueRecord(name=name)
    task = asyncio.create_task(found.write_queues())
    await asyncio.sleep(0.05)
    (first, _), *_ = kube.written
    found._gone("queue", ("b" if first != "b" else "c",))
    kube.go_on.set()
    await asyncio.sleep(0.05)
    assert not task.done()
    assert len({name for name, _ in kube.written}) == 2
    task.cancel()


async def test_a_group_is_written_once_at_a_time_and_ends_with_what_is_newest() -> None:
    kube = Slow()
    found, clock = service(kube)
    found._group(GroupRecord(namespace="ns", name="g", uid="g", queue="q"))
    found._pod(pod("one"))
    task = asyncio.create_task(found.write_groups())
    await asyncio.sleep(0.05)
    assert len(kube.written) == 1
    found._pod(pod("two"))
    clock.at += 1.0
    await asyncio.sleep(0.6)
    assert len(kube.written) == 1
    kube.go_on.set()
    await asyncio.sleep(0.6)
    assert [body["status"]["resourcesStatus"]["requested"] for _, body in kube.written] == [{"cpu": "1"}, {"cpu": "2"}]
    assert not task.done()
    task.cancel()


async def test_pods_that_outlive_their_group_leave_nothing_behind() -> None:
    found, _ = service(Slow())
    found._group(GroupRecord(namespace="ns", name="g", uid="g", queue="q"))
    found._pod(pod("one"))
    found._gone("group", GROUP)
    found._gone("pod", ("ns", "one"))
    assert found._changed == {}


class Events:
    """Notes the events."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []

    def event(self, about: Any, kind: str, reason: str, text: str) -> None:
        self.found.append((about.name, reason, text))


def quick() -> tuple[Service, Any, Slow, Events]:
    kube, events = Slow(), Events()
    kube.go_on.set()
    found, clock = service(kube)
    found._recorder = events  # type: ignore[assignment]
    return found, clock, kube, events


async def written(found: Service, clock: Any) -> None:
    """Let it write what is due."""
    clock.at += 1.0
    tasks = [asyncio.create_task(found.write_groups()), asyncio.create_task(found.write_queues())]
    await until(lambda: _is(not (found._changed or found._writing)), "groups are written")
    await asyncio.sleep(0.05)
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.wait(tasks)


async def _is(found: bool) -> bool:
    return found


async def test_a_group_made_again_under_its_name_gets_its_status() -> None:
    found, clock, kube, _ = quick()
    group = GroupRecord(namespace="ns", name="g", uid="one", queue="q")
    found._group(group)
    found._pod(pod("p"))
    await written(found, clock)
    found._group(msgspec.structs.replace(group, uid="two"))
    await written(found, clock)
    assert [name for name, _ in kube.written] == ["g", "g"]
    assert found._written.keys() == {("ns", "g", "two")}


async def test_pods_that_outlive_their_group_count_again_when_it_is_made_anew() -> None:
    found, *_ = quick()
    found._queues["q"] = QueueRecord(name="q", uid="q")
    group = GroupRecord(namespace="ns", name="g", uid="one", queue="q")
    found._group(group)
    found._pod(pod("p"))
    found._gone("group", GROUP)
    assert found._direct == {}
    found._group(msgspec.structs.replace(group, uid="two"))
    assert found._direct["q"].requested == {"cpu": 1000.0}
    found._gone("pod", ("ns", "p"))
    assert (found._direct, found._pods) == ({}, {})


async def test_a_queue_made_again_under_its_name_gets_its_status() -> None:
    found, clock, kube, _ = quick()
    found._queue(QueueRecord(name="q", uid="one"))
    await written(found, clock)
    found._queue(QueueRecord(name="q", uid="two"))
    await written(found, clock)
    assert [name for name, _ in kube.written] == ["q", "q"]
    assert found._written_queues.keys() == {("", "q", "two")}


@pytest.mark.parametrize("what", ["goes", "comes", "changes", "default goes"])
def test_a_priority_class_touches_the_groups_that_it_counts_for(what: str) -> None:
    found, _, _, _ = quick()
    high = PriorityClassRecord(name="high", value=1000, global_default=what == "default goes")
    if what != "comes":
        found._class("high", high)
    name = "nowhere" if what == "default goes" else "high"
    found._group(GroupRecord(namespace="ns", name="g", uid="g", queue="q", priority_class=name))
    found._group(GroupRecord(namespace="ns", name="other", uid="o", queue="q", priority_class="low"))
    found._classes["low"] = PriorityClassRecord(name="low", value=1)
    running = msgspec.structs.replace(pod("p"), node="n")
    found._pod(running)
    fixed = {"cpu": 1000.0}
    assert found._usage[GROUP][1].fixed == ({} if what == "comes" else fixed)
    found._changed.clear()
    match what:
        case "goes" | "default goes":
            found._gone("priorityclass", ("high",))
        case "comes":
            found._class("high", high)
        case _:
            found._class("high", msgspec.structs.replace(high, value=50))
    assert found._changed.keys() == {GROUP}
    assert found._usage[GROUP][1].fixed == (fixed if what == "comes" else {})
    found._changed.clear()
    found._class("high", found._classes.get("high"))
    assert not found._changed, "the same once more is no news"


async def test_a_missing_parent_is_told_once_and_only_when_it_does_not_come() -> None:
    found, clock, kube, events = quick()
    found._queue(QueueRecord(name="q", uid="q", parent="p"))
    await written(found, clock)
    assert events.found == []
    clock.at += GRACE
    for _ in range(3):
        await written(found, clock)
        found._queues_changed = True
    assert [(name, reason) for name, reason, _ in events.found] == [("q", "InvalidQueue")]
    assert kube.written[-1][1]["status"]["conditions"][0]["status"] == "True"
    found._queue(QueueRecord(name="p", uid="p"))
    await written(found, clock)
    of_queue = [body["status"] for name, body in kube.written if name == "q"]
    assert of_queue[-1]["conditions"][0]["status"] == "False"
    assert of_queue[0]["conditions"] is None, "what a leader before has written does not stay"


async def test_a_parent_that_comes_in_the_same_apply_is_never_missed() -> None:
    found, clock, kube, events = quick()
    found._queue(QueueRecord(name="q", uid="q", parent="p"))
    await written(found, clock)
    found._queue(QueueRecord(name="p", uid="p"))
    clock.at += GRACE
    await written(found, clock)
    assert events.found == []
    assert not any(body["status"].get("conditions") for _, body in kube.written)


async def test_a_priority_class_that_does_not_exist_is_told_once() -> None:
    found, clock, _, events = quick()
    found._queue(QueueRecord(name="q", uid="q"))
    found._group(GroupRecord(namespace="ns", name="g", uid="g", queue="q", priority_class="superhigh"))
    for _ in range(3):
        found._touch(GROUP)
        await written(found, clock)
    ((name, reason, text),) = events.found
    assert (name, reason) == ("g", "PriorityClassNotFound")
    assert "priority class 'superhigh' does not exist: the group has priority 50 and is preemptible" in text


async def test_running_work_of_a_queue_that_goes_is_told() -> None:
    found, clock, _, events = quick()
    found._queue(QueueRecord(name="q", uid="q"))
    found._group(GroupRecord(namespace="ns", name="g", uid="g", queue="q"))
    found._pod(msgspec.structs.replace(pod("p"), node="n"))
    await written(found, clock)
    assert events.found == []
    found._gone("queue", ("q",))
    await written(found, clock)
    assert [(name, reason) for name, reason, _ in events.found] == [("g", "QueueDoesNotExist")]
