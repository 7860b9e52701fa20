"""A gang starts whole or not at all, whatever holds a member back; subgroups; members that finished."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import Cluster, cycle
from shoal_testkit.small import node, queue, starts, work, world

NOW = 10_000.0


def runs(c: Cluster, records: list[Any], uid: str, where: str = "n") -> None:
    """The API shows the pod where it was decided to run."""
    pod = next(r for r in records if isinstance(r, state.PodRecord) and r.uid == uid)
    c.apply(msgspec.structs.replace(pod, node=where, phase="Running"))
    c.forget(uid)


def waits(c: Cluster, now: float = NOW) -> dict[str, str]:
    return {w.group: w.code for w in cycle(c, now=now).waiting}


@pytest.mark.parametrize("gpus", [1, 0.5])
@pytest.mark.parametrize("held", [0, 1, 2])
def test_a_member_that_is_held_back_holds_its_gang(gpus: float, held: int) -> None:
    c = world(queue("q"), node("n"), *work("g", pods=3, gpus=gpus))
    c.bar(f"g-{held}", True, refused=True)
    result = cycle(c, now=NOW)
    assert not starts(result)
    assert [w.code for w in result.waiting] == ["Held"]
    c.bar(f"g-{held}", False)
    assert len(starts(cycle(c, now=NOW + 1))) == 3


def test_what_is_held_back_evicts_nobody() -> None:
    c = world(
        queue("q"), node("n", gpus=2), *work("old", pods=1, nodes=["n"]), *work("low", pods=1, nodes=["n"]),
        *work("g", pods=2, priority="high"),
    )  # fmt: skip
    c.bar("g-0", True, refused=True)
    assert not cycle(c, now=NOW).evictions
    c.bar("g-0", False)
    assert len(cycle(c, now=NOW + 1).evictions) == 2


def test_members_beyond_the_minimum_start_alone() -> None:
    c = world(queue("q"), node("n"), *work("g", pods=4, min_member=2))
    c.bar("g-0", True, refused=True)
    c.bar("g-1", True, refused=True)
    assert len(starts(cycle(c, now=NOW))) == 2, "any two are the minimum"
    c = world(queue("q"), node("n"), *work("g", pods=4, min_member=2))
    for i in (0, 1, 2):
        c.bar(f"g-{i}", True, refused=True)
    assert not starts(cycle(c, now=NOW))
    c.bar("g-0", False)
    assert set(starts(cycle(c, now=NOW))) == {"g-0", "g-3"}
    c.bar("g-1", False)
    assert set(starts(cycle(c, now=NOW))) == {"g-1"}, "and the last one is held back for itself"


def test_a_decision_that_is_being_given_up_is_no_member_to_rely_on() -> None:
    records = work("g", pods=2, gpus=0.5)
    c = world(queue("q"), node("n"), *records)
    assert len(starts(cycle(c, now=NOW))) == 2
    # g-0 was refused: both are given up, and g-1 is free first.
    c.bar("g-0", True)
    c.bar("g-1", True)
    c.forget("g-1")
    c.bar("g-1", False)
    assert not starts(cycle(c, now=NOW + 1))
    assert waits(c, NOW + 2) == {"g": "Starting"}
    c.forget("g-0")
    c.bar("g-0", False)
    c.bar("g-0", True, refused=True)
    assert not starts(cycle(c, now=NOW + 3))
    assert waits(c, NOW + 4) == {"g": "Held"}
    c.bar("g-0", False)
    assert len(starts(cycle(c, now=NOW + 5))) == 2


def test_a_decision_that_is_given_up_but_was_carried_out_counts_again() -> None:
    records = work("g", pods=3, min_member=2)
    c = world(queue("q"), node("n"), *records[:3])
    assert len(starts(cycle(c, now=NOW))) == 2
    c.bar("g-0", True)
    c.apply(records[3])
    assert not starts(cycle(c, now=NOW + 1)), "g-0 may be missing of the minimum"
    runs(c, records, "g-0")
    assert set(starts(cycle(c, now=NOW + 2))) == {"g-2"}
    c.check()


def test_elastic_work_goes_on_while_a_decision_is_given_up() -> None:
    records = work("g", pods=4, min_member=1)
    c = world(queue("q"), node("n"), *records[:4])
    assert len(starts(cycle(c, now=NOW))) == 3
    c.bar("g-0", True)
    c.apply(records[4])
    assert set(starts(cycle(c, now=NOW + 1))) == {"g-3"}


def test_a_member_with_an_unsound_record_holds_its_gang() -> None:
    group, first, second = work("g", pods=2)
    c = world(queue("q"), node("n"), group, first, msgspec.structs.replace(second, error="it asks for half a pod"))
    assert waits(c) == {"g": "InvalidPod"}
    c.apply(second)
    assert len(starts(cycle(c, now=NOW + 1))) == 2


def test_a_member_whose_victim_does_not_go_holds_its_gang() -> None:
    c = world(
        queue("q"), node("n", gpus=2), *work("old", nodes=["n"]), *work("g", pods=2, priority="high"),
    )  # fmt: skip
    for second in range(3):
        result = cycle(c, now=NOW + second)
        assert not starts(result)
        assert len(result.evictions) == (second == 0)
    c.remove("pod", "ns", "old-0")
    c.forget("old-0")
    assert len(starts(cycle(c, now=NOW + 9))) == 2


# subgroups


def tree(minimum: int | None, **leaves: int) -> dict[str, Any]:
    return {
        "min_member": None,
        "min_subgroup": minimum,
        "subgroups": [state.SubGroup(name=name, min_member=least) for name, least in leaves.items()],
    }


def grouped(shape: dict[str, Any], *of: str, nodes: list[str] | None = None, **more: Any) -> list[Any]:
    """A group whose pods are in these subgroups, by number."""
    group, *pods = work("g", pods=len(of), nodes=nodes, **shape, **more)
    return [group, *(msgspec.structs.replace(p, subgroup=name) for p, name in zip(pods, of, strict=True))]


def test_a_subgroup_that_can_not_form_takes_no_place_from_one_that_can() -> None:
    c = world(queue("q"), node("n"), *grouped(tree(1, a=2, b=1), "a", "b"))
    assert set(starts(cycle(c, now=NOW))) == {"g-1"}
    result = cycle(c, now=NOW + 1)
    assert not starts(result), "an elastic subgroup does not start in part either"
    assert [(w.code, "subgroup a: 2 pods are needed, 1 exist" in w.message) for w in result.waiting] == [
        ("NotEnoughPods", True)
    ]


def test_subgroups_of_which_a_member_is_held_back_are_passed_over() -> None:
    c = world(queue("q"), node("n"), *grouped(tree(1, a=2, b=2), "a", "a", "b", "b"))
    c.bar("g-1", True, refused=True)
    assert set(starts(cycle(c, now=NOW))) == {"g-2", "g-3"}
    c.bar("g-1", False)
    assert set(starts(cycle(c, now=NOW))) == {"g-0", "g-1"}


def test_a_tree_that_can_not_form_starts_nothing() -> None:
    c = world(queue("q"), node("n"), *grouped(tree(2, a=2, b=1, c=2), "a", "b", "c", "c"))
    c.bar("g-3", True, refused=True)
    assert not starts(cycle(c, now=NOW))
    c.bar("g-3", False)
    assert set(starts(cycle(c, now=NOW))) == {"g-1", "g-2", "g-3"}


@pytest.mark.parametrize(
    ("minimum", "left", "stale"),
    [(2, "aab", False), (2, "aabb", False), (2, "abb", False), (2, "ab", True), (None, "aab", True), (3, "aab", True)],
)
def test_stale_is_judged_on_the_tree(minimum: int | None, left: str, stale: bool) -> None:
    records = grouped(tree(minimum, a=2, b=2, c=1), *left, "c", nodes=["n"] * (len(left) + 1))
    c = world(queue("q"), node("n", gpus=8), *records)
    assert bool(cycle(c, now=NOW).stale) is stale
    goes = cycle(c, now=NOW + 3600).evictions
    assert len(goes) == (len(left) + 1 if stale else 0)


def test_stale_is_judged_on_nested_trees() -> None:
    shape = {
        "min_member": None, "min_subgroup": 1, "subgroups": [
            state.SubGroup(name="top", min_subgroup=1), state.SubGroup(name="rest", min_member=2),
            state.SubGroup(name="a", parent="top", min_member=2), state.SubGroup(name="b", parent="top", min_member=1),
        ],
    }  # fmt: skip
    for of, stale in ((("a", "b", "rest"), False), (("a", "rest"), True), (("rest", "rest"), False)):
        c = world(queue("q"), node("n"), *grouped(shape, *of, nodes=["n"] * len(of)))
        assert bool(cycle(c, now=NOW).stale) is stale, of


def test_a_waiting_tree_may_evict_for_the_subgroups_that_it_needs() -> None:
    c = world(
        queue("q"), node("n", gpus=2), *work("old", nodes=["n"]), *work("low", nodes=["n"]),
        *grouped(tree(1, a=3, b=2), "a", "b", "b", priority="high"),
    )  # fmt: skip
    assert len(cycle(c, now=NOW).evictions) == 2


# members that finished


def indexed(phases: str, **more: Any) -> list[Any]:
    """A gang of as many pods: S succeeded, F failed, R running, P pending."""
    names = {"S": "Succeeded", "F": "Failed", "R": "Running", "P": "Pending"}
    group, *pods = work("g", pods=len(phases), **more)
    changed = [
        msgspec.structs.replace(p, phase=names[x], node="" if x == "P" else "n") for p, x in zip(pods, phases, strict=True)
    ]
    return [group, *changed]


@pytest.mark.parametrize(
    ("phases", "count"),
    [
        ("SRFP", 1),
        ("SFRP", 1),
        ("SSFP", 1),
        ("SRP", 1),
        ("RFP", 0),
        ("SFP", 0),
        ("FFP", 0),
        ("SPP", 2),
        ("SSPP", 2),
        ("SSSPP", 2),
    ],
)
def test_the_replacement_of_a_failed_member_starts_beside_one_that_succeeded(phases: str, count: int) -> None:
    c = world(queue("q"), node("n", gpus=8), *indexed(phases, min_member=3))
    assert len(starts(cycle(c, now=NOW))) == count
    c.check()


def test_a_member_that_succeeds_lets_the_replacement_start() -> None:
    records = indexed("RRF", min_member=3)
    c = world(queue("q"), node("n"), *records)
    fresh = msgspec.structs.replace(records[3], name="g-new", uid="new", phase="Pending", node="")
    c.remove("pod", "ns", "g-2")
    c.apply(msgspec.structs.replace(records[1], phase="Succeeded"))
    c.apply(fresh)
    assert set(starts(cycle(c, now=NOW))) == {"g-new"}


def test_work_that_needs_each_other_still_starts_together_after_others_succeeded() -> None:
    records = indexed("SSPP", min_member=2)
    c = world(queue("q"), node("n", gpus=1), *records)
    assert not starts(cycle(c, now=NOW)), "two exist, two start together"
    c.remove("pod", "ns", "g-3")
    assert set(starts(cycle(c, now=NOW + 1))) == {"g-2"}, "it is the last one"


def test_finished_members_count_in_their_own_subgroup_alone() -> None:
    records = grouped(tree(None, a=2, b=2), "a", "a", "b", "b")
    done = msgspec.structs.replace(records[1], phase="Succeeded")
    c = world(queue("q"), node("n"), records[0], done, *records[2:4])
    assert not starts(cycle(c, now=NOW)), "b lacks a pod"
    c.apply(records[4])
    assert len(starts(cycle(c, now=NOW + 1))) == 3
    # Another shape of the group counts them anew.
    c.apply(msgspec.structs.replace(records[0], subgroups=[*records[0].subgroups, state.SubGroup(name="c", min_member=0)]))
    assert [leaf.minimum for leaf in c.jobs["ns", "g"].leaf_list] == [1, 2, 0]
    c.remove("pod", "ns", "g-0")
    assert [leaf.minimum for leaf in c.jobs["ns", "g"].leaf_list] == [2, 2, 0]


def _sized(shape: dict[str, Any], *of: tuple[str, int]) -> list[Any]:
    """A group of pods that ask for (subgroup, GPUs)."""
    records = grouped(shape, *(name for name, _ in of))
    sizes = [{"cpu": 1000.0, "nvidia.com/gpu": float(gpus)} for _, gpus in of]
    return [records[0], *(msgspec.structs.replace(p, requests=r) for p, r in zip(records[1:], sizes, strict=True))]


@pytest.mark.parametrize(
    ("minimum", "of", "want"),
    [
        (1, [("a", 8), ("b", 2)], {"g-1"}),
        (1, [("a", 8), ("b", 8), ("c", 2)], {"g-2"}),
        (2, [("a", 8), ("b", 2), ("c", 2)], {"g-1", "g-2"}),
        (2, [("a", 2), ("b", 8), ("c", 2)], {"g-0", "g-2"}),
        (2, [("a", 8), ("b", 8), ("c", 2)], set()),
        (2, [("a", 3), ("b", 3), ("c", 1)], {"g-0", "g-2"}),
        (1, [("a", 8), ("a", 1), ("b", 2)], {"g-2"}),
        (None, [("a", 8), ("b", 2)], set()),
    ],
)
def test_a_subgroup_that_finds_no_room_takes_no_place_from_one_that_does(
    minimum: int | None, of: list[tuple[str, int]], want: set[str]
) -> None:
    least: dict[str, int] = {}
    for name, _ in of:
        least[name] = least.get(name, 0) + 1
    c = world(queue("q"), node("n"), *_sized(tree(minimum, **least), *of))
    result = cycle(c, now=NOW)
    assert set(starts(result)) == want
    assert [w.group for w in result.waiting] == ["g"], "and the rest is told why it waits"
    c.check()
    assert not starts(cycle(c, now=NOW + 1))


def test_subgroups_of_subgroups_that_find_no_room_are_passed_over() -> None:
    shape = {
        "min_member": None, "min_subgroup": None, "subgroups": [
            state.SubGroup(name="top", min_subgroup=1), state.SubGroup(name="rest", min_member=1),
            state.SubGroup(name="a", parent="top", min_member=1), state.SubGroup(name="b", parent="top", min_member=1),
        ],
    }  # fmt: skip
    c = world(queue("q"), node("n"), *_sized(shape, ("a", 8), ("b", 2), ("rest", 2)))
    assert set(starts(cycle(c, now=NOW))) == {"g-1", "g-2"}
