"""The embedded NATS of a local cluster: one user per service, each with the subjects that its work needs."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from pathlib import Path

from shoal_local.process import Child
from shoal_testkit.nats import binary, free_port


def _owner(stream: str) -> list[str]:
    return [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "CREATE", "UPDATE")]


def _reader(stream: str) -> list[str]:
    return [
        f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.>", f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", f"$JS.API.STREAM.MSG.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
    ]  # fmt: skip


PERMISSIONS: dict[str, list[str]] = {
    "cluster-state": ["shoal.v1.state.>", *_owner("SHOAL_STATE"), *_reader("SHOAL_STATE")],
    "pod-grouper": [*_reader("SHOAL_STATE")],
    "queue-controller": [*_reader("SHOAL_STATE")],
    "scheduler": [
        "shoal.v1.decision.>", "shoal.v1.outcome.>", "shoal.v1.event.>", "shoal.v1.log.>", *_reader("SHOAL_STATE"),
        *_reader("SHOAL_DECISION"), *_owner("SHOAL_DECISION"), *_owner("SHOAL_EVENT"), *_owner("SHOAL_LOG"),
        "$JS.API.STREAM.PURGE.SHOAL_DECISION", "$JS.API.CONSUMER.DURABLE.CREATE.SHOAL_DECISION.binder",
    ],
    "binder": [
        "shoal.v1.outcome.>", "shoal.v1.event.>", "$JS.ACK.SHOAL_DECISION.>", *_reader("SHOAL_DECISION"),
        "shoal.v1.q.gpu-reservation.reserve.*",
    ],
    "gpu-reservation": ["shoal.v1.state.*.gpu.>", *_reader("SHOAL_STATE"), *_reader("SHOAL_DECISION")],
    "auditor": [*_reader("SHOAL_LOG")],
    "user": [*_reader("SHOAL_EVENT"), "shoal.v1.q.*.health"],
}  # fmt: skip
"""User -> subjects that it may publish to; all may answer requests and use their own inbox."""


def configuration(passwords: dict[str, str]) -> str:
    """The server's configuration with one user for each entry."""
    users = []
    for name, password in sorted(passwords.items()):
        subscribe = [f"_INBOX_{name}.>"] + ([f"shoal.v1.q.{name}.>"] if name not in ("user", "auditor") else [])
        permissions = {"publish": PERMISSIONS[name], "subscribe": subscribe, "allow_responses": True}
        users.append({"user": name, "password": password, "permissions": permissions})
    return json.dumps({"authorization": {"users": users}, "max_payload": 1 << 20}, indent=1)


class LocalBus:
    """A nats-server with JetStream and a password file per user in ``folder``."""

    def __init__(self, folder: Path, *, detached: bool = False) -> None:
        self.folder, self._detached = folder, detached
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
        for user in PERMISSIONS:
            path = self.password_file(user)
            if not path.exists():
                path.touch(mode=0o600)
                path.write_text(secrets.token_urlsafe(24))
            passwords[user] = path.read_text()
        settings = self.folder / "nats.conf"
        settings.touch(mode=0o600)
        settings.write_text(configuration(passwords))
        command = [binary(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.folder / "js", "-c", settings]
        self.child = Child("nats", command, self.folder.parent / "logs" / "nats.log", detached=self._detached)
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
