"""Several pods on one GPU, end to end on a real API server and a real NATS; devices of KWOK nodes are simulated."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shoal_local import nodes
from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import shares, waiting, workload
from shoal_testkit.api import Api, gather_limited
from shoal_testkit.faults import persist
from shoal_testkit.history import History

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
QUEUES = "/apis/scheduling.run.ai/v2/queues"
MENDED = 30.0
"""Seconds within which everything must be in order again."""
FULL = 150.0
"""Seconds within which a burst is over, on a machine that is busy with all of it."""
NODES = range(900, 920)
POINTS = [
    "binder.before_reserve", "binder.after_reserve", "binder.after_config", "binder.after_labels", "binder.before_post",
    "binder.after_post", "binder.after_outcome", "gpu.before_create", "gpu.after_create", "gpu.before_renew",
    "gpu.before_delete", "gpu.after_delete",
]  # fmt: skip


@pytest.fixture(scope="module")
def sharing(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Two managers, four binders, and a file of failpoints."""
    folder: Path = tmp_path_factory.mktemp("sharing")
    running = Suite(
        folder, plane=plane, replicas={"gpu-reservation": 2, "binder": 4},
        environment={
            "SHOAL_FAILPOINTS_FILE": str(folder / "points"), "SHOAL_LEASE_SECONDS": "4", "SHOAL_RECOUNT": "2",
            "SHOAL_QUARANTINE": "6",
        },
    )  # fmt: skip
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
async def api(sharing: Suite) -> AsyncIterator[Api]:
    async with Api.connect(sharing.plane.kubeconfig) as connected:
        yield connected


@pytest.fixture
async def space(api: Api, sharing: Suite) -> AsyncIterator[str]:
    """A namespace with a queue of the same name, and 20 nodes of 8 GPUs labelled with it."""
    name = f"s-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    await api.post(QUEUES, workload.queue(name))
    for number in NODES:
        body = nodes.node(number, 8)
        body["metadata"]["labels"]["pool"] = name
        await api.post("/api/v1/nodes", body)
    yield name
    await api.delete(f"/api/v1/namespaces/{name}/pods")
    await in_order(api, 0, FULL)
    await api.delete(f"/api/v1/namespaces/{name}")
    await api.delete_queue(name)
    for number in NODES:
        await api.delete(f"/api/v1/nodes/node-{number:05d}")


until = partial(waiting.until, limit=MENDED)


def pods_path(space: str) -> str:
    return f"/api/v1/namespaces/{space}/pods"


def pod(name: str, space: str, **more: Any) -> dict[str, Any]:
    """A shared pod for the test's own nodes."""
    found = shares.admitted(shares.pod(name, space, queue=space, **more))
    found["spec"]["nodeSelector"] = {"pool": space}
    return found


async def behave(api: Api, number: int, how: str) -> None:
    """Say how the devices of a node behave."""
    await api.patch(f"/api/v1/nodes/node-{number:05d}", {"metadata": {"annotations": {"shoal.dev/simulated-gpus": how}}})


async def bound(api: Api, space: str) -> list[dict[str, Any]]:
    return [p for p in await api.items(pods_path(space)) if p["spec"].get("nodeName")]


async def all_bound(api: Api, space: str, count: int, limit: float = MENDED) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]] | None:
        found = await bound(api, space)
        return found if len(found) == count else None

    return await until(look, f"{count} bound pods", limit=limit)


async def in_order(api: Api, reservations: int | None = None, limit: float = MENDED) -> shares.Devices:
    """Wait until nothing is wrong and no reservation is left over; gives what the API shows then."""
    last: list[Any] = []

    async def look() -> shares.Devices | None:
        found = await shares.read(api)
        last[:] = [found.problems, found.unused(), len(found.device)]
        good = not found.problems and not found.unused()
        return found if good and (reservations is None or len(found.device) == reservations) else None

    try:
        return await until(look, "shared GPUs in order", limit=limit)
    except BaseException as error:
        error.add_note(f"last seen: {last}")
        raise


def drift(suite: Suite) -> list[float]:
    found = []
    for name in suite.services.names:
        if name.startswith("gpu-reservation"):
            text = suite.services.http(name, "/metrics")[1]
            found += [float(line.split()[1]) for line in text.splitlines() if line.startswith("shoal_gpu_drift ")]
    return found


def fits(devices: shares.Devices, names: list[str], wanted: float, count: int) -> bool:
    """Whether a pod of ``count`` times ``wanted`` finds room on a node, as the devices are used."""
    for node in names:
        used = [part for (where, _), part in devices.used.items() if where == node]
        free = [1.0 - part for part in used] + [1.0] * (8 - len(used))
        if sum(part >= wanted - 1e-9 for part in free) >= count:
            return True
    return False


async def burst(api: Api, space: str, count: int, seed: int = 1) -> None:
    rng = random.Random(seed)
    made = [
        pod(f"p{i:03d}", space, fraction=round(rng.uniform(0.25, 0.7), 2), devices=2 if rng.random() < 0.1 else 1)
        for i in range(count)
    ]
    await gather_limited([persist(api, pods_path(space), p) for p in made])


async def settled(api: Api, space: str) -> list[dict[str, Any]]:
    """Wait until no pod was bound for 5 s."""
    before, since = -1, 0.0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(120):
        while True:
            found = await bound(api, space)
            if len(found) != before:
                before, since = len(found), loop.time()
            elif loop.time() - since > 5.0:
                return found
            await asyncio.sleep(0.5)


async def check_full(api: Api, space: str, suite: Suite) -> None:
    """Everything that fits is bound, and all books agree."""
    names = [f"node-{n:05d}" for n in NODES]
    missed: list[str] = []

    async def full() -> tuple[list[dict[str, Any]], shares.Devices] | None:
        found = await settled(api, space)
        devices = await in_order(api)
        waiting = [p for p in await api.items(pods_path(space)) if not p["spec"].get("nodeName")]
        counts = [int(p["metadata"]["annotations"].get("gpu-fraction-num-devices", 1)) for p in waiting]
        missed[:] = [
            p["metadata"]["name"]
            for p, count in zip(waiting, counts, strict=True)
            if fits(devices, names, shares.portion(p), count)
        ]
        return None if missed or not found else (found, devices)

    try:
        found, devices = await until(full, "everything that fits bound", limit=FULL)
    except BaseException as error:
        error.add_note(f"these wait and would fit: {missed}")
        raise
    for one in found[::10]:
        node = one["spec"]["nodeName"]
        mine = {group: devices.device[node, group] for group in shares.groups_of(one)}
        assert sorted(await shares.told(api, one)) == sorted(mine.values())

    async def agrees() -> bool:
        return drift(suite) == [0.0, 0.0]

    await until(agrees, "a ledger that agrees with a recount")


async def test_a_burst_of_500_shares(api: Api, space: str, sharing: Suite) -> None:
    await burst(api, space, 500)
    await check_full(api, space, sharing)


async def test_parts_are_killed_and_added_in_the_middle_of_a_burst(api: Api, space: str, sharing: Suite) -> None:
    async def strike() -> None:
        async def some() -> bool:
            return len(await bound(api, space)) > 40

        await until(some, "a burst under way")
        sharing.services.signal("gpu-reservation-0", signal.SIGKILL)
        sharing.services.signal("binder-1", signal.SIGKILL)
        for name in ("gpu-reservation-2", "binder-4"):
            if name not in sharing.services.children:
                await asyncio.to_thread(sharing.services.spawn, name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(strike())
        tasks.create_task(burst(api, space, 300, seed=2))
    try:
        await check_full(api, space, sharing)
    finally:
        for name in ("gpu-reservation-2", "binder-4"):
            sharing.services.children[name].stop(5)
            del sharing.services.children[name]


@pytest.mark.parametrize("point", POINTS)
async def test_a_death_at_each_step_of_a_shared_binding(api: Api, space: str, sharing: Suite, point: str) -> None:
    points = sharing.folder / "points"
    points.write_text(f"{point} kill\n")
    fired = points.with_suffix(".fired")
    try:
        made = [pod(f"p{i}", space, fraction=0.5, devices=1 + (i % 4 == 0)) for i in range(8)]
        await gather_limited([api.post(pods_path(space), p) for p in made])
        await all_bound(api, space, 8)
        if "renew" in point:
            # A manager renews what another one gave out: after a change of owners, when somebody joins.
            sharing.services.signal("gpu-reservation-0", signal.SIGKILL)
            await gather_limited([api.post(pods_path(space), pod(f"q{i}", space, fraction=0.25)) for i in range(8)])
            await all_bound(api, space, 16)
        await in_order(api)
        await api.delete(pods_path(space))
        await in_order(api, 0)
        assert f"{point} kill" in fired.read_text()
    finally:
        points.write_text("")
    for name in sharing.services.names:
        await asyncio.to_thread(sharing.services.wait_ready, name)


@pytest.mark.parametrize("point", ["binder.after_reserve", "scheduler.before_go", "binder.before_go", "binder.after_post"])
async def test_a_death_in_the_middle_of_a_staged_gang(api: Api, space: str, sharing: Suite, point: str) -> None:
    points = sharing.folder / "points"
    points.write_text(f"{point} kill\n")
    history = History({f"node-{n:05d}": 8 for n in NODES})
    recorder = asyncio.create_task(history.follow(api, space))
    try:
        for name in ("one", "two"):
            group = workload.group(name, space, queue=space, members=4)
            await api.post(f"/apis/scheduling.run.ai/v2alpha2/namespaces/{space}/podgroups", group)
            members = [pod(f"{name}-{i}", space, fraction=0.4, group=name) for i in range(4)]
            await gather_limited([api.post(pods_path(space), p) for p in members])
        await all_bound(api, space, 8, limit=60)
        await in_order(api)
        assert f"{point} kill" in points.with_suffix(".fired").read_text()
        assert history.problems == []
        assert history.partial_gangs() == {}
    finally:
        recorder.cancel()
        points.write_text("")
    for name in sharing.services.names:
        await asyncio.to_thread(sharing.services.wait_ready, name)


async def test_a_gang_of_shares_starts_whole_and_tells_every_container(api: Api, space: str) -> None:
    group = workload.group("gang", space, queue=space, members=4)
    await api.post(f"/apis/scheduling.run.ai/v2alpha2/namespaces/{space}/podgroups", group)
    members = [pod(f"g{i}", space, mib=20000, group="gang") for i in range(4)]
    await gather_limited([api.post(pods_path(space), p) for p in members[:3]])
    await asyncio.sleep(2)
    assert await bound(api, space) == []
    await api.post(pods_path(space), members[3])
    found = await all_bound(api, space, 4)
    devices = await in_order(api, 1)
    assert {tuple(await shares.told(api, p)) for p in found} == {tuple(devices.device.values())}
    assert {p["metadata"]["labels"]["shoal.dev/gpu-isolation"] for p in found} == {"none"}


async def test_a_reservation_that_nobody_uses_goes_with_an_event(api: Api, space: str) -> None:
    name = "gpu-reservation-0123456789abcdef"
    labels = {"app": "kai-resource-reservation", "runai-gpu-group": "stray"}
    spec = workload.pod(name, "kai-resource-reservation", queue=space)["spec"] | {"nodeName": "node-00900"}
    del spec["schedulerName"]
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    await api.post(shares.RESERVATIONS, body)
    await in_order(api, 0)
    await event(api, "kai-resource-reservation", name, "GpuReservationUnused")


async def event(api: Api, namespace: str, name: str, reason: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        for found in await api.items(f"/api/v1/namespaces/{namespace}/events"):
            if found["involvedObject"]["name"] == name and found["reason"] == reason:
                return found
        return None

    return await until(look, f"event {reason} on {name}", limit=10)


async def test_users_whose_reservation_was_deleted_are_evicted_and_told(api: Api, space: str) -> None:
    await api.post(pods_path(space), pod("user", space, fraction=0.5))
    await all_bound(api, space, 1)
    ((node, group),) = (await in_order(api, 1)).device
    for one in await api.items(shares.RESERVATIONS):
        await api.delete(f"{shares.RESERVATIONS}/{one['metadata']['name']}")

    async def gone() -> bool:
        return not await api.items(pods_path(space))

    await until(gone, "the user evicted")
    found = await event(api, space, "user", "GpuReservationMissing")
    assert group in found["message"]
    assert node in found["message"]


async def test_a_device_that_is_gone_frees_its_group(api: Api, space: str) -> None:
    await api.post(pods_path(space), pod("user", space, fraction=0.5))
    await all_bound(api, space, 1)
    await in_order(api, 1)
    (one,) = await api.items(shares.RESERVATIONS)
    where = f"{shares.RESERVATIONS}/{one['metadata']['name']}"
    await api.patch(where, {"metadata": {"annotations": {"shoal.dev/gpu-lost": "it does not answer"}}})
    await in_order(api, 0)
    assert "does not answer" in (await event(api, space, "user", "GpuLost"))["message"]


async def test_two_groups_on_one_device_are_parted(api: Api, space: str) -> None:
    for number in NODES:
        await api.patch(
            f"/api/v1/nodes/node-{number:05d}", {"metadata": {"annotations": {"shoal.dev/simulated-gpus": "same=1"}}}
        )
    # Two pods that fit on one node but not on one device; the second device says that it is the first.
    await api.post(pods_path(space), pod("first", space, fraction=0.7))
    await all_bound(api, space, 1)
    await api.post(pods_path(space), pod("second", space, fraction=0.7))

    async def told() -> bool:
        found = [e for e in await api.items(f"/api/v1/namespaces/{space}/events") if e["reason"] == "GpuReservedTwice"]
        return bool(found)

    await until(told, "the event", limit=20)
    await in_order(api)
    assert len(await bound(api, space)) <= 1


async def test_devices_that_never_answer_hold_nobody_else_up(api: Api, space: str, sharing: Suite) -> None:
    for number in NODES[:10]:
        await behave(api, number, "never=0.3 fail=0.2 delay=0.3")
    await gather_limited([api.post(pods_path(space), pod(f"p{i:02d}", space, fraction=0.5)) for i in range(40)])
    for number in NODES[:10]:
        await asyncio.sleep(0.5)
        await behave(api, number, "")
    await all_bound(api, space, 40, limit=120)
    await in_order(api, limit=60)


BAD = {
    "gpu-fraction": ["abc", "1.5", "-1"],
    "gpu-memory": ["0", "many"],
}


async def test_bad_annotations_that_bypassed_admission_are_told_and_disturb_nobody(
    sharing: Suite, api: Api, space: str
) -> None:
    bad: dict[str, dict[str, str]] = {
        f"bad-{key}-{i}": {key: value} for key, values in BAD.items() for i, value in enumerate(values)
    }
    bad["both"] = {"gpu-fraction": "0.5", "gpu-memory": "1000"}
    bad["none"] = {"gpu-fraction": "0.5", "gpu-fraction-num-devices": "0"}
    async with sharing.unreviewed():
        for name, notes in bad.items():
            one = workload.pod(name, space, queue=space, gpus=0, annotations=notes)
            await api.post(pods_path(space), shares.admitted(one))
        await api.post(pods_path(space), shares.pod("unprepared", space, queue=space, fraction=0.5))
    await api.post(pods_path(space), pod("good", space, fraction=0.5))
    await all_bound(api, space, 1)

    async def told() -> bool:
        said = {}
        for one in await api.items(pods_path(space)):
            conditions = one["status"].get("conditions", [])
            said[one["metadata"]["name"]] = next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")
        return all("annotation" in said.get(name, "") for name in [*bad, "unprepared"])

    await until(told, "a reason on every bad pod")
