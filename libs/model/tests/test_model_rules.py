"""Rules on pod groups, queues and topologies that admission and the records share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.state import GroupRecord, QueueRecord, QueueResource, SubGroup, TopologyLevel, TopologyRecord
from shoal_model import podgroup, queue
from shoal_model.topology import alias_problems


def group(*parts: SubGroup, **spec: int) -> GroupRecord:
    return GroupRecord(namespace="ns", name="g", subgroups=list(parts), **spec)  # type: ignore[arg-type]


def part(name: str, parent: str = "", *, least: int | None = None, children: int | None = None) -> SubGroup:
    return SubGroup(name=name, parent=parent, min_member=least, min_subgroup=children)


SOUND = (part("a", children=1), part("b", "a", least=2), part("c", "a", least=0))


@pytest.mark.parametrize(
    ("found", "told", "create", "update"),
    [
        (group(part("a", children=1)), "cannot be set on a leaf SubGroup", True, True),
        (group(part("a")), "subgroup a: minMember is required", True, True),
        (group(part("a", least=1, children=1)), "mutually exclusive", True, True),
        (group(part("a", least=1), part("b", "a", least=1)), "mid-level SubGroup (has child SubGroups)", True, False),
        (
            group(part("a", least=1), min_subgroup=5),
            "minSubGroup (5) exceeds the number of direct child SubGroups (1)", False, False,
        ),
        (group(part("a", children=2), part("b", "a", least=1)), "minSubGroup (2) exceeds", False, False),
    ],
)  # fmt: skip
def test_minimums(found: GroupRecord, told: str, create: bool, update: bool) -> None:
    assert podgroup.problems(found) == []
    complaint = podgroup.minimum_complaints(found)[0]
    assert told in complaint.text
    assert (complaint.on_create, complaint.on_update) == (create, update)


@pytest.mark.parametrize("found", [group(), group(min_subgroup=0), group(*SOUND), group(*SOUND, min_subgroup=1)])
def test_sound_groups(found: GroupRecord) -> None:
    assert podgroup.problems(found) == []
    assert podgroup.minimum_complaints(found) == []


def is_own_ancestor(name: str, parents: dict[str, str]) -> bool:
    at = parents[name]
    for _ in parents:
        if at == name:
            return True
        at = parents.get(at, "")
    return at == name


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["", *"abcdefghx"]), max_size=8))
def test_circles_are_found_as_the_slow_way_finds_them(parents: dict[str, str]) -> None:
    told = " ".join(podgroup.problems(group(*(part(n, p) for n, p in parents.items()))))
    for name in parents:
        assert (f"cycle detected in subgroups: {name} is" in told) == is_own_ancestor(name, parents)


def test_a_hundred_thousand_subgroups_are_looked_at_in_one_pass() -> None:
    # Quadratic it would be ten thousand million steps, and the test's time limit would end it.
    chain = [part(f"s{i}", f"s{i - 1}" if i else f"s{99_999}") for i in range(100_000)]
    assert len(podgroup.problems(group(*chain))) == 100_000


def q(name: str, parent: str = "", gpu: float = 0.0) -> QueueRecord:
    free = QueueResource(quota=-1)
    return QueueRecord(name=name, parent=parent, gpu=QueueResource(quota=gpu), cpu=free, memory=free)


def test_quotas_that_promise_more_than_there_is() -> None:
    tree = {x.name: x for x in (q("top", gpu=4), q("a", "top", 3), q("b", "top", 1))}
    assert queue.quota_warnings(q("a", "top", 3), tree) == []
    assert "promised 5, itself 4" in queue.quota_warnings(q("a", "top", 4), tree)[0]
    assert "promised 4, itself 2" in queue.quota_warnings(q("top", gpu=2), tree)[0]
    assert queue.quota_warnings(q("top", gpu=-1), tree) == []
    assert queue.quota_warnings(q("a", "top", -1), tree) == [], "no bound is no number"


def test_aliases() -> None:
    def levels(*pairs: tuple[str, str]) -> list[str]:
        return alias_problems(TopologyRecord(name="t", levels=[TopologyLevel(label=k, alias=a) for k, a in pairs]))

    assert levels(("zone", "z"), ("rack", "r"), ("host", "")) == []
    assert levels(("zone", "z"), ("rack", "z")) == ["aliases must be unique within the topology; duplicated: [z]"]
    assert "conflicting: [zone]" in levels(("zone", ""), ("rack", "zone"))[0]
