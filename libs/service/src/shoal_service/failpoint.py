"""Failpoints: places where a test makes the process die, wait or fail.

``SHOAL_FAILPOINTS_FILE`` names a file with lines ``place action``; it is read each time a place is reached, and a line
that has fired is removed. Actions: ``kill``, ``stop`` (SIGSTOP), ``sleep:SECONDS``, ``error``. Without the variable
reaching a place costs one comparison.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

_FILE = os.environ.get("SHOAL_FAILPOINTS_FILE", "")


class Failpoint(Exception):
    """The error that the action ``error`` raises."""


async def reach(place: str) -> None:
    """Do what the file says of this place. Raises Failpoint for ``error``."""
    if not _FILE:
        return
    path = Path(_FILE)
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for i, line in enumerate(lines):
        name, _, action = line.partition(" ")
        if name != place:
            continue
        path.write_text("".join(f"{x}\n" for x in lines[:i] + lines[i + 1 :]))
        path.with_suffix(".fired").open("a").write(f"{line}\n")
        match action.partition(":"):
            case ("kill", _, _):
                os.kill(os.getpid(), signal.SIGKILL)
            case ("stop", _, _):
                os.kill(os.getpid(), signal.SIGSTOP)
            case ("sleep", _, seconds):
                await asyncio.sleep(float(seconds))
            case _:
                raise Failpoint(place)
        return
