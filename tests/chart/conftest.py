"""Helm, and the chart rendered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shoal_local import binaries
from shoal_testkit import chart
from shoal_testkit.chart import Object, Rendered


@pytest.fixture(scope="session")
def helm() -> Path:
    return binaries.tools()["helm"]


@pytest.fixture(scope="session")
def render(helm: Path) -> Callable[..., Rendered]:
    return lambda values=None, namespace=chart.NAMESPACE: chart.render(helm, values, namespace)


@pytest.fixture(scope="session")
def plain(helm: Path) -> Rendered:
    """With the default values."""
    return chart.render(helm)


@pytest.fixture(scope="session")
def large(helm: Path) -> Rendered:
    """Everything that values can turn on, replicated."""
    return chart.render(helm, LARGE)


LARGE: Object = {
    "global": {"replicaCount": 2, "gpuSharing": True, "imagePullSecrets": [{"name": "pull"}]},
    "nats": {"replicas": 3},
    "serviceMonitors": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "grafanaDashboard": {"enabled": True},
}
