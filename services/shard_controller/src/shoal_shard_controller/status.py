"""Conditions of SchedulingShard and Config (spec: kubernetes.md 8.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal_model.quantity import rfc3339

LONGEST = 4096
_TRUE = {"Deployed": "Resources deployed", "Available": "System available", "Ready": "System is ready"}
Condition = dict[str, Any]


def conditions(generation: int, problem: str, unavailable: str, ignored: Sequence[str]) -> list[Condition]:
    """What is true of an object: ``problem`` keeps it from being deployed, ``unavailable`` from being ready."""
    told = {
        "Deployed": problem, "Available": problem or unavailable, "Ready": problem or unavailable,
    }  # fmt: skip
    found = [
        {
            "type": kind, "status": "False" if wrong else "True",
            "reason": ("not_ready" if wrong else "ready") if kind == "Ready" else kind.lower(),
            "message": (wrong or _TRUE[kind])[:LONGEST], "observedGeneration": generation,
        }
        for kind, wrong in told.items()
    ]  # fmt: skip
    text = "; ".join(ignored)[:LONGEST]
    found.append({
        "type": "Ignored", "status": "True" if ignored else "False", "reason": "NoEffect" if ignored else "AllRead",
        "message": text or "Every option has an effect", "observedGeneration": generation,
    })  # fmt: skip
    return found


def merged(before: Sequence[Mapping[str, Any]], now: Sequence[Condition], at: float) -> list[Condition] | None:
    """The conditions to write, with the times at which they turned; None where nothing is new."""
    old = {c.get("type"): c for c in before}
    if all({k: v for k, v in old.get(c["type"], {}).items() if k != "lastTransitionTime"} == c for c in now):
        return None
    found = []
    for condition in now:
        was = old.get(condition["type"], {})
        since = was.get("lastTransitionTime") if was.get("status") == condition["status"] else None
        found.append(condition | {"lastTransitionTime": since or rfc3339(at)})
    return found
