"""The suite behind an API server that throttles, delays, conflicts, loses answers and cuts its streams."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api, gather_limited
from shoal_testkit.history import History
from shoal_testkit.kube_proxy import Proxy, Rule, proxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
GROUPS = "/apis/scheduling.run.ai/v2alpha2"
BINDING = r"/binding"

FAULTS: dict[str, list[Rule]] = {
    "every third binding is throttled": [Rule("POST", BINDING, "status", status=429, times=40, probability=0.33)],
    "bindings conflict": [Rule("POST", BINDING, "status", status=409, times=30, probability=0.3)],
    "the answers of bindings are lost": [Rule("POST", BINDING, "lose", times=20, probability=0.2)],
    "the server fails": [
        Rule("POST", BINDING, "status", status=500, times=20, probability=0.2),
        Rule("PATCH", r"/pods|/podgroups|/queues", "status", status=503, times=30, probability=0.5),
    ],
    "bindings are late": [Rule("POST", BINDING, "delay", seconds=1.0, times=60, probability=0.3)],
    "watches are cut": [Rule("GET", r"/pods\?watch", "cut", events=20, times=4)],
    "watches expire": [Rule("GET", r"/pods\?watch", "expire", events=15, times=3)],
}


class Behind:
    """A suite that reaches the API only through the proxy."""

    def __init__(self, suite: Suite, between: Proxy) -> None:
        self.suite, self.proxy = suite, between


@pytest.fixture(scope="module")
def behind(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """The proxy in a loop of its own thread: the tests' loops come and go."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy")
    thread.start()

    async def enter() -> tuple[object, Proxy]:
        context = proxy(plane.url, str(plane.ca))
        return context, await context.__aenter__()

    context, between = asyncio.run_coroutine_threadsafe(enter(), loop).result(20)
    folder: Path = tmp_path_factory.mktemp("behind")
    suite = Suite(folder, plane=plane, api_url=between.url)
    try:
        suite.start()
        yield Behind(suite, between)
    finally:
        suite.stop()
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(20)  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    async with Api.connect(plane.kubeconfig) as connected:
        yield connected


@pytest.mark.parametrize("fault", FAULTS)
async def test_all_is_bound_once_and_whole(behind: Behind, api: Api, fault: str) -> None:
    space = f"p-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": space}})
    await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue(space))
    history = History({n["metadata"]["name"]: 8 for n in await api.items("/api/v1/nodes")})
    recorder = asyncio.create_task(history.follow(api, space))
    await asyncio.sleep(0.3)
    rules = FAULTS[fault]
    behind.proxy.rules[:] = rules
    try:
        made = [workload.gang(f"g{i}", space, queue=space, size=4) for i in range(20)]
        await gather_limited([api.post(f"{GROUPS}/namespaces/{space}/podgroups", g) for g, _ in made])
        await gather_limited([api.post(f"/api/v1/namespaces/{space}/pods", p) for _, members in made for p in members])
        assert await history.until_bound(80, 90), f"{history.bound} of 80 bound"
        async with asyncio.timeout(20):  # statuses are written a little later
            while not all(rule.fired for rule in rules):
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert history.problems == []
        assert history.partial_gangs() == {}
    finally:
        behind.proxy.rules.clear()
        recorder.cancel()
        await api.delete(f"/api/v1/namespaces/{space}/pods")
        await api.delete_queue(space)
        await api.delete(f"/api/v1/namespaces/{space}")
