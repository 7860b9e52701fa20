"""shoal replay: the same log gives the same decisions; what is lost, wrong or different is said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shoal_client.__main__ import main
from shoal_contracts.base import Message, encode
from shoal_contracts.journal import Applied, Assumed, AssumedGone, Barred, Decided, Forgotten, Input, Removed, Step
from shoal_core import Cluster, Settings, cycle
from shoal_core.results import digest
from shoal_testkit.small import CLASSES, node, queue, work

STEPS: list[list[Step]] = [
    [Applied(record=r) for r in (*CLASSES, queue("q"), node("a", 4), *work("one", gpus=2), *work("two", gpus=3))],
    [Forgotten(uid="one-0"), Barred(uid="one-0", barred=True)],
    [Barred(uid="one-0"), Removed(what="group", namespace="ns", name="two"), Removed(what="pod", namespace="ns", name="two-0")],
    [Assumed(uid="one-0", node="a"), AssumedGone(uid="one-0"), *(Applied(record=r) for r in work("three", gpus=4))],
]


def log() -> list[Message]:
    """What a scheduler would have written of these steps."""
    settings = Settings(queue_depth={"reclaim": 3}, numa_ignored=frozenset({"x"}))
    cluster, found = Cluster(settings), []
    for number, steps in enumerate(STEPS):
        given = msgspec.to_builtins(settings) if not number else {}
        found.append(Input(epoch=1, cycle=number, steps=steps, last=True, now=100.0 + number, settings=given))
        for step in steps:
            match step:
                case Applied(record=record):
                    cluster.apply(record)
                case Removed(what=what, namespace=namespace, name=name):
                    cluster.remove(what, namespace, name)
                case Assumed(uid=uid, node=at):
                    cluster.assume(uid, at)
                case AssumedGone(uid=uid):
                    cluster.assume_gone(uid)
                case Forgotten(uid=uid):
                    cluster.forget(uid)
                case Barred(uid=uid, barred=barred):
                    cluster.bar(uid, barred)
        found.append(Decided(epoch=1, cycle=number, digest=digest(cycle(cluster, now=100.0 + number))))
    return found


def written(folder: Path, messages: list[Message]) -> str:
    path = folder / "log.jsonl"
    path.write_bytes(b"\n".join(map(encode, messages)))
    return str(path)


def test_every_cycle_comes_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", written(tmp_path, log())]) == 0
    assert capsys.readouterr().out == "4 of 4 cycles came to the same; 0 messages skipped\n"


def test_another_decision_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = log()
    first = messages[0]
    assert isinstance(first, Input)
    # A node that the scheduler had is not in the log.
    messages[0] = msgspec.structs.replace(
        first, steps=[s for s in first.steps if not (isinstance(s, Applied) and s.record == node("a", 4))]
    )
    assert main(["replay", written(tmp_path, messages)]) == 1
    out = capsys.readouterr().out
    assert "epoch 1, cycle 0: other decisions or reasons" in out


def test_after_a_gap_nothing_is_claimed_until_a_leader_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = log()
    gap = messages[2]
    assert isinstance(gap, Input)
    messages[2] = msgspec.structs.replace(gap, gap=7)
    assert main(["replay", written(tmp_path, [*messages, *log()])]) == 0
    assert capsys.readouterr().out == "5 of 5 cycles came to the same; 6 messages skipped\n"


@pytest.mark.parametrize(
    "line", [b"{}", b"not json", b'{"kind":"input.v1"}', b'{"kind":"input.v1","epoch":1,"cycle":0,"settings":{"actions":3}}']
)
def test_a_line_that_is_no_message_is_told(line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(line)
    assert main(["replay", str(tmp_path / "log")]) == 2
    assert capsys.readouterr().err.startswith("shoal: ")
