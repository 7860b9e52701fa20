"""The embedded NATS of a local cluster: one account per user, each with the subjects that its work needs."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal_contracts import subjects
from shoal_contracts.permissions import USERS, configuration
from shoal_local.process import Child
from shoal_testkit.nats import binary, free_port, listens

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
"""Of a user of events."""


def server_configuration(passwords: Mapping[str, str], event_users: Mapping[str, Sequence[str]] | None = None) -> str:
    """The server's configuration: users of the suite, and those who read the events of some queues. Raises as
    ``configuration``."""
    tokens = {name: [subjects.token(queue) for queue in queues] for name, queues in (event_users or {}).items()}
    return json.dumps({"accounts": configuration(passwords, tokens), "max_payload": 1 << 20}, indent=1)


class LocalBus:
    """A nats-server with JetStream and a password file per user in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.child: Child | None = None

    def password_file(self, user: str) -> Path:
        """Where the password of ``user`` is."""
        return self.folder / f"{user}.password"

    def event_users(self) -> dict[str, list[str]]:
        """Users of events -> their queues."""
        path = self.folder / "event-users.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def add_event_user(self, name: str, queues: Sequence[str]) -> None:
        """A user who reads the events of these queues, in the configuration; a server that runs has to be started anew.

        Raises ValueError for a name that can't be given.
        """
        if not NAME.fullmatch(name) or name in USERS:
            raise ValueError(f"{name!r} can't name a user of events: small letters, digits and -, and no service's name")
        event_users = self.event_users() | {name: list(queues)}
        (self.folder / "event-users.json").write_text(json.dumps(event_users))
        self._write()

    def _write(self) -> Path:
        """The configuration, and passwords that are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        passwords, event_users = {}, self.event_users()
        for user in (*USERS, *event_users):
            path = self.password_file(user)
            if not path.exists():
                path.touch(mode=0o600)
                path.write_text(secrets.token_urlsafe(24))
            passwords[user] = path.read_text()
        settings = self.folder / "nats.conf"
        settings.touch(mode=0o600)
        settings.write_text(server_configuration(passwords, event_users))
        return settings

    def start(self) -> None:
        """Start (again, on the same port). Raises NotStarted."""
        settings = self._write()
        command = [binary(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.folder / "js", "-c", settings]
        self.child = Child("nats", command, self.folder.parent / "logs" / "nats.log")
        self.child.start()
        self.child.wait_until(lambda: listens(self.port), 10, "listening")

    def kill(self) -> None:
        """End it at once."""
        if self.child:
            self.child.kill()

    def wipe(self) -> None:
        """Delete its data; only while it does not run."""
        shutil.rmtree(self.folder / "js", ignore_errors=True)
