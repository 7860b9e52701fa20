"""docker-compose.yml as it stands, with images of the Dockerfile: the demonstration's workload is bound."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from shoal_local import demo, nodes
from shoal_local.control_plane import ControlPlane
from shoal_local.node import docker, place
from shoal_testkit.api import Api
from shoal_testkit.nats import free_port

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 180.0
SOMEBODY = 23456
"""A user that no image knows."""


def whole(kubeconfig: Path, out: Path) -> Path:
    """A kubeconfig with its certificates inside, readable by the containers' user alone."""
    config = yaml.safe_load(kubeconfig.read_text())
    for entry in (config["clusters"][0]["cluster"], config["users"][0]["user"]):
        for key in [k for k in entry if k in ("certificate-authority", "client-certificate", "client-key")]:
            done = subprocess.run(["base64", "-w0", entry.pop(key)], capture_output=True, text=True, check=True)
            entry[f"{key}-data"] = done.stdout
    out.touch(mode=0o600)
    out.write_text(yaml.safe_dump(config))
    os.chown(out, SOMEBODY, SOMEBODY)
    return out


def compose(daemon: docker.Docker, settings: dict[str, str], *arguments: str) -> str:
    command = ["docker-compose", "--project-name", "shoal-test", "--file", str(ROOT / "docker-compose.yml"), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=daemon.environment | settings, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


async def bound(kubeconfig: Path) -> list[str]:
    """Submit the demonstration and wait until all is bound that should be; gives what is missing when the time is up."""
    async with Api.connect(kubeconfig) as api:
        await nodes.create(api, demo.NODES, demo.GPUS)
        expected = demo.Expected()
        await demo.submit(api, expected)
        deadline = time.monotonic() + LIMIT
        while True:
            found = await api.items("/api/v1/pods")
            problems = demo.missing(expected, found)
            if not problems or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        waiting = next(p for p in found if p["metadata"]["name"] == expected.waits.partition("/")[2])
        assert not waiting["spec"].get("nodeName")
        return problems


def test_the_compose_file_binds_the_demonstration(suite_archive: Path, tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane")
    settings = {
        "NATS_PASSWORD": secrets.token_urlsafe(16), "NATS_PORT": str(free_port()), "NATS_IMAGE": place.image("nats"),
        "SHOAL_USER": str(SOMEBODY), "SHOAL_REGISTRY": place.REGISTRY, "SHOAL_TAG": place.TAG,
    }  # fmt: skip
    with docker.Docker(tmp_path / "dockerd.log") as daemon:
        try:
            daemon.run("load", "--input", str(suite_archive))
            plane.start()
            settings["KUBECONFIG"] = str(whole(plane.kubeconfig, tmp_path / "kubeconfig"))
            compose(daemon, settings, "up", "--detach", "--no-build")
            try:
                problems = asyncio.run(bound(plane.kubeconfig))
                states = compose(daemon, settings, "ps")
                logs = compose(daemon, settings, "logs", "--no-color", "--tail=40")
                assert problems == [], logs[-6000:]
                assert not {"Restarting", "Exit"} & set(states.split()), states
            finally:
                compose(daemon, settings, "down", "--volumes", "--timeout", "5")
        finally:
            plane.stop()
