"""The process behind ``make up``: runs the cluster, starts again what ends, and writes down how every part is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shoal_local import demo, nodes
from shoal_local.process import Child, started_at
from shoal_local.suite import Suite
from shoal_local.supervisor import Restarts
from shoal_testkit.api import Api

STATUS = "status.json"


@dataclass
class Part:
    """One process of the cluster."""

    pid: int = 0
    """0: it is down."""
    since: str = ""
    """When it began, in ticks since boot: with the pid it names the process for good."""
    restarts: int = 0


@dataclass
class Status:
    """How the cluster is; ``export`` are the variables for a shell, once it is up."""

    parts: dict[str, Part] = field(default_factory=dict)
    export: dict[str, str] = field(default_factory=dict)
    ready: bool = False

    def write(self, folder: Path) -> None:
        """Replace what stands there."""
        new = folder / f"{STATUS}.new"
        new.write_text(json.dumps(asdict(self)))
        new.rename(folder / STATUS)


def read(folder: Path) -> Status:
    """What was written last; nothing where nothing was."""
    try:
        found = json.loads((folder / STATUS).read_text())
        parts = {name: Part(**part) for name, part in found["parts"].items()}
        return Status(parts, found["export"], found["ready"])
    except (OSError, ValueError, TypeError, KeyError):
        return Status()


class Keeper:
    """Keeps a suite running in ``folder`` until ``end`` is set."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._restarts = folder, Restarts()
        self._suite = Suite(folder, restarts=self._restarts)
        self.end = threading.Event()

    def _beneath(self) -> Iterator[tuple[str, Child]]:
        """The control plane and the bus; services have a supervisor."""
        yield from list(self._suite.plane.children.items())
        if self._suite.bus.child:
            yield "nats", self._suite.bus.child

    def look(self) -> Status:
        """Start what is down and may be started again; says how all parts are."""
        found = Status()
        for name, child in self._beneath():
            if pid := child.pid:
                self._restarts.runs(name)
            elif self._restarts.due(name):
                print(f"{name} ended: it is started again. The end of its log:\n{child.tail(500)}", flush=True)
                child.start()
                pid = child.pid
            found.parts[name] = self._part(name, pid)
        for name, child in list(self._suite.services.children.items()):
            found.parts[name] = self._part(name, child.pid)
        return found

    def _part(self, name: str, pid: int) -> Part:
        return Part(pid, started_at(pid) if pid else "", self._restarts.counts.get(name, 0))

    def run(self) -> None:
        """Until the end. Raises NotStarted, BuildFailed where it can't even begin."""
        suite = self._suite
        try:
            suite.start(lambda text: print(text, flush=True))
            asyncio.run(_populate(suite))
            export = {
                "KUBECONFIG": str(suite.plane.kubeconfig), "PATH": str(suite.plane.kubectl().parent),
                "SHOAL_NATS_URL": suite.bus.url, "SHOAL_NATS_USER": "user",
                "SHOAL_NATS_PASSWORD_FILE": str(suite.bus.password_file("user")),
            }  # fmt: skip
            while True:
                status = self.look()
                status.export, status.ready = export, True
                status.write(self._folder)
                if self.end.wait(0.5):
                    return
        finally:
            suite.stop()


async def _populate(suite: Suite) -> None:
    async with Api.connect(suite.plane.kubeconfig) as api:
        await nodes.create(api, demo.NODES, demo.GPUS)
