"""Why the rest of a group waits whose other subgroups start in the same cycle."""

from __future__ import annotations

import msgspec
import pytest

from shoal_contracts.state import SubGroup
from shoal_core import cycle
from shoal_testkit.small import node, queue, starts, work, world


@pytest.mark.parametrize(("few", "minimum"), [(1, 2), (2, 5)])
def test_a_subgroup_with_too_few_pods_is_told_so_when_another_starts(few: int, minimum: int) -> None:
    subgroups = [SubGroup(name="a", min_member=minimum), SubGroup(name="b", min_member=1)]
    group, *pods = work("g", pods=few + 1, min_member=1, min_subgroup=1, subgroups=subgroups)
    pods = [msgspec.structs.replace(pod, subgroup="b" if i == few else "a") for i, pod in enumerate(pods)]  # type: ignore[arg-type]
    cluster = world(queue("q"), node("n"), group, *pods)
    for number in range(2):
        result = cycle(cluster, now=10.0 + number)
        assert list(starts(result)) == ([f"g-{few}"] if number == 0 else [])
        (waiting,) = result.waiting
        assert (waiting.code, len(waiting.pods)) == ("NotEnoughPods", few)
        assert f"subgroup a: {minimum} pods are needed, {few} exist" in waiting.message


def test_a_group_that_finds_no_room_is_still_told_so() -> None:
    cluster = world(queue("q"), node("n", 1), *work("g", pods=2))
    (waiting,) = cycle(cluster, now=1.0).waiting
    assert waiting.code == "Unschedulable"
    assert "GPUs" in waiting.message
