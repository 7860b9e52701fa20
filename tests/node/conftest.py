"""A real node for the tests of this folder, with the images of the suite; a loud word where the machine can't hold one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shoal_local import binaries
from shoal_local.node import docker, node, place, preflight, runtime, teardown
from shoal_local.node.plane import NodePlane
from shoal_testkit.api import Api

LIMIT = 60.0
INSTALL = bool(os.environ.get("SHOAL_INSTALL"))
"""Whether missing Debian packages may be installed (`.ci/run` says so)."""


@dataclass(frozen=True)
class Node:
    """What a test is given of the real node."""

    plane: NodePlane
    helm: Path
    name: str = place.NAME
    registry: str = place.REGISTRY
    tag: str = place.TAG

    @property
    def kubeconfig(self) -> Path:
        return self.plane.kubeconfig

    @property
    def kubectl(self) -> Path:
        return self.plane.kubectl()


def skip(request: pytest.FixtureRequest, why: str) -> None:
    """Skip, and say so where nobody can overlook it."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    if terminal:
        terminal.write_line(f"\nNO REAL NODE, its tests are skipped: {why}", red=True, bold=True)
    pytest.skip(why)


def machine() -> dict[str, object]:
    """What a node could leave on the machine."""

    def run(*command: str) -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    rules = [line for table in ("nat", "filter", "mangle", "raw") for line in run("iptables", "-w", "10", "-t", table, "-S")]
    return {
        "links": sorted(line.split()[1] for line in run("ip", "-o", "link")),
        "rules": rules,
        "mounts": sorted(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "files": [p for p in (place.ROOT, place.DEVICE_PLUGINS.parent, docker.ROOT) if p.exists()],
    }


@pytest.fixture(scope="session")
def machine_is_fit(request: pytest.FixtureRequest) -> None:
    """Skips where a real node can't be."""
    missing = preflight.packages()
    if missing and not INSTALL:
        skip(request, f"packages are missing: {', '.join(missing)}; `make node-packages` installs them")
    try:
        node.check()
    except node.NotHere as error:
        skip(request, str(error))


@pytest.fixture(scope="session")
def suite_archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the images of all services, built from the Dockerfile."""
    missing = preflight.packages(preflight.DOCKER)
    if missing and INSTALL and not (problem := preflight.install(missing)):
        missing = []
    elif missing:
        skip(request, problem if INSTALL else f"packages are missing: {', '.join(missing)}; see `make node-packages`")
    return docker.suite(tmp_path_factory.mktemp("docker") / "dockerd.log")


@pytest.fixture(scope="session")
def real_node(machine_is_fit: None) -> Iterator[Node]:
    """The real node; afterwards the machine is as it was."""
    before = machine()
    running = node.RealNode()
    try:
        running.start(say=print)
        yield Node(running.plane, binaries.tools()["helm"])
    finally:
        running.stop()
    assert teardown.leftovers() == []
    assert machine() == before


@pytest.fixture(scope="session")
def suite_images(real_node: Node, suite_archive: Path) -> None:
    """The images of the suite on the real node."""
    runtime.load([suite_archive])


@pytest.fixture
async def api(real_node: Node) -> AsyncIterator[Api]:
    async with Api.connect(real_node.kubeconfig) as connected:
        yield connected


@pytest.fixture
async def space(api: Api) -> AsyncIterator[str]:
    name = f"n-{uuid.uuid4().hex[:8]}"
    await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    await api.delete(f"/api/v1/namespaces/{name}")


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs a Python script once, as nobody in particular, on a read-only root."""
    resources = spec.pop("resources", {})
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **spec,
            "containers": [{
                "name": "main", "image": place.image("base"), "command": ["python3", "-u", "-c", script],
                "resources": resources,
                "securityContext": {
                    "runAsNonRoot": True, "runAsUser": 31337, "readOnlyRootFilesystem": True,
                    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    }  # fmt: skip


async def until(api: Api, space: str, name: str, *phases: str) -> dict[str, Any]:
    """The pod, once it is in one of the phases; fails with its state."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(LIMIT):
            while found.get("status", {}).get("phase") not in phases:
                await asyncio.sleep(0.1)
                found = await api.get(f"/api/v1/namespaces/{space}/pods/{name}")
    except TimeoutError:
        pytest.fail(f"{name} is not {' or '.join(phases)}: {found.get('status')}")
    return found


async def output(api: Api, space: str, name: str) -> str:
    """What the pod has printed when it has ended; fails if it failed."""
    ended = await until(api, space, name, "Succeeded", "Failed")
    text = await api.get(f"/api/v1/namespaces/{space}/pods/{name}/log")
    assert ended["status"]["phase"] == "Succeeded", text
    return text
