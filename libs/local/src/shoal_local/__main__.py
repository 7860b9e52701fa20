"""``python -m shoal_local binaries|demo|up|down``."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from shoal_local import binaries, demo, standing
from shoal_local.process import NotStarted


def main() -> int:
    """Run one command; gives the exit status."""
    options = argparse.ArgumentParser(prog="shoal_local", description="Shoal on a local control plane")
    options.add_argument("command", choices=("binaries", "demo", "up", "down"))
    # A terminated command cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        match options.parse_args().command:
            case "binaries":
                binaries.find()
                return 0
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
            case _:
                return standing.down()
    except (binaries.BuildFailed, NotStarted) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
