"""The order of victims, settled once for all searches that look among the same jobs while nothing is committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal_core.gang import Remaining
from shoal_core.order.jobs import Victims, View
from shoal_core.rows import Pod

if TYPE_CHECKING:
    from shoal_core.search.guard import Guard

NOBODY: frozenset[str] = frozenset()
Step = tuple[View, list[Pod], bool]
"""A job, those of its pods that go together first, and whether others stay."""


class Tape:
    """Victims in their order, taken as far as anyone looked. Read it only while nothing is simulated."""

    def __init__(self, make: Callable[[], Victims], guard: Guard | None = None) -> None:
        self._make, self._guard = make, guard
        self._victims = make()
        self._steps: list[Step] = []

    def get(self, number: int) -> Step | None:
        """The victim of this number; None if there are not so many."""
        while number >= len(self._steps):
            view = self._victims.pop()
            if view is None:
                return None
            self._steps.append((view, *self.next_victims(view)))
        return self._steps[number]

    def next_victims(self, view: View, taken: frozenset[str] | None = None) -> tuple[list[Pod], bool]:
        """What goes next of a job, and whether others of it stay. ``taken``: instead of what the view says."""
        kept = self._guard.kept(view.job) if self._guard is not None else NOBODY
        return Remaining(view.job.root, view.taken if taken is None else taken, kept).next_victims()

    def after(self, number: int) -> Victims:
        """The victims without the first so many, in an order of their own."""
        victims = self._make()
        for _ in range(number):
            victims.pop()
        return victims
