"""Decisions on random clusters against the reference's: those that may differ are listed in docs/differences.md."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"


def test_decisions_are_those_of_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = SHARED / "differential" / "expected.json"
    if not expected.exists():
        pytest.skip(f"{expected} is not here")
    spec = importlib.util.spec_from_file_location("differential", Path(__file__).parent / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    failures = tmp_path / "failures.txt"
    runner.compare(expected, SHARED / "bench", failures)
    different = set(re.findall(r"^(\d+)", failures.read_text(), re.MULTILINE))
    explained = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "differences.md").read_text(), re.MULTILINE))
    assert different <= explained
