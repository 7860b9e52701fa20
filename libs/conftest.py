"""Fixtures that the libraries' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shoal_testkit.nats import NatsServer


@pytest.fixture
def server() -> Iterator[NatsServer]:
    """A real nats-server of the test's own."""
    with NatsServer() as running:
        yield running
