"""Certificates on a real API server: replicas agree on one Secret, and a whole renewal passes without a failed review."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog

from shoal_admission import app, certificates, server, webhooks
from shoal_admission.certificates import Lifetimes
from shoal_admission.keeper import SecretKeeper
from shoal_admission.webhooks import Settings
from shoal_kube import Kube, KubeConfig, NotFound
from shoal_kube.resources import SECRETS
from shoal_local.control_plane import ControlPlane
from shoal_model import labels
from shoal_service.config import load
from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError
from shoal_testkit.nats import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
LIVES = Lifetimes(authority=18.0, serving=9.0, overlap=1.5)
SECRET = "shoal-admission-test"


class Replica:
    """Server and keeper of one replica."""

    def __init__(self, kube: Kube, port: int) -> None:
        self.tls = server.tls_context("")
        self.port = port
        self.keeper = SecretKeeper(kube, self.tls, time.time, labels.NAMESPACE, SECRET, ("127.0.0.1",), LIVES)


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    async with Api.connect(plane.kubeconfig) as connected:
        yield connected


async def secret(kube: Kube) -> certificates.Material | None:
    import base64
    import json

    try:
        found = json.loads(await kube.get(SECRETS.path(SECRET, labels.NAMESPACE)))
    except NotFound:
        return None
    return certificates.from_data({k: base64.b64decode(v) for k, v in found["data"].items()})


async def test_a_renewal_of_everything_passes_unnoticed(plane: ControlPlane, api: Api, tmp_path: Path) -> None:
    port = free_port()
    for found in webhooks.configurations(Settings(url=f"https://127.0.0.1:{port}")):
        await asyncio.to_thread(plane.apply, found)
    reviews = app.reviews(load(app.Config, None, {}), app.Queues())
    async with AsyncExitStack() as open_:
        kube = await open_.enter_async_context(Kube.connect(KubeConfig(str(plane.kubeconfig))))
        replicas = [Replica(kube, port) for _ in range(3)]
        # All at once, and no Secret yet: one of them makes it, the others take what it made.
        counts = await asyncio.gather(*(r.keeper.step() for r in replicas))
        assert counts == [len(webhooks.NAMES)] * 3
        first = await secret(kube)
        assert first is not None
        for replica in replicas:
            await open_.enter_async_context(
                server.serving(
                    reviews,
                    replica.tls,
                    structlog.get_logger(),
                    host="127.0.0.1",
                    port=port,
                    port_file="",
                    shared=True,
                    limit=3,
                )
            )
        body = workload.pod("p", "default", queue="none", gpus=0, annotations={labels.GPU_FRACTION: "0.5"})
        done, authorities, failed = asyncio.Event(), {first.signer}, []

        async def look(replica: Replica, every: float) -> None:
            while not done.is_set():
                await replica.keeper.step()
                await asyncio.sleep(every)

        async def create() -> None:
            while not done.is_set():
                try:
                    await api.post("/api/v1/namespaces/default/pods?dryRun=All", body)
                except ApiError as error:
                    failed.append(str(error))
                await asyncio.sleep(0.05)

        async def watch() -> None:
            # Until the first authority is trusted no more: then every step of a renewal was taken.
            while (now := await secret(kube)) is None or first.signer in now.bundle:
                assert now is not None
                authorities.add(now.signer)
                await asyncio.sleep(0.2)
            authorities.add(now.signer)
            done.set()

        try:
            async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
                for number, replica in enumerate(replicas):
                    tasks.create_task(look(replica, 0.2 + 0.1 * number))
                tasks.create_task(create())
                tasks.create_task(watch())
            assert len(authorities) >= 2
            assert failed == []
        finally:
            await kube.delete(SECRETS.path(SECRET, labels.NAMESPACE))
            for plural, name in webhooks.NAMES:
                await api.delete(f"/apis/admissionregistration.k8s.io/v1/{plural}/{name}")
