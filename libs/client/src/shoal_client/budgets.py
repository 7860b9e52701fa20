"""Status of PodDisruptionBudgets in a simulation, where no controller keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from shoal_contracts.state import PdbRecord, PodRecord, StateMessage
from shoal_core.placement.feasible import selects
from shoal_model.quantity import number


class Budgets:
    """The budgets of a snapshot, and how healthy their pods are as the simulation goes on."""

    def __init__(self, records: Iterable[StateMessage], pods: Mapping[str, PodRecord]) -> None:
        self._pods = pods
        self._healthy: dict[tuple[str, str], int] = {}
        self._budgets: list[PdbRecord] = []
        for record in records:
            if isinstance(record, PdbRecord):
                self._healthy[record.namespace, record.name] = self._count(record)
                self._budgets.append(record if record.observed else self._observed(record))

    def now(self) -> list[PdbRecord]:
        """All of them as their controller would have them now."""
        return [self._after(budget) for budget in self._budgets]

    def _matching(self, budget: PdbRecord) -> list[PodRecord]:
        return [
            p
            for p in self._pods.values()
            if p.namespace == budget.namespace
            and not p.deleted
            and p.phase not in ("Succeeded", "Failed")
            and selects(budget.selector, p.labels)
        ]

    def _count(self, budget: PdbRecord) -> int:
        return sum(p.ready for p in self._matching(budget))

    def _observed(self, budget: PdbRecord) -> PdbRecord:
        """With the status that its spec and the pods that are there amount to."""
        expected, healthy = len(self._matching(budget)), self._healthy[budget.namespace, budget.name]
        least = _scaled(budget.min_available, expected)
        most = _scaled(budget.max_unavailable, expected)
        desired = least if least is not None else max(0, expected - most) if most is not None else expected
        return msgspec.structs.replace(
            budget,
            observed=True,
            expected_pods=expected,
            desired_healthy=desired,
            current_healthy=healthy,
            disruptions_allowed=max(0, healthy - desired),
        )

    def _after(self, budget: PdbRecord) -> PdbRecord:
        change = self._count(budget) - self._healthy[budget.namespace, budget.name]
        if not change:
            return budget
        return msgspec.structs.replace(
            budget,
            current_healthy=budget.current_healthy + change,
            disruptions_allowed=max(0, budget.current_healthy + change - budget.desired_healthy),
            disrupted=[],
        )


def _scaled(text: str, of: int) -> int | None:
    """The number that a count or percentage means, rounded up as Kubernetes does; None: not given, or neither of the two."""
    if text.endswith("%"):
        part = number(text[:-1])
        return None if part is None else math.ceil(part * of / 100)
    return number(text)
