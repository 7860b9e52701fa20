"""The embedded NATS of a local cluster: one user per service, each with the subjects that its work needs."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from pathlib import Path

from shoal_contracts.permissions import PUBLISH, permissions
from shoal_local.process import Child
from shoal_testkit.nats import binary, free_port


def configuration(passwords: dict[str, str]) -> str:
    """The server's configuration with one user for each entry."""
    users = []
    for name, password in sorted(passwords.items()):
        users.append({"user": name, "password": password, "permissions": permissions(name)})
    return json.dumps({"authorization": {"users": users}, "max_payload": 1 << 20}, indent=1)


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

    def start(self) -> None:
        """Start (again, on the same port). Raises NotStarted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        passwords = {}
        for user in PUBLISH:
            path = self.password_file(user)
            if not path.exists():
                path.touch(mode=0o600)
                path.write_text(secrets.token_urlsafe(24))
            passwords[user] = path.read_text()
        settings = self.folder / "nats.conf"
        settings.touch(mode=0o600)
        settings.write_text(configuration(passwords))
        command = [binary(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.folder / "js", "-c", settings]
        self.child = Child("nats", command, self.folder.parent / "logs" / "nats.log")
        self.child.start()

        def listens() -> bool:
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        self.child.wait_until(listens, 10, "listening")

    def kill(self) -> None:
        """End it at once."""
        if self.child:
            self.child.kill()

    def wipe(self) -> None:
        """Delete its data; only while it does not run."""
        shutil.rmtree(self.folder / "js", ignore_errors=True)
