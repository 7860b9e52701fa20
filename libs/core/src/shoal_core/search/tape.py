"""The order of victims, settled once for all searches that look among the same jobs while nothing is committed."""

from __future__ import annotations

from collections.abc import Callable

from shoal_core.gang import Remaining
from shoal_core.order.jobs import Victims, View
from shoal_core.rows import Pod

Step = tuple[View, list[Pod], bool]
"""A job, those of its pods that go together first, and whether others stay."""


class Tape:
    """Victims in their order, taken as far as anyone looked. Read it only while nothing is simulated."""

    def __init__(self, make: Callable[[], Victims]) -> None:
        self._make = make
        self._victims = make()
        self._steps: list[Step] = []

    def get(self, number: int) -> Step | None:
        """The victim of this number; None if there are not so many."""
        while number >= len(self._steps):
            view = self._victims.pop()
            if view is None:
                return None
            self._steps.append((view, *Remaining(view.job.root).next_victims()))
        return self._steps[number]

    def after(self, number: int) -> Victims:
        """The victims without the first so many, in an order of their own."""
        victims = self._make()
        for _ in range(number):
            victims.pop()
        return victims
