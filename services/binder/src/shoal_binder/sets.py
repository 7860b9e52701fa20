"""In which order the members of a set go that was let go. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shoal_binder.reign import Order
from shoal_contracts.decision import Decision, Verb


def parted(orders: Sequence[Order]) -> tuple[list[Order], list[Order]]:
    """(what goes first and one by one, what goes together then). Victims under a disruption budget are first, one budget after
    the other: what the API may still refuse is known before anything goes that it does not guard."""
    first = [o for o in orders if o.decision.verb is Verb.EVICT and o.decision.budget]
    first.sort(key=lambda o: (o.decision.budget, o.decision.namespace, o.decision.pod))
    return first, [o for o in orders if o.decision.verb is not Verb.EVICT or not o.decision.budget]


def not_tried(refused: Decision, why: str) -> str:
    """Why the rest of the set stays."""
    return f"not asked for: the eviction of {refused.namespace}/{refused.pod}, for the same workload, was refused: {why}"
