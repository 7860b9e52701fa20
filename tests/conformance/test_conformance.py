"""Every scenario of the shared suite, and of the project's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal_testkit.scenario import check

SHARED = Path(__file__).parents[3] / "shared" / "conformance" / "scenarios"
OWN = Path(__file__).parent / "scenarios"


def _groups(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.rglob("*.json")})


@pytest.mark.parametrize("group", _groups(SHARED) or [None], ids=lambda p: str(p.relative_to(SHARED)) if p else "absent")
def test_scenarios_of_the_reference(group: Path | None) -> None:
    if group is None:
        pytest.skip(f"{SHARED} is not here")
    wrong = {path.name: found for path in sorted(group.glob("*.json")) if (found := check(json.loads(path.read_bytes())))}
    assert wrong == {}


@pytest.mark.parametrize("path", sorted(OWN.rglob("*.json")), ids=lambda p: p.stem)
def test_own_scenarios(path: Path) -> None:
    assert check(json.loads(path.read_bytes())) == []
