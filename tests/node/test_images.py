"""The images on a real node: any user, a read-only root, and kernels that are not compiled again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shoal_local.node import docker, place
from shoal_testkit.api import Api

from .conftest import output, pod

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]
TARGETS = docker.targets(docker.DOCKERFILE.read_text())
KERNELS = """
import os
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    import shoal_core
    shoal_core.warm()
print(os.getuid(), sum(e.is_start for _, e in compiled.buffer))
"""


def in_image(name: str, target: str, script: str, **environment: str) -> dict[str, Any]:
    """A pod of an image with a random user and nothing to write to, that runs a script in place of the service."""
    found = pod(name, script)
    container = found["spec"]["containers"][0]
    container["image"] = place.image(target)
    container["command"][0] = "python3" if target == "reservation" else "python"
    container["env"] = [{"name": k, "value": v} for k, v in environment.items()]
    return found


@pytest.mark.usefixtures("suite_images")
async def test_no_kernel_is_compiled_at_start(api: Api, space: str) -> None:
    path = f"/api/v1/namespaces/{space}/pods"
    await api.post(path, in_image("baked", "scheduler", KERNELS))
    assert (await output(api, space, "baked")).split() == ["31337", "0"]


@pytest.mark.usefixtures("suite_images")
async def test_without_the_baked_kernels_they_are_compiled(api: Api, space: str) -> None:
    """The check above can fail: a folder of kernels that is empty."""
    found = in_image("empty", "scheduler", KERNELS, NUMBA_CACHE_DIR="/tmp/kernels")
    found["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    found["spec"]["containers"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    await api.post(f"/api/v1/namespaces/{space}/pods", found)
    assert int((await output(api, space, "empty")).split()[1]) > 3


@pytest.mark.usefixtures("suite_images")
async def test_every_service_starts_as_anybody_on_a_read_only_root(api: Api, space: str) -> None:
    started = [t for t in TARGETS if t != "nats"]  # it has no Python; the chart's and the compose file's tests start it
    for target in started:
        module = f"shoal_{target.replace('-', '_')}"
        start = "import runpy, sys; sys.argv[1:] = ['--help']; "
        script = f"{start}runpy.run_module({module!r}, run_name='__main__')"
        if target == "reservation":  # it has no help; without a pod to speak of it says so
            script = (
                "import subprocess, sys; done = subprocess.run([sys.executable, '/opt/shoal/agent.py'], "
                "env={}, capture_output=True, text=True); print(done.stderr); sys.exit(done.returncode != 1)"
            )
        await api.post(f"/api/v1/namespaces/{space}/pods", in_image(target, target, script))
    for target in started:
        text = await output(api, space, target)
        assert ("usage: shoal-" if target != "reservation" else "KUBERNETES_SERVICE_HOST") in text


def test_the_archive_holds_the_target_images_and_no_authority_of_this_machine(suite_archive: Path) -> None:
    manifest = json.loads(
        subprocess.run(["tar", "-xOf", suite_archive, "manifest.json"], capture_output=True, check=True).stdout
    )
    assert {tag for image in manifest for tag in image["RepoTags"]} == {place.image(t) for t in TARGETS}
    for image in manifest:
        config = json.loads(
            subprocess.run(["tar", "-xOf", suite_archive, image["Config"]], capture_output=True, check=True).stdout
        )
        assert config["config"]["User"] == "10000:10000"
        assert not any("SSL" in variable or "CERT" in variable for variable in config["config"]["Env"])
