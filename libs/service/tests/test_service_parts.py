"""The frame's parts one by one: settings, failpoints, traces, what is put aside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from shoal_contracts.state import NodeRecord
from shoal_service import aside, failpoint
from shoal_service.clock import FakeClock
from shoal_service.config import BadConfig, Common, load
from shoal_service.http import for_near, serving
from shoal_service.metrics import SET_ASIDE, Bounded


class Settings(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of a service of the test."""

    workers: int = 4


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("workers: 8\nshard: blue\n")
    found = load(Settings, str(file), {"SHOAL_WORKERS": "16", "SHOAL_ELECT": "false", "UNRELATED": "x"})
    assert (found.workers, found.shard, found.elect, found.namespace) == (16, "blue", False, "kai-scheduler")


class Nested(Common, kw_only=True, forbid_unknown_fields=True):
    flags: dict[str, int] = {}


def test_an_overlay_wins_key_by_key_and_may_be_absent(tmp_path: Path) -> None:
    file, overlay = tmp_path / "c.yaml", tmp_path / "o.yaml"
    file.write_text("shard: blue\nqps: 5\nflags: {a: 1, b: 1}\n")
    environment = {"SHOAL_OVERLAY": str(overlay)}
    assert load(Nested, str(file), environment).flags == {"a": 1, "b": 1}
    overlay.write_text("shard: red\nflags: {b: 2}\n")
    found = load(Nested, str(file), environment)
    assert (found.shard, found.qps, found.flags) == ("red", 5, {"a": 1, "b": 2})
    overlay.write_text("shrad: red\n")
    with pytest.raises(BadConfig, match="shrad"):
        load(Nested, str(file), environment)


@pytest.mark.parametrize(
    ("text", "environment", "told"),
    [
        ("wrokers: 8\n", {}, "wrokers"),
        ("", {"SHOAL_WORKERS": "many"}, r"\$.workers"),
        ("- a\n", {}, "holds no settings"),
        ("a: [\n", {}, "c.yaml"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, environment: dict[str, str], told: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig, match=told):
        load(Settings, str(file), environment)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nowhere\.yaml"):
        load(Settings, str(tmp_path / "nowhere.yaml"), {})


class Log:
    def warning(self, *_: Any, **__: Any) -> None:
        pass


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b'{"kind":"pod.v1"}', b"[" * 100_000])
def test_what_does_not_decode_is_counted_and_kept_in_part(data: bytes) -> None:
    before = SET_ASIDE.labels("state")._value.get()
    decoder = msgspec.json.Decoder(NodeRecord)
    assert aside.decode(decoder, data, "shoal.v1.state.default.node.x", Log()) is None
    assert SET_ASIDE.labels("state")._value.get() == before + 1
    assert len(aside.ASIDE[-1]["message"]) <= aside.SHOWN
    assert len(aside.ASIDE) <= aside.KEPT


async def test_a_failpoint_fires_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "points"
    file.write_text("here error\nthere sleep:0\n")
    monkeypatch.setattr(failpoint, "_FILE", str(file))
    await failpoint.reach("nowhere")
    with pytest.raises(failpoint.Failpoint):
        await failpoint.reach("here")
    await failpoint.reach("here")
    await failpoint.reach("there")
    assert file.read_text() == ""
    assert file.with_suffix(".fired").read_text() == "here error\nthere sleep:0\n"


TRACED = """
import sys
from shoal_service import telemetry
telemetry.set_up("one", 1.0, sys.argv[1])
with telemetry.span("watch", root=True) as parent:
    pass
with telemetry.span("decide", parent, pod="p") as further:
    assert further.split("-")[1] == parent.split("-")[1]
with telemetry.span("unrelated") as nothing:
    assert nothing == ""
telemetry.shut_down()
"""


def test_a_story_is_one_trace_across_messages(tmp_path: Path) -> None:
    file = tmp_path / "spans"
    subprocess.run([sys.executable, "-c", TRACED, str(file)], check=True, timeout=60)
    watch, decide = [json.loads(line) for line in file.read_text().splitlines()]
    assert (watch["parent"], decide["parent"]) == ("", watch["span"])
    assert decide["attributes"] == {"pod": "p"}


def test_without_tracing_the_sdk_is_not_even_imported() -> None:
    code = "import sys; from shoal_service import telemetry; telemetry.set_up('x', 0.0, ''); " \
        "assert not any(m.startswith('opentelemetry.sdk') for m in sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(100.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 2.5)


@pytest.mark.parametrize(("remote", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.244.0.7", 403), (None, 403)])
async def test_pages_for_debugging_answer_to_the_machine_itself(remote: str | None, status: int) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="stacks")

    request = make_mocked_request("GET", "/debug/stacks").clone(remote=remote)
    try:
        answer = await for_near(page)(request)
    except web.HTTPException as error:
        answer = error
    assert answer.status == status


@pytest.mark.parametrize(
    ("waiting", "status"), [([], 200), (["state"], 503), (["leadership"], 200), (["leadership", "state"], 200)]
)
async def test_a_standby_is_ready(waiting: list[str], status: int) -> None:
    async with (
        serving("127.0.0.1", 0, "", lambda: waiting) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/readyz") as answer,
    ):
        assert answer.status == status
        assert [w in await answer.text() for w in waiting] == [True] * len(waiting)


def test_a_label_has_few_values_whatever_comes() -> None:
    bounded = Bounded(2)
    assert [bounded(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]
