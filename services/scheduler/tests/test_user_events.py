"""Events for users: each waiting group once for each wait and reason, however many wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shoal_core import CycleResult, Waiting
from shoal_scheduler.user_events import UserEvents


class Said:
    """Notes the events."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        events: Any = SimpleNamespace(say=self.say)
        self.it = UserEvents(events)

    def say(self, queue: str, family: str, what: str, name: str, data: Any, mark: str) -> None:
        self.found.append((what, name, data.reason))
        self.ids.append(f"{mark}-{what}")

    def cycle(self, *waiting: Waiting) -> None:
        self.it.cycle(CycleResult(waiting=list(waiting)), lambda _: None, 1)


def waiting(name: str = "g", code: str = "Unschedulable", message: str = "m") -> Waiting:
    return Waiting("ns", name, "q", code, message)


def test_every_group_is_told_however_many_wait() -> None:
    said = Said()
    many = [waiting(f"g{i:04d}") for i in range(500)]
    for _ in range(3):
        said.cycle(*many)
    assert [name for _, name, _ in said.found] == [w.group for w in many]


def test_a_second_wait_and_another_reason_are_told_and_other_numbers_are_not() -> None:
    said = Said()
    said.cycle(waiting())
    said.cycle(waiting(message="other numbers"))
    assert len(said.found) == 1
    said.cycle(waiting(code="OverLimit"))
    said.cycle()
    said.cycle(waiting(code="OverLimit"))
    assert [reason for *_, reason in said.found] == ["Unschedulable", "OverLimit", "OverLimit"]
    assert len(set(said.ids)) == 3, "ids are unique"


def test_pods_that_are_being_bound_and_reasons_of_single_pods_are_no_events_of_the_group() -> None:
    said = Said()
    said.cycle(waiting(code="Starting"), waiting("other"), waiting("other", "InvalidPod"))
    assert said.found == [("waiting", "other", "Unschedulable")]


def test_a_cycle_without_news_costs_nothing() -> None:
    said = Said()
    result = CycleResult(waiting=[waiting()])
    said.it.cycle(result, lambda _: None, 1)
    said.it._codes.clear()
    said.it.cycle(result, lambda _: None, 1)
    assert len(said.found) == 1
