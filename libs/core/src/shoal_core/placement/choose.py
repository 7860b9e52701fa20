"""Which devices meet the requests of a claim together (placement spec 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal_core.placement.claim import Results
from shoal_core.placement.slices import Offer

MOST_STEPS = 100_000


def search(
    wanted: list[tuple[str, list[int]]],
    there: list[Offer],
    alike: list[Mapping[str, Any]],
) -> Results | None:
    """Depth first, in order, with backtracking: each of ``wanted`` gets one of its devices, all of them different."""
    steps = 0
    chosen: list[int] = []

    def good() -> bool:
        for rule in alike:
            attribute, names = rule.get("matchAttribute"), rule.get("requests") or ()
            values = [
                _value(there[c], str(attribute))
                for c, (name, _) in zip(chosen, wanted, strict=False)
                if not names or name in names
            ]
            if attribute is None or None in values or any(v != values[0] for v in values):
                return False
        return True

    def deeper() -> bool:
        nonlocal steps
        at = len(chosen)
        if at == len(wanted):
            return True
        name, meant = wanted[at]
        # Devices of one request are interchangeable: they are taken in order.
        after = chosen[-1] if at and wanted[at - 1][0] == name else -1
        for i in meant:
            if i <= after or i in chosen:
                continue
            steps += 1
            if steps > MOST_STEPS:
                return False
            chosen.append(i)
            if good() and deeper():
                return True
            chosen.pop()
        return False

    if not deeper():
        return None
    return tuple((name, there[c][0]) for c, (name, _) in zip(chosen, wanted, strict=True))


def _value(found: Offer, attribute: str) -> Any:
    """The attribute of a device; names without a domain are those of its driver."""
    given = found[1].get("attributes") or {}
    domain, _, own = attribute.rpartition("/")
    value = given.get(attribute)
    return given.get(own) if value is None and domain == found[0][0] else value
