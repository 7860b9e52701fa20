"""The suite on a cluster without the workload API, as most are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


async def test_it_starts_and_binds_where_the_workload_api_is_off(plane: ControlPlane, tmp_path: Path) -> None:
    await asyncio.to_thread(plane.restart_apiserver, workload_api=False)
    suite = Suite(tmp_path, plane=plane)
    try:
        await asyncio.to_thread(suite.start)
        async with Api.connect(plane.kubeconfig) as api:
            versions = {v["groupVersion"] for g in (await api.get("/apis"))["groups"] for v in g["versions"]}
            assert "scheduling.k8s.io/v1beta1" not in versions
            await api.post("/apis/scheduling.run.ai/v2/queues", workload.queue("plain"))
            await api.post("/api/v1/namespaces/default/pods", workload.pod("plain", "default", queue="plain"))
            async with asyncio.timeout(40):
                while not (await api.get("/api/v1/namespaces/default/pods/plain"))["spec"].get("nodeName"):
                    await asyncio.sleep(0.1)
            await api.delete("/api/v1/namespaces/default/pods/plain")
            await api.delete_queue("plain")
    finally:
        await asyncio.to_thread(suite.stop)
        await asyncio.to_thread(plane.restart_apiserver, workload_api=True)
