"""A cluster that stays: what is started again when, and what is said of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shoal_local import keeper, standing
from shoal_local.keeper import Part, Status
from shoal_local.process import started_at
from shoal_local.supervisor import LONGEST_PAUSE, Restarts


class Time:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def waits(restarts: Restarts, clock: Time) -> float:
    """Seconds until the part, which has just ended, is started again."""
    began = clock.at
    while not restarts.due("x"):
        clock.at += 0.5
    return clock.at - began


def test_what_ends_again_and_again_waits_longer_each_time() -> None:
    clock = Time()
    restarts = Restarts(clock)
    restarts.runs("x")
    pauses = [waits(restarts, clock) for _ in range(8)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert restarts.counts == {"x": 8}


def test_what_ran_for_long_is_started_again_at_once() -> None:
    clock = Time()
    restarts = Restarts(clock)
    for _ in range(5):
        waits(restarts, clock)
    restarts.runs("x")
    clock.at += LONGEST_PAUSE
    restarts.runs("x")
    assert waits(restarts, clock) == 1
    assert restarts.counts == {"x": 6}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_STATE_DIR", str(tmp_path))
    return tmp_path


def here() -> Part:
    return Part(os.getpid(), started_at(os.getpid()))


def kept(folder: Path, status: Status) -> None:
    status.write(folder)
    (folder / "keeper.json").write_text(json.dumps([str(os.getpid()), started_at(os.getpid())]))


def test_nothing_is_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert standing.status() == 1
    assert "it is down" in capsys.readouterr().out
    assert standing.down() == 0
    assert "nothing was up" in capsys.readouterr().out


def test_status_says_what_is_down_and_what_was_started_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"etcd": here(), "scheduler-0": Part(0, "", 2), "binder-0": Part(os.getpid(), "another process")}
    kept(folder, Status(parts, {"KUBECONFIG": "/k"}, ready=True))
    assert standing.status() == 1
    said = capsys.readouterr().out
    assert "down, started again soon: scheduler-0, binder-0" in said
    assert "restarted 2 times" in said
    kept(folder, Status({"etcd": here()}, {"KUBECONFIG": "/k"}, ready=True))
    assert standing.status() == 0
    assert "all 1 processes run: KUBECONFIG=/k" in capsys.readouterr().out


def test_a_cluster_whose_keeper_ended_is_not_said_to_be_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Status({"etcd": Part(1, "0")}, {}, ready=True).write(folder)
    (folder / "keeper.json").write_text(json.dumps(["1", "0"]))
    assert standing.status() == 1
    assert "it has ended" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"parts": {"a": {"pid": 1, "odd": 2}}, "export": {}, "ready": true}'])
def test_a_status_that_nothing_can_read_is_none(folder: Path, text: str) -> None:
    (folder / keeper.STATUS).write_text(text)
    assert keeper.read(folder) == Status()
