"""``make up``: a cluster that stays, whose parts are started again when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shoal_local import keeper
from shoal_local.process import running

pytestmark = pytest.mark.e2e
LIMIT = 90.0


def shoal(folder: Path, command: str) -> tuple[int, str]:
    found = subprocess.run(
        [sys.executable, "-m", "shoal_local", command], env=os.environ | {"SHOAL_STATE_DIR": str(folder)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return found.returncode, found.stdout + found.stderr


@pytest.mark.timeout(400)
def test_what_ends_is_started_again_and_status_says_so(tmp_path: Path) -> None:
    try:
        code, said = shoal(tmp_path, "up")
        assert code == 0, said
        assert "export KUBECONFIG=" in said
        before = keeper.read(tmp_path).parts
        for name in ("scheduler-0", "nats"):
            os.kill(before[name].pid, signal.SIGKILL)
        deadline = time.monotonic() + LIMIT
        while not all(keeper.read(tmp_path).parts[name].restarts for name in ("scheduler-0", "nats")):
            assert time.monotonic() < deadline, keeper.read(tmp_path).parts
            time.sleep(0.1)
        while (found := shoal(tmp_path, "status"))[0]:
            assert time.monotonic() < deadline, found[1]
        assert "restarted 1 time" in found[1]
        code, said = shoal(tmp_path, "up")
        assert code == 0, said
        assert "it is up already" in said
    finally:
        parts = keeper.read(tmp_path).parts
        shoal(tmp_path, "down")
    assert parts
    assert not running({name: [str(part.pid), part.since] for name, part in parts.items()}), "nothing is left running"
