"""One control plane for all tests that need one; a suite of services per module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal_local import nodes
from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_testkit.api import Api

NODES = 40


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=0, help="runs of each fault, or against budgets; 0: as few as make test has")
    parser.addoption("--first", type=int, default=0, help="the first of these seeds, for runs against budgets")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with 40 nodes of 8 GPUs."""
    running = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        running.start()

        async def populate() -> None:
            async with Api.connect(running.kubeconfig) as api:
                await nodes.create(api, NODES)

        asyncio.run(populate())
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def suite(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """All services on the shared control plane, traced in full."""
    folder: Path = tmp_path_factory.mktemp("suite")
    traces = {"SHOAL_TRACE_RATIO": "1", "SHOAL_TRACE_FILE": str(folder / "spans.jsonl")}
    running = Suite(folder, plane=plane, environment=traces)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
async def api(suite: Suite) -> AsyncIterator[Api]:
    """A client of the suite's control plane, with all rights."""
    async with Api.connect(suite.plane.kubeconfig) as connected:
        yield connected
