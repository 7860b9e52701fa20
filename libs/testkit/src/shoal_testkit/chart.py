"""The Helm chart, rendered: objects to look at, without a cluster."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[4] / "deploy/helm/shoal"
NAMESPACE = "kai-scheduler"
Object = dict[str, Any]
VERSION = "1.37.2"
"""Of Kubernetes: what `helm template` takes the cluster for."""


class Rendered(list[Object]):
    """Objects of a chart."""

    def kind(self, *kinds: str) -> list[Object]:
        """All of these kinds."""
        return [o for o in self if o["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The only one of that name."""
        found = [o for o in self.kind(kind) if o["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} {kind} {name}"
        return found[0]

    def secret(self, name: str) -> dict[str, str]:
        """The content of a Secret, decoded."""
        found = self.one("Secret", name)
        plain = {k: base64.b64decode(v).decode() for k, v in (found.get("data") or {}).items()}
        return plain | (found.get("stringData") or {})

    @property
    def passwords(self) -> dict[str, str]:
        """User of the bus -> password."""
        start = "shoal-nats-user-"
        names = [o["metadata"]["name"] for o in self.kind("Secret")]
        return {n.removeprefix(start): self.secret(n)["password"] for n in names if n.startswith(start)}

    @property
    def workloads(self) -> list[Object]:
        """Deployments and StatefulSets."""
        return self.kind("Deployment", "StatefulSet")


def template(helm: Path, values: Object | None = None, namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values, however it ends."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file)
        file.flush()
        command = [helm, "template", "shoal", CHART, "--namespace", namespace, "--values", file.name, "--kube-version", VERSION]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def render(helm: Path, values: Object | None = None, namespace: str = NAMESPACE) -> Rendered:
    """The objects; fails where Helm refuses."""
    done = template(helm, values, namespace)
    assert done.returncode == 0, done.stderr
    return Rendered(o for o in yaml.safe_load_all(done.stdout) if o)
