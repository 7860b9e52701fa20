"""The command ``shoal``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console

from shoal_bus import BusError
from shoal_client.log import AUDITOR, fetch
from shoal_client.objects import CantRead, configuration, read
from shoal_client.replay import BadLog, messages, replay
from shoal_client.show import as_json, tables
from shoal_client.simulate import simulate
from shoal_contracts import subjects
from shoal_core.configuration import BadConfiguration
from shoal_model.quantity import BadQuantity, seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0: done, 1: a replay came to other decisions, 2: the input or configuration can't be used."""
    parser = argparse.ArgumentParser(prog="shoal", description="Shoal, a scheduler for GPU and batch work on Kubernetes")
    commands = parser.add_subparsers(dest="command", required=True)
    sim = commands.add_parser("simulate", help="what the scheduler would decide on a snapshot or a folder of YAML")
    sim.add_argument("path", type=Path, help="a snapshot in KAI's format (zip, gzip or JSON), or YAML: a file or a folder")
    sim.add_argument("--until-stable", action="store_true", help="cycles until nothing changes (at most 50), delays waited out")
    sim.add_argument("--json", action="store_true", help="everything, for programs")
    sim.add_argument("--config", type=Path, help="scheduler configuration, in the reference's format")
    sim.add_argument("--compatibility", metavar="RELEASE", help='"0.17": keep what KAI-Scheduler v0.17 decides')
    sim.add_argument("--now", help="the time of the first cycle, RFC 3339; default: a second after the newest object")
    sim.set_defaults(run=_simulate)
    log = commands.add_parser("log", help="write the scheduler's log of inputs and decisions as JSON lines")
    log.add_argument("--nats", required=True, metavar="URL", help="the bus, as nats://host:port")
    log.add_argument("--password-file", required=True, type=Path, help=f"password of the user {AUDITOR}")
    log.add_argument("--ca-file", type=Path, help="certificate of the authority that signed the server's, where it speaks TLS")
    log.add_argument("--shard", default=subjects.DEFAULT_SHARD)
    log.set_defaults(run=_log)
    again = commands.add_parser("replay", help="run the cycles of a log again and compare what they decide")
    again.add_argument("path", help="what `shoal log` wrote; - is standard input")
    again.set_defaults(run=_replay)
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except (CantRead, BadConfiguration, BadQuantity, BadLog, BusError, OSError) as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 2


def _simulate(given: argparse.Namespace) -> int:
    snapshot = read(given.path)
    if given.config:
        snapshot.config = configuration(given.config)
    if given.compatibility is not None:
        snapshot.config = {**snapshot.config, "compatibility": given.compatibility}
    found = simulate(snapshot, now=seconds(given.now) if given.now else None, until_stable=given.until_stable)
    if given.json:
        print(as_json(found))
    else:
        tables(found, Console())
    return 0


def _log(given: argparse.Namespace) -> int:
    count = asyncio.run(fetch(given.nats, given.password_file, given.ca_file, given.shard, sys.stdout.buffer))
    print(f"{count} messages", file=sys.stderr)
    return 0


def _replay(given: argparse.Namespace) -> int:
    with sys.stdin.buffer if given.path == "-" else Path(given.path).open("rb") as lines:
        found = replay(messages(lines))
    for epoch, number in found.different:
        print(f"epoch {epoch}, cycle {number}: other decisions or reasons")
    print(f"{found.cycles - len(found.different)} of {found.cycles} cycles came to the same; {found.skipped} messages skipped")
    return 1 if found.different else 0


if __name__ == "__main__":
    sys.exit(main())
