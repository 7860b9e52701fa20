"""``python -m shoal_local binaries|tools|demo|up|status|credentials|down|node-packages|node-images|node-up|node-down``."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from shoal_local import binaries, demo, standing
from shoal_local.node import docker, images, node, preflight
from shoal_local.process import NotStarted

COMMANDS = (
    "binaries", "tools", "demo", "up", "status", "credentials", "down", "keep", "node-packages", "node-images", "node-up",
    "node-down",
)  # fmt: skip


def _packages() -> int:
    wanted = sorted({*preflight.packages(), *preflight.packages(preflight.DOCKER)})
    if problem := preflight.install(wanted):
        raise node.NotHere(problem)
    print(f"installed: {', '.join(wanted)}" if wanted else "all packages are there")
    if lacking := preflight.lacks():
        raise node.NotHere("a real node can't run here; missing: " + "; ".join(lacking))
    return 0


def main() -> int:
    """Run one command; gives the exit status."""
    options = argparse.ArgumentParser(prog="shoal_local", description="Shoal on a local control plane")
    options.add_argument("command", choices=COMMANDS)
    options.add_argument("--name", default="", help="credentials: of the new user")
    options.add_argument("--queue", action="append", default=[], help="credentials: a queue whose events the user may read")
    # A terminated command cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        given = options.parse_args()
        match given.command:
            case "binaries":
                binaries.find()
            case "tools":
                binaries.tools()
            case "demo":
                folder = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
                status = demo.run(folder)
                if status == 1:
                    print(f"logs are in {folder}", file=sys.stderr)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                return status
            case "up":
                return standing.up()
            case "status":
                return standing.status()
            case "credentials":
                return standing.credentials(given.name, given.queue)
            case "keep":
                return standing.keep()
            case "down":
                return standing.down()
            case "node-packages":
                return _packages()
            case "node-images":
                print(docker.suite(images.cache() / "dockerd.log"))
            case "node-up":
                node.up()
            case _:
                node.down()
        return 0
    except (binaries.BuildFailed, NotStarted, node.NotHere, images.NoImage) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
