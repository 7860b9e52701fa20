"""The command ``shoal``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from shoal_client.objects import CantRead, configuration, read
from shoal_client.show import as_json, tables
from shoal_client.simulate import simulate
from shoal_core.configuration import BadConfiguration
from shoal_model.quantity import BadQuantity, seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0: done, 2: the input or configuration can't be used."""
    parser = argparse.ArgumentParser(prog="shoal", description="Shoal, a scheduler for GPU and batch work on Kubernetes")
    commands = parser.add_subparsers(dest="command", required=True)
    sim = commands.add_parser("simulate", help="what the scheduler would decide on a snapshot or a folder of YAML")
    sim.add_argument("path", type=Path, help="a snapshot in KAI's format (zip or JSON), or YAML: a file or a folder")
    sim.add_argument("--until-stable", action="store_true", help="cycles until nothing changes (at most 50)")
    sim.add_argument("--json", action="store_true", help="everything, for programs")
    sim.add_argument("--config", type=Path, help="scheduler configuration, in the reference's format")
    sim.add_argument("--now", help="the time of the first cycle, RFC 3339; default: a second after the newest object")
    given = parser.parse_args(arguments)
    try:
        snapshot = read(given.path)
        if given.config:
            snapshot.config = configuration(given.config)
        found = simulate(snapshot, now=seconds(given.now) if given.now else None, until_stable=given.until_stable)
    except (CantRead, BadConfiguration, BadQuantity, OSError) as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(as_json(found))
    else:
        tables(found, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
