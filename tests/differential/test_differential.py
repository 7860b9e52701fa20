"""Decisions on random clusters against the reference's: those that may differ are listed in docs/differences.md."""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.util
import random
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
SHIFT = dt.timedelta(days=400, hours=5)


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("differential", Path(__file__).parent / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    return runner


@pytest.mark.parametrize(
    ("expected", "script"),
    [("expected", "random_cluster"), ("divergent", "random_cluster"), ("wide", "wide_cluster")],
)
def test_decisions_are_those_of_the_reference(tmp_path: Path, expected: str, script: str) -> None:
    wanted = SHARED / "differential" / f"{expected}.json"
    if not wanted.exists():
        pytest.skip(f"{wanted} is not here")
    runner = _runner()
    failures = tmp_path / "failures.txt"
    _, compared = runner.compare(wanted, SHARED / "bench" / f"{script}.py", failures)
    assert compared
    different = set(re.findall(r"^(\d+)", failures.read_text(), re.MULTILINE))
    explained = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "differences.md").read_text(), re.MULTILINE))
    assert different <= explained


def _changed(found: Any, names: set[str]) -> Any:
    """With other names (in the same order) and later."""
    if isinstance(found, dict):
        return {key: _changed(value, names) for key, value in found.items()}
    if isinstance(found, list):
        return [_changed(value, names) for value in found]
    if not isinstance(found, str):
        return found
    if TIME.fullmatch(found):
        return (dt.datetime.fromisoformat(found) + SHIFT).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"x-{found}" if found in names else found


def test_a_folder_or_a_script_makes_the_clusters() -> None:
    if not (SHARED / "bench").is_dir():
        pytest.skip(f"{SHARED / 'bench'} is not here")
    runner = _runner()
    by_folder = runner.generator(SHARED / "bench").build(3).objects
    assert by_folder == runner.generator(SHARED / "bench" / "random_cluster.py").build(3).objects
    assert by_folder != runner.generator(SHARED / "bench" / "wide_cluster.py").build(3).objects


@pytest.mark.parametrize("seed", [76, 118, 178, 213, 216, 339, *range(2000, 2030)])
def test_names_order_of_lists_and_the_time_do_not_matter(seed: int) -> None:
    if not (SHARED / "bench").is_dir():
        pytest.skip(f"{SHARED / 'bench'} is not here")
    runner = _runner()
    objects = runner.generator(SHARED / "bench").build(seed).objects
    snapshot = importlib.import_module("make_snapshot")
    now = snapshot.NOW.timestamp()
    names = {o["metadata"]["name"] for kind in ("nodes", "queues", "podGroups", "pods") for o in objects[kind]}
    other = _changed(objects, names)
    for found in other.values():
        random.Random(seed).shuffle(found)
    first = runner.decide(objects, snapshot.CONFIG, snapshot.PARAMS, now)
    second = runner.decide(other, snapshot.CONFIG, snapshot.PARAMS, now + SHIFT.total_seconds())
    assert second == {f"x-{name}": statuses for name, statuses in first.items()}
