"""Writers of status beside news: what goes while a write is under way, and what changes meanwhile."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from shoal_contracts.state import GroupRecord, PodRecord, QueueRecord
from shoal_queue_controller.app import Config, Service

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
