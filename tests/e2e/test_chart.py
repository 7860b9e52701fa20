"""Helm on a real API server: install, upgrade, rotation, rollback, uninstall, install again. No pod runs here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from shoal_local import binaries
from shoal_local.control_plane import ControlPlane, Refused, environment
from shoal_testkit.chart import CHART, NAMESPACE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
QUEUE = "/apis/scheduling.run.ai/v2/queues/default-queue"


class Empty(ControlPlane):
    """A cluster without anything of ours."""

    def _install(self) -> None:
        pass


class Release:
    """Helm on it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self._helm = binaries.tools()["helm"]

    def helm(self, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [self._helm, *arguments, "--namespace", NAMESPACE], env=environment(self.plane.kubeconfig), capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, *values: str) -> str:
        return self.helm("install", "shoal", str(CHART), "--create-namespace", *values)

    def upgrade(self, *values: str) -> str:
        return self.helm("upgrade", "shoal", str(CHART), "--reset-then-reuse-values", *values)

    def get(self, path: str) -> Any:
        return self.plane.call("GET", path)

    def there(self, path: str) -> bool:
        try:
            self.get(path)
        except Refused as error:
            if error.status != 404:
                raise
            return False
        return True

    def secret(self, name: str) -> dict[str, str]:
        return self.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")["data"]

    def template(self, kind: str, name: str) -> Any:
        return self.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}/{name}")["spec"]["template"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    plane = Empty(tmp_path_factory.mktemp("chart"), workload_api=False)
    try:
        plane.start()
        yield Release(plane)
    finally:
        plane.stop()


PASSWORDS = ("shoal-nats-user-scheduler", "shoal-nats-user-user", "shoal-nats-user-route")
SECRETS = (*PASSWORDS, "shoal-nats-tls", "shoal-nats-config")


def test_the_life_of_a_release(release: Release) -> None:
    large = ("--set", "nats.replicas=3,global.replicaCount=2,global.gpuSharing=true")
    # What the API server would say to everything that can be rendered.
    release.helm("install", "shoal", str(CHART), "--create-namespace", "--dry-run=server", *large)
    assert "kubectl get queues" in release.install()
    first = {name: release.secret(name) for name in SECRETS}
    assert release.get(QUEUE)["spec"]["parentQueue"] == "default-parent-queue"
    binder = release.template("deployments", "binder")

    # An upgrade keeps credentials, restarts nothing that did not change, and brings CRDs up to date.
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/queues.scheduling.run.ai"
    old = release.get(crd)
    older = {k: old[k] for k in ("apiVersion", "kind", "spec")}
    older["metadata"] = {k: old["metadata"][k] for k in ("name", "labels", "annotations")}
    del older["spec"]["versions"][0]["additionalPrinterColumns"]
    release.plane.call("PATCH", f"{crd}?fieldManager=helm&force=true", older, "application/apply-patch+yaml")
    assert "additionalPrinterColumns" not in release.get(crd)["spec"]["versions"][0]
    release.plane.call("PATCH", QUEUE, {"spec": {"priority": 7}}, "application/merge-patch+json")
    release.upgrade()
    assert {name: release.secret(name) for name in SECRETS} == first
    assert release.template("deployments", "binder") == binder
    release.upgrade(*large)
    assert {name: release.secret(name) for name in PASSWORDS} == {name: first[name] for name in PASSWORDS}
    assert release.secret("shoal-nats-config") != first["shoal-nats-config"]
    assert release.get(QUEUE)["spec"]["priority"] == 7, "an administrator's change stays"
    assert "additionalPrinterColumns" in release.get(crd)["spec"]["versions"][0]

    # Another value of nats.rotate makes all credentials anew, and restarts who uses them.
    before = release.template("deployments", "binder")["metadata"]["annotations"]
    release.upgrade("--set", "nats.rotate=2")
    rotated = {name: release.secret(name) for name in SECRETS}
    for name in (*PASSWORDS, "shoal-nats-tls"):
        assert set(rotated[name]) == set(first[name])
        assert not set(rotated[name].items()) & set(first[name].items()), name
    assert release.template("deployments", "binder")["metadata"]["annotations"] != before
    release.upgrade()
    assert {name: release.secret(name) for name in SECRETS} == rotated

    release.helm("rollback", "shoal", "1")
    assert release.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/binder")["spec"]["replicas"] == 1

    # What holds work outlives the release, and is taken over by the next.
    release.helm("uninstall", "shoal")
    assert release.get(QUEUE)["spec"]["priority"] == 7
    for path in (
        crd, "/api/v1/namespaces/kai-resource-reservation", "/apis/scheduling.k8s.io/v1/priorityclasses/train",
        "/api/v1/namespaces/kai-resource-reservation/serviceaccounts/kai-resource-reservation",
    ):  # fmt: skip
        assert release.there(path), path
    hooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mutating-kai-admission"
    for path in (f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/binder", hooks):
        assert not release.there(path), path
    release.install()
    assert release.get(QUEUE)["spec"]["priority"] == 7
    for name in PASSWORDS:
        assert release.secret(name) != rotated[name]


def test_a_second_release_is_refused_with_a_word(release: Release) -> None:
    said = release.helm("install", "another", str(CHART), fails=True)
    assert "shoal" in said
    assert "release-name" in said
