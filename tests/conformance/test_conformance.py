"""Every scenario: the project's own, and those of the shared suite where it is there."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from shoal_testkit.compact import load
from shoal_testkit.scenario import check

OWN = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
SHARED = Path(__file__).parents[3] / "shared" / "conformance" / "scenarios"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_our_scenarios(path: Path) -> None:
    wrong = {scenario["name"]: found for scenario in load(path) if (found := check(scenario))}
    assert wrong == {}


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_our_scenarios_do_not_depend_on_names_order_and_the_time(path: Path) -> None:
    wrong: dict[str, list[str]] = {}
    for seed, scenario in enumerate(load(path)):
        if found := check(_changed(scenario, seed)):
            wrong[scenario["name"]] = found
    assert wrong == {}


def _groups(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.rglob("*.json")})


@pytest.mark.parametrize("group", _groups(SHARED) or [None], ids=lambda p: str(p.relative_to(SHARED)) if p else "absent")
def test_scenarios_of_the_reference(group: Path | None) -> None:
    if group is None:
        pytest.skip(f"{SHARED} is not here")
    wrong = {path.name: found for path in sorted(group.glob("*.json")) if (found := check(json.loads(path.read_bytes())))}
    assert wrong == {}


def _names(scenario: dict[str, Any]) -> set[str]:
    objects = scenario["objects"]
    return {o["metadata"]["name"] for kind in ("nodes", "queues", "podGroups", "pods") for o in objects[kind]}


def _changed(scenario: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same situation with other names (in the same order), lists in another order, and at another time."""
    rng, names = random.Random(seed), _names(scenario)
    shift = dt.timedelta(days=400, hours=5)

    def walk(found: Any) -> Any:
        if isinstance(found, dict):
            return {walk(k) if isinstance(v, dict) else k: walk(v) for k, v in found.items()}
        if isinstance(found, list):
            return [walk(v) for v in found]
        if not isinstance(found, str):
            return found
        if found in names:
            return f"x-{found}"
        if TIME.fullmatch(found):
            return (dt.datetime.fromisoformat(found) + shift).strftime("%Y-%m-%dT%H:%M:%SZ")
        return found

    changed = scenario | {
        key: walk(scenario[key]) for key in ("now", "run", "objects", "state", "expect", "usage") if key in scenario
    }
    for told in [changed["expect"].get(key) or {} for key in ("shares", "waits", "goes")] + [changed.get("usage") or {}]:
        for name in [n for n in told if n in names]:
            told[f"x-{name}"] = told.pop(name)
    for found in changed["objects"].values():
        rng.shuffle(found)
    return changed


@pytest.mark.parametrize("group", _groups(SHARED) or [None], ids=lambda p: str(p.relative_to(SHARED)) if p else "absent")
def test_names_order_of_lists_and_the_time_do_not_matter(group: Path | None) -> None:
    if group is None:
        pytest.skip(f"{SHARED} is not here")
    wrong: dict[str, list[str]] = {}
    for seed, path in enumerate(sorted(group.glob("*.json"))):
        scenario = json.loads(path.read_bytes())
        for value in (scenario["expect"].get("podGroups") or {}).values():
            value.pop("message", None)
        if found := check(_changed(scenario, seed)):
            wrong[path.name] = found
    assert wrong == {}
