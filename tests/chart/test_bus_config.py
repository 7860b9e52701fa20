"""The NATS configuration that the chart renders, on the real server: accepted, and what each user may do."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shoal_bus import Bus, BusConfig, BusError, Unavailable
from shoal_contracts import streams, subjects
from shoal_contracts.permissions import PEOPLE, USERS, configuration
from shoal_testkit.chart import Rendered, template
from shoal_testkit.nats import binary, free_port, listens


def written(found: Rendered, folder: Path, port: int) -> Path:
    """The server's files as its pod has them, at other places."""
    for name, text in found.secret("shoal-nats-tls").items():
        (folder / name).write_text(text)
    text = found.secret("shoal-nats-config")["nats.conf"]
    for old, new in (
        ("/etc/nats/tls", str(folder)), ("/data", str(folder / "js")), ("0.0.0.0:4222", f"127.0.0.1:{port}"),
        ("127.0.0.1:8222", f"127.0.0.1:{free_port()}"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (folder / "nats.conf").write_text(text)
    return folder / "nats.conf"


@pytest.mark.parametrize("name", ["plain", "large"])
def test_the_server_accepts_it(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = written(request.getfixturevalue(name), tmp_path, 4222)
    done = subprocess.run(
        [binary(), "-t", "-c", path], env=os.environ | {"POD_NAME": "shoal-nats-0"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_users_of_events_have_the_accounts_that_the_contracts_say(render: Callable[..., Rendered], tmp_path: Path) -> None:
    users = [{"name": "blue", "queues": ["blue", "blue.night"]}, {"name": "green-2", "queues": ["green"]}]
    found = render({"nats": {"eventUsers": users}})
    text = found.secret("shoal-nats-config")["nats.conf"]
    accounts = json.loads(next(line for line in text.splitlines() if line.startswith("accounts ")).removeprefix("accounts "))
    event_users = {"blue": ["blue", "blue=2enight"], "green-2": ["green"]}
    wanted = configuration(found.passwords, event_users) | {"SYS": {}}

    def sets(value: Any) -> Any:
        """Lists of imports and of subjects without their order."""
        if isinstance(value, dict):
            return {k: sets(v) for k, v in value.items()}
        in_order = partial(json.dumps, sort_keys=True)
        return sorted((sets(v) for v in value), key=in_order) if isinstance(value, list) else value

    assert sets(accounts) == sets(wanted)
    done = subprocess.run(
        [binary(), "-t", "-c", written(found, tmp_path, 4222)], env=os.environ | {"POD_NAME": "x"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["scheduler", "user", "Blue", "a_b", "SYS"])
def test_a_user_of_events_may_not_have_any_name(helm: Path, name: str) -> None:
    done = template(helm, {"nats": {"eventUsers": [{"name": name, "queues": ["q"]}]}})
    assert done.returncode != 0
    assert "eventUsers" in done.stderr


@pytest.fixture(scope="module")
def bus(plain: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """(url, CA, password by user) of a server that runs with it."""
    folder, port = tmp_path_factory.mktemp("nats"), free_port()
    path = written(plain, folder, port)
    environment = os.environ | {"POD_NAME": "shoal-nats-0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary(), "-c", path], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not listens(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"tls://127.0.0.1:{port}", folder / "ca.crt", plain.passwords
    finally:
        process.kill()
        process.wait(10)


Running = tuple[str, Path, dict[str, str]]


def config(bus: Running, user: str, password: str = "") -> BusConfig:
    url, ca, passwords = bus
    return BusConfig(url, user, user, password or passwords[user], ca_file=str(ca), timeout=0.5, connect_timeout=3.0)


async def allowed(bus: Running, user: str, subject: str) -> bool:
    """Whether the user's message is stored."""
    async with Bus.connect(config(bus, user)) as connected:
        try:
            await connected.publish(subject, b"{}")
        except BusError:
            return False
        return True


async def make(bus: Running) -> None:
    async with Bus.connect(config(bus, "cluster-state")) as connected:
        await connected.ensure([streams.STATE])
    async with Bus.connect(config(bus, "scheduler")) as connected:
        await connected.ensure([streams.DECISION, streams.EVENT, streams.LOG], [streams.BINDER])


PLANES = {
    "state": subjects.state("node", "n"), "decision": subjects.decision("u"), "outcome": subjects.outcome("u"),
    "event": subjects.event("q", "pod", "bound", "ns", "p"), "log": subjects.log("input"),
}  # fmt: skip
WRITERS = {
    "state": {"cluster-state"}, "decision": {"scheduler"}, "outcome": {"scheduler", "binder"},
    "event": {"scheduler", "binder"}, "log": {"scheduler"},
}  # fmt: skip


async def test_each_plane_has_its_writers_and_no_others(bus: Running) -> None:
    await make(bus)
    for plane, subject in PLANES.items():
        found = {user for user in USERS if await allowed(bus, user, subject)}
        assert found == WRITERS[plane], plane


async def test_no_user_takes_anothers_stream_or_answers_in_its_name(bus: Running) -> None:
    await make(bus)
    async with Bus.connect(config(bus, "binder")) as binder:
        with pytest.raises(Unavailable):
            await binder.purge(streams.DECISION.name, subjects.decision("u"))
    async with Bus.connect(config(bus, "user")) as user:
        with pytest.raises(Unavailable):
            await user.last(streams.DECISION.name, subjects.decision("u"))


async def test_a_wrong_password_and_no_password_are_refused(bus: Running) -> None:
    with pytest.raises(Unavailable):
        async with Bus.connect(config(bus, "scheduler", "wrong")):
            pass
    url, ca, _ = bus
    with pytest.raises(Unavailable):
        async with Bus.connect(BusConfig(url, "nobody", ca_file=str(ca), connect_timeout=2.0)):
            pass


def test_passwords_are_long_and_differ(plain: Rendered) -> None:
    passwords = plain.passwords
    assert set(passwords) == {*USERS, "route"}
    assert set(passwords) > PEOPLE
    assert len(set(passwords.values())) == len(passwords)
    assert min(len(p) for p in passwords.values()) >= 32
