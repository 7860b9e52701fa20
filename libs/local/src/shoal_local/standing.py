"""A cluster that stays: ``up`` starts a keeper for it and says how to reach it, ``status`` how it is, ``down`` ends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from shoal_local import keeper
from shoal_local.bus import LocalBus
from shoal_local.keeper import Keeper, Part, Status
from shoal_local.process import Child, running, started_at
from shoal_testkit.nats import listens

START_LIMIT = 300.0
"""Seconds that a cluster may take to come up."""


def state_folder() -> Path:
    """Where a standing cluster lives: SHOAL_STATE_DIR, else the user's state folder."""
    if chosen := os.environ.get("SHOAL_STATE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shoal"


def _keeper() -> int:
    """The pid of the keeper; 0 if none runs."""
    try:
        noted = json.loads((state_folder() / "keeper.json").read_text())
    except (OSError, ValueError):
        return 0
    return running({"keeper": noted}).get("keeper", 0)


def keep() -> int:
    """Run the cluster until a signal: what ``up`` starts."""
    folder = state_folder()
    found = Keeper(folder)
    signal.signal(signal.SIGTERM, lambda *_: found.end.set())
    signal.signal(signal.SIGINT, lambda *_: found.end.set())
    found.run()
    return 0


def up() -> int:
    """Start a cluster that stays, with 100 nodes; print how to reach it, and what of it is down."""
    folder = state_folder()
    if _keeper():
        print("it is up already")
        return status()
    down(quiet=True)
    folder.mkdir(parents=True, exist_ok=True)
    child = Child("keeper", [sys.executable, "-m", "shoal_local", "keep"], folder / "keeper.log", detached=True)
    child.start()
    (folder / "keeper.json").write_text(json.dumps([str(child.pid), started_at(child.pid)]))
    deadline, told = time.monotonic() + START_LIMIT, 0
    while not (found := keeper.read(folder)).ready:
        log = child.tail(100_000)
        print(log[told:], end="", flush=True)
        told = len(log)
        if not child.pid or time.monotonic() > deadline:
            print(child.tail()[told:], file=sys.stderr)
            down(quiet=True, logs=True)
            print(f"it did not come up; logs are in {folder}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    for name, value in found.export.items():
        tail = ":$PATH   # a kubectl of the same version" if name == "PATH" else ""
        print(f"export {name}={value}{tail}")
    print("`make status` says how it is, `make down` ends it")
    return 0


def down_parts(found: Status) -> list[str]:
    """Names of the parts that don't run."""
    here = running({name: [str(part.pid), part.since] for name, part in found.parts.items()})
    return [name for name in found.parts if name not in here]


def status() -> int:
    """Say how every part is; 1 if any is down, or all of it."""
    folder = state_folder()
    found = keeper.read(folder)
    if not _keeper():
        print("it is down: `make up` starts it" if not found.parts else "it has ended: `make up` starts it anew")
        return 1
    missing = down_parts(found)
    for name, part in found.parts.items():
        print(_line(name, part, name in missing))
    if not found.ready:
        print("it is coming up")
    elif missing:
        print(f"down, started again soon: {', '.join(missing)}; logs are in {folder}")
    else:
        print(f"all {len(found.parts)} processes run: KUBECONFIG={found.export.get('KUBECONFIG', '')}")
    return 1 if missing or not found.ready else 0


def _line(name: str, part: Part, missing: bool) -> str:
    restarts = f", restarted {part.restarts} time{'s' if part.restarts != 1 else ''}" if part.restarts else ""
    return f"{name:24} {'down' if missing else f'running, pid {part.pid}'}{restarts}"


def down(limit: float = 30.0, *, quiet: bool = False, logs: bool = False) -> int:
    """End what ``up`` started, and nothing else. With ``logs`` the folder stays."""
    folder = state_folder()
    parts = keeper.read(folder).parts
    noted = {name: [str(part.pid), part.since] for name, part in parts.items()}
    pid = _keeper()
    if pid:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + limit
    while (_keeper() or running(noted)) and time.monotonic() < deadline:
        _reap(pid)
        time.sleep(0.1)
    # The parts end with their keeper, even where it was killed.
    for left in (*running(noted).values(), _keeper()):
        if left:
            os.kill(left, signal.SIGKILL)
    if not logs:
        shutil.rmtree(folder, ignore_errors=True)
    if not quiet:
        print(f"ended {len(parts) + 1} processes" if pid else "nothing was up")
    return 0


def credentials(name: str, queues: Sequence[str]) -> int:
    """Make a user of the bus who may read the events of some queues and nothing else; print how to use it. 1 if the
    cluster is down, 2 for a name or queue that can't be taken."""
    folder = state_folder()
    found = keeper.read(folder)
    here = running({n: [str(part.pid), part.since] for n, part in found.parts.items()})
    if "nats" not in here:
        print("it is down: `make up` starts it", file=sys.stderr)
        return 1
    if not name or not queues:
        print("credentials: --name NAME --queue QUEUE, which may stand several times", file=sys.stderr)
        return 2
    bus = LocalBus(folder / "bus")
    try:
        bus.add_event_user(name, queues)
    except ValueError as error:
        print(f"credentials: {error}", file=sys.stderr)
        return 2
    # A server that only reads its configuration again (2.15.1) leaves what a new account imports without an answer: the
    # keeper starts it anew.
    os.kill(here["nats"], signal.SIGTERM)
    deadline, url = time.monotonic() + START_LIMIT, found.export["SHOAL_NATS_URL"]
    port = int(url.rpartition(":")[2])
    while (part := keeper.read(folder).parts["nats"]).pid in (0, here["nats"]) or not listens(port):
        if time.monotonic() > deadline:
            print(f"NATS did not come back: {part}; logs are in {folder}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print(f"export SHOAL_NATS_URL={url}")
    print(f"export SHOAL_NATS_USER={name}")
    print(f"export SHOAL_NATS_PASSWORD_FILE={bus.password_file(name)}")
    return 0


def _reap(pid: int) -> None:
    """A keeper that this very process started is gone only when it was waited for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except (ChildProcessError, OSError):
        pass
