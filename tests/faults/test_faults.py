"""Every part is killed, stopped or emptied in the middle of hundreds of bindings; nothing is lost, doubled or partial.

``make test`` runs a few seeds, ``make faults`` twenty and more.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api
from shoal_testkit.faults import Report, campaign

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
GANGS, SIZE = 75, 4
LIMIT = 120.0
STOPPED = 8.0
"""Seconds that a process stays stopped: longer than the Lease lasts."""
Strike = Callable[[Suite], None]


def kill(name: str) -> Strike:
    return lambda suite: suite.services.signal(name, signal.SIGKILL)


def stop_and_go(name: str) -> Strike:
    def strike(suite: Suite) -> None:
        pid = suite.services.pid(name)
        suite.services.signal(name, signal.SIGSTOP)
        time.sleep(STOPPED)
        if suite.services.pid(name) == pid:
            suite.services.signal(name, signal.SIGCONT)

    return strike


def empty_nats(suite: Suite) -> None:
    suite.bus.kill()
    suite.bus.wipe()
    time.sleep(0.5)
    suite.bus.start()


def empty_nats_and_kill_the_leader(suite: Suite) -> None:
    suite.bus.kill()
    suite.services.signal("scheduler-0", signal.SIGKILL)
    suite.bus.wipe()
    suite.bus.start()


def restart_apiserver(suite: Suite) -> None:
    suite.plane.restart_apiserver()


FAULTS: dict[str, Strike] = {
    "kill scheduler": kill("scheduler-0"),
    "kill binder": kill("binder-0"),
    "empty NATS": empty_nats,
    "kill cluster-state": kill("cluster-state-0"),
    "stop binder": stop_and_go("binder-0"),
    "stop leader": stop_and_go("scheduler-0"),
    "restart API server": restart_apiserver,
    "empty NATS and kill leader": empty_nats_and_kill_the_leader,
    "kill pod-grouper": kill("pod-grouper-0"),
    "kill queue-controller": kill("queue-controller-0"),
    "kill gpu-reservation": kill("gpu-reservation-0"),
}
POINTS = [
    "binder.received", "binder.before_post", "binder.after_post", "binder.after_outcome", "scheduler.before_commit",
    "scheduler.after_commit", "scheduler.before_close",
]  # fmt: skip


@pytest.fixture(scope="module")
def broken(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with two schedulers and two binders, that is here to be broken."""
    folder: Path = tmp_path_factory.mktemp("faults")
    running = Suite(
        folder,
        plane=plane,
        replicas={"scheduler": 2, "binder": 2},
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds")))


async def test_a_fault_in_the_middle_of_bindings(broken: Suite, seed: int) -> None:
    fault = list(FAULTS)[seed % len(FAULTS)]
    report = await run(broken, fault, seed, lambda: FAULTS[fault](broken))
    assert report.problems == []
    assert report.hit_open_work, f"the fault struck at {report.bound_at_fault} of {report.total}: nothing was under way"


@pytest.mark.parametrize("point", POINTS)
async def test_a_death_at_each_phase_of_a_decision(broken: Suite, point: str) -> None:
    points = broken.folder / "points"

    def strike() -> None:
        points.write_text(f"{point} kill\n")

    report = await run(broken, f"die at {point}", 1, strike, gangs=25)
    assert report.problems == []
    assert f"{point} kill" in points.with_suffix(".fired").read_text()
