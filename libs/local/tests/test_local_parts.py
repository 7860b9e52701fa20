"""What a local cluster is made of: cache keys, certificates, the bus's users, notes of what runs."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from shoal_contracts.permissions import USERS
from shoal_local import binaries
from shoal_local.bus import LocalBus, server_configuration
from shoal_local.certs import Authority
from shoal_local.process import running, started_at
from shoal_local.supervisor import SERVICES


def test_another_pin_is_another_build(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "go.mod").write_text("v1")
    first = binaries.key("go1.26", tmp_path)
    assert first == binaries.key("go1.26", tmp_path)
    assert first != binaries.key("go1.27", tmp_path)
    (tmp_path / "a" / "go.mod").write_text("v2")
    assert first != binaries.key("go1.26", tmp_path)


def program(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


def test_a_binary_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = program(tmp_path, "mine", "anything")
    for name in (*binaries.NAMES, "stages"):
        monkeypatch.setenv(f"SHOAL_{name.upper().replace('-', '_')}", str(mine))
    said: list[str] = []
    assert set(binaries.find(said.append).values()) == {mine}
    assert said == []
    monkeypatch.setenv("SHOAL_ETCD", str(tmp_path / "nowhere"))
    with pytest.raises(binaries.BuildFailed, match=r"etcd: .*nowhere is not there"):
        binaries.find(said.append)


def test_a_binary_on_path_is_used_if_it_is_of_the_same_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    mine = program(tmp_path, "etcd", "etcd Version: 3.7.9")
    program(tmp_path, "kube-apiserver", "Kubernetes v1.30.1")
    assert binaries.on_path("etcd") == str(mine)
    assert binaries.on_path("kube-apiserver") is None
    assert binaries.on_path("kwok") is None


def test_certificates_are_signed_by_their_authority_and_keys_are_private(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", "kube-apiserver", hosts=("127.0.0.1", "localhost"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.load_cert_chain(certificate, key)
    private, _ = authority.service_account_key()
    assert {p.stat().st_mode & 0o777 for p in (key, authority.ca_key, private)} == {0o600}


def test_each_service_has_a_user_and_an_account_of_its_own_with_least_rights() -> None:
    assert set(USERS) == {*SERVICES, "user", "auditor"}
    accounts = json.loads(server_configuration({name: f"secret-{name}" for name in USERS}))["accounts"]
    users = {u["user"]: u["permissions"] for part in accounts.values() for u in part["users"]}
    assert len(accounts) == len(users) == len(USERS)
    may = {name: set(p["publish"]) for name, p in users.items()}
    assert [n for n, subjects in may.items() if "shoal.v1.decision.>" in subjects] == ["scheduler"]
    assert [n for n, subjects in may.items() if "shoal.v1.state.>" in subjects] == ["cluster-state"]
    assert not any(s in (">", "$JS.API.>", "$JS.>") for subjects in may.values() for s in subjects)
    assert all(p["subscribe"][0] == f"_INBOX_{name}.>" for name, p in users.items())


def test_a_pid_that_another_process_has_by_now_is_not_ours() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        since = started_at(child.pid)
        assert running({"a": [str(child.pid), since]}) == {"a": child.pid}
        assert running({"a": [str(child.pid), "12345"], "b": ["999999999", since], "c": [str(os.getpid()), ""]}) == {}
        child.communicate(b"\n")
    assert running({"a": [str(child.pid), since]}) == {}


def test_a_user_of_events_is_in_the_configuration_from_then_on(tmp_path: Path) -> None:
    bus = LocalBus(tmp_path / "bus")
    bus.folder.mkdir()
    for name in ("scheduler", "Team", "a b", "", "x" * 40):
        with pytest.raises(ValueError, match="can't name a user of events"):
            bus.add_event_user(name, ["q"])
    bus.add_event_user("team-a", ["a.night"])
    bus.add_event_user("team-b", ["b"])
    accounts = json.loads((tmp_path / "bus/nats.conf").read_text())["accounts"]
    (user,) = accounts["SHOAL_TEAM_A"]["users"]
    assert user["password"] == bus.password_file("team-a").read_text()
    assert "$JS.SHOAL.API.CONSUMER.CREATE.SHOAL_EVENT.team-a.shoal.v1.event.*.a=2enight.>" in user["permissions"]["publish"]
    assert "SHOAL_TEAM_B" in accounts
    assert bus.password_file("team-a").stat().st_mode & 0o777 == 0o600
    # A second time: other queues, the same password, and the others stay.
    bus.add_event_user("team-a", ["c"])
    accounts = json.loads((tmp_path / "bus/nats.conf").read_text())["accounts"]
    (again,) = accounts["SHOAL_TEAM_A"]["users"]
    assert again["password"] == user["password"]
    assert "a=2enight" not in json.dumps(accounts["SHOAL_TEAM_A"])
    assert "SHOAL_TEAM_B" in accounts
