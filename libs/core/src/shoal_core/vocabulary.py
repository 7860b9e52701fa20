"""Names as small integers, in the order in which they appear."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Interner(Generic[T]):
    """Each distinct value gets the next number; numbers are never used again."""

    def __init__(self, first: Iterable[T] = ()) -> None:
        self._numbers: dict[T, int] = {}
        self.values: list[T] = []
        for value in first:
            self.number(value)

    def __len__(self) -> int:
        return len(self.values)

    def number(self, value: T) -> int:
        """The value's number, a new one if it was not seen before."""
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found

    def find(self, value: T) -> int | None:
        """The value's number, None if it was not seen before."""
        return self._numbers.get(value)


CPU, MEMORY, GPU, PODS = range(4)
FIRST_RESOURCES: tuple[str, ...] = ("cpu", "memory", "nvidia.com/gpu", "pods")
"""Rows of the resource arrays that are always there; others follow as they appear."""
SHARED_RESOURCES = 3
"""CPU, memory and GPU: the resources that queues share."""
_MOST = {"cpu": 2.0**40, "memory": 2.0**50, "ephemeral-storage": 2.0**50}
MOST_DEVICES = 1 << 16
"""Shared devices that a pod can ask for: no node has as many."""


def counted(name: str, value: float, *, gpus: bool = False) -> float:
    """What a request counts for: more than any node has is as good as anything beyond, and in sums of floats far greater
    amounts would swallow those of others."""
    return min(value, 2.0**28 if gpus else _MOST.get(name, 2.0**50 if name.startswith("hugepages-") else 2.0**40))
