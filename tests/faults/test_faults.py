"""Every part is killed, stopped or emptied in the middle of bindings; nothing is lost, doubled or partial.

``make test`` has each fault once, ``make faults`` with twenty seeds and more pods.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import volumes, workload
from shoal_testkit.api import Api
from shoal_testkit.faults import Report, campaign
from shoal_testkit.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
GANGS, FEW, SIZE = 75, 30, 4
"""Gangs of a run of ``make faults``, of a run in ``make test``, and members of each."""
LIMIT = 120.0
STOPPED = 8.0
"""Seconds that a process stays stopped: longer than the Lease lasts."""
LEASES = {
    "scheduler": "shoal-scheduler-default",
    "cluster-state": "shoal-cluster-state",
    "queue-controller": "shoal-queue-controller",
    "shard-controller": "shoal-shard-controller",
}
Strike = Callable[[Suite], None]


def leader(suite: Suite, service: str) -> str:
    """The replica that holds the service's Lease; the first where nobody does at the moment."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/kai-scheduler/leases/{LEASES[service]}"
    holder = suite.plane.call("GET", path)["spec"].get("holderIdentity") or ""
    replicas = [name for name in suite.services.names if name.rpartition("-")[0] == service]
    return next((name for name in replicas if f"-{suite.services.pid(name)}-" in holder), replicas[0])


def kill(name: str) -> Strike:
    return lambda suite: suite.services.signal(name, signal.SIGKILL)


def kill_leader(service: str) -> Strike:
    return lambda suite: suite.services.signal(leader(suite, service), signal.SIGKILL)


def stop_and_go(name: str) -> Strike:
    return lambda suite: stop(suite, name)


def stop_leader(service: str) -> Strike:
    return lambda suite: stop(suite, leader(suite, service))


def stop(suite: Suite, name: str) -> None:
    """SIGSTOP for longer than a Lease lasts, then SIGCONT: it steps down, or ends and is started again."""
    pid = suite.services.pid(name)
    suite.services.signal(name, signal.SIGSTOP)
    time.sleep(STOPPED)
    if suite.services.pid(name) == pid:
        suite.services.signal(name, signal.SIGCONT)


def empty_nats(suite: Suite) -> None:
    suite.bus.kill()
    suite.bus.wipe()
    time.sleep(0.5)
    suite.bus.start()


def empty_nats_and_kill_the_leader(suite: Suite) -> None:
    suite.bus.kill()
    suite.services.signal(leader(suite, "scheduler"), signal.SIGKILL)
    suite.bus.wipe()
    suite.bus.start()


def restart_apiserver(suite: Suite) -> None:
    suite.plane.restart_apiserver()


FAULTS: dict[str, Strike] = {
    "kill scheduler": kill_leader("scheduler"),
    "kill binder": kill("binder-0"),
    "empty NATS": empty_nats,
    "kill cluster-state": kill_leader("cluster-state"),
    "stop binder": stop_and_go("binder-0"),
    "stop scheduler": stop_leader("scheduler"),
    "restart API server": restart_apiserver,
    "empty NATS and kill leader": empty_nats_and_kill_the_leader,
    "kill pod-grouper": kill("pod-grouper-0"),
    "kill queue-controller": kill_leader("queue-controller"),
    "kill gpu-reservation": kill("gpu-reservation-0"),
    "stop cluster-state": stop_leader("cluster-state"),
    "stop queue-controller": stop_leader("queue-controller"),
    "stop shard-controller": stop_leader("shard-controller"),
}
POINTS = [
    "binder.received", "binder.before_post", "binder.after_post", "binder.after_outcome", "scheduler.before_epoch",
    "scheduler.before_commit", "scheduler.after_commit", "scheduler.before_close",
]  # fmt: skip
"""Failpoints that gangs of whole GPUs reach; those of shared GPUs and staged gangs are in ``tests/sharing``."""


@pytest.fixture(scope="module")
def broken(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with a standby for each leader and two binders, that is here to be broken."""
    folder: Path = tmp_path_factory.mktemp("faults")
    running = Suite(
        folder,
        plane=plane,
        replicas=dict.fromkeys(LEASES, 2) | {"binder": 2},
        environment={"SHOAL_FAILPOINTS_FILE": str(folder / "points")},
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()


async def run(suite: Suite, fault: str, seed: int, strike: Callable[[], None], gangs: int = GANGS) -> Report:
    space = f"f-{uuid.uuid4().hex[:8]}"
    async with Api.connect(suite.plane.kubeconfig) as api:
        await api.post("/api/v1/namespaces", {"metadata": {"name": space}})
        await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue(space))
        try:
            report = await campaign(api, space, fault, seed, strike, gangs=gangs, size=SIZE, limit=LIMIT)
            if not report.problems:
                report.problems += await wrong_status(api, space, report.total)
        finally:
            for path in (f"/api/v1/namespaces/{space}/pods", f"/apis/scheduling.run.ai/v2alpha2/namespaces/{space}/podgroups"):
                await api.delete(path)
            await api.delete_queue(space)
            await api.delete(f"/api/v1/namespaces/{space}")
            await empty(api, space)
    for name in suite.services.names:
        await asyncio.to_thread(suite.services.wait_ready, name)
    state = "hit" if report.hit_open_work else "missed"
    struck = f"{state} at {report.bound_at_fault:3d} of {report.total}"
    print(f"seed {seed:3d}  {fault:32s} {struck}, all bound in {report.seconds:5.1f} s")
    return report


async def empty(api: Api, space: str) -> None:
    """Wait until the pods are gone: the next run needs their room."""
    async with asyncio.timeout(60):
        while await api.items(f"/api/v1/namespaces/{space}/pods"):
            await asyncio.sleep(0.2)


async def wrong_status(api: Api, queue: str, bound: int) -> list[str]:
    """What the queue's status still says wrongly when nothing moves any more."""
    path, used = f"/apis/scheduling.run.ai/v2/queues/{queue}", "nothing"
    for _ in range(300):
        used = ((await api.get(path)).get("status") or {}).get("allocated", {}).get("nvidia.com/gpu", "nothing")
        if used == str(bound):
            return []
        await asyncio.sleep(0.1)
    return [f"{bound} GPUs are in use, the queue says {used}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds") or 1))


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_in_the_middle_of_bindings(broken: Suite, fault: str, seed: int, pytestconfig: pytest.Config) -> None:
    gangs = GANGS if pytestconfig.getoption("--seeds") else FEW
    report = await run(broken, fault, seed, lambda: FAULTS[fault](broken), gangs)
    assert report.problems == []
    assert report.hit_open_work, f"the fault struck at {report.bound_at_fault} of {report.total}: nothing was under way"


@pytest.mark.parametrize("point", POINTS)
async def test_a_death_at_each_phase_of_a_decision(broken: Suite, point: str) -> None:
    points = broken.folder / "points"

    def strike() -> None:
        points.write_text(f"{point} kill\n")
        if point == "scheduler.before_epoch":
            # Who takes over dies on the way.
            broken.services.signal(leader(broken, "scheduler"), signal.SIGKILL)

    report = await run(broken, f"die at {point}", 1, strike, gangs=25)
    assert report.problems == []
    assert f"{point} kill" in points.with_suffix(".fired").read_text()


async def test_a_death_when_the_volume_is_there(broken: Suite) -> None:
    space, points = f"f-{uuid.uuid4().hex[:8]}", broken.folder / "points"
    path = f"/api/v1/namespaces/{space}"
    async with Api.connect(broken.plane.kubeconfig) as api:

        async def selected() -> str:
            found = (await api.get(f"{path}/persistentvolumeclaims/c"))["metadata"]
            return (found.get("annotations") or {}).get(volumes.SELECTED, "")

        async def bound() -> str:
            return (await api.get(f"{path}/pods/p"))["spec"].get("nodeName", "")

        await api.post("/api/v1/namespaces", {"metadata": {"name": space}})
        await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue(space))
        await api.post(volumes.CLASSES, volumes.storage_class(f"{space}-made", "disks.example.com"))
        try:
            points.write_text("binder.after_volumes kill\n")
            await api.post(f"{path}/persistentvolumeclaims", volumes.claim("c", f"{space}-made"))
            await api.post(f"{path}/pods", volumes.pod("p", space, queue=space, claim="c"))
            node = await until(selected, "a node for the claim")
            body = volumes.volume(f"{space}-c", f"{space}-made", node, claim="c", namespace=space)
            await api.post(volumes.VOLUMES, body)
            await volumes.bind(api, space, "c", f"{space}-c")
            assert await until(bound, "the pod bound", limit=LIMIT) == node
            assert "binder.after_volumes kill" in points.with_suffix(".fired").read_text()
        finally:
            points.write_text("")
            await api.call("DELETE", f"{path}/pods")
            await volumes.remove(api, space, space)
            await api.delete_queue(space)
            await api.delete(path)
    for name in broken.services.names:
        await asyncio.to_thread(broken.services.wait_ready, name)


def test_every_failpoint_of_the_code_is_tried_by_a_test() -> None:
    code = "".join(path.read_text() for path in sorted(ROOT.glob("services/*/src/**/*.py")))
    there = set(re.findall(r'await reach\("([a-z_.]+)"\)', code))
    tried = "".join(path.read_text() for path in sorted((ROOT / "tests").glob("*/test_*.py")))
    assert set(POINTS) <= there
    assert {point for point in there if not re.search(rf'"{re.escape(point)}[" ]', tried)} == set()
