"""A cluster that stays: ``up`` starts it detached and notes what it started, ``down`` ends just that."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path

from shoal_local import demo, nodes
from shoal_local.process import running, started_at
from shoal_local.suite import Suite
from shoal_testkit.api import Api


def state_folder() -> Path:
    """Where a standing cluster lives: SHOAL_STATE_DIR, else the user's state folder."""
    if chosen := os.environ.get("SHOAL_STATE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shoal"


def _noted() -> dict[str, list[str]]:
    try:
        return json.loads((state_folder() / "pids.json").read_text())
    except (OSError, ValueError):
        return {}


def up() -> int:
    """Start a cluster that stays, with 100 nodes and the default queues; print how to reach it."""
    folder = state_folder()
    if found := running(_noted()):
        print(f"it is up already ({len(found)} processes): KUBECONFIG={folder / 'plane' / 'admin.kubeconfig'}")
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    suite = Suite(folder, detached=True)

    def note() -> None:
        pids = {name: [str(pid), started_at(pid)] for name, pid in suite.pids.items()}
        (folder / "pids.json").write_text(json.dumps(pids))

    try:
        suite.start(print)
        note()
        asyncio.run(_populate(suite))
    except BaseException:
        suite.stop()
        raise
    print(f"\nexport KUBECONFIG={suite.plane.kubeconfig}")
    print(f"export PATH={suite.plane.kubectl().parent}:$PATH   # a kubectl of the same version")
    print(
        f"export SHOAL_NATS_URL={suite.bus.url} SHOAL_NATS_USER=user SHOAL_NATS_PASSWORD_FILE={suite.bus.password_file('user')}"
    )
    print("`make down` ends it")
    return 0


async def _populate(suite: Suite) -> None:
    async with Api.connect(suite.plane.kubeconfig) as api:
        await nodes.create(api, demo.NODES, demo.GPUS)


def down(limit: float = 15.0) -> int:
    """End what ``up`` started, and nothing else."""
    found = running(_noted())
    # The services first, then the bus and the control plane.
    for pid in reversed(found.values()):
        for number in (signal.SIGCONT, signal.SIGTERM):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
    deadline = time.monotonic() + limit
    while (left := running(_noted())) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(state_folder(), ignore_errors=True)
    print(f"ended {len(found)} processes" if found else "nothing was up")
    return 0
