"""What queues ask for and use, rolled up along their tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.state import GpuShare, GroupRecord, PodRecord, QueueRecord
from shoal_model import labels
from shoal_queue_controller.usage import SHARED_MEMORY, Usage, children, group_problem, of_group, of_pod, problem, roll_up


def pod(**fields: object) -> PodRecord:
    return PodRecord(namespace="ns", name="p", uid="u", **fields)  # type: ignore[arg-type]


def tree(**parents: str) -> dict[str, QueueRecord]:
    return {name: QueueRecord(name=name, parent=parent) for name, parent in parents.items()}


def test_a_pod_counts_as_requested_until_it_has_a_node() -> None:
    assert of_pod(pod(requests={"cpu": 500.0})) == ({"cpu": 500.0}, {})
    assert of_pod(pod(requests={"cpu": 500.0}, node="n")) == ({"cpu": 500.0}, {"cpu": 500.0})


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_what_is_over_counts_nothing(phase: str) -> None:
    assert of_pod(pod(requests={"cpu": 500.0}, node="n", phase=phase)) == ({}, {})


def test_shares_of_gpus_count_as_what_they_are() -> None:
    assert of_pod(pod(share=GpuShare(fraction=0.5, devices=2)))[0] == {labels.GPU: 1.0}
    assert of_pod(pod(share=GpuShare(memory_mib=2000, devices=2)))[0] == {SHARED_MEMORY: 4000.0}


def test_only_what_may_not_be_preempted_is_fixed() -> None:
    pods = [pod(requests={"cpu": 1.0}, node="n"), pod(requests={"cpu": 2.0})]
    assert of_group(pods, preemptible=True).fixed == {}
    assert of_group(pods, preemptible=False).fixed == {"cpu": 1.0}


def test_a_parent_has_what_its_children_have() -> None:
    queues = tree(root="", a="root", b="root", leaf="a")
    direct = {"leaf": Usage({"cpu": 1.0}), "b": Usage({"cpu": 2.0}), "nobody": Usage({"cpu": 9.0})}
    found = {name: u.requested.get("cpu", 0.0) for name, u in roll_up(queues, direct).items()}
    assert found == {"root": 3.0, "a": 1.0, "b": 2.0, "leaf": 1.0}


def test_queues_that_are_each_others_parents_count_only_their_own() -> None:
    found = roll_up(tree(a="b", b="a"), {"a": Usage({"cpu": 1.0}), "b": Usage({"cpu": 2.0})})
    assert {n: u.requested.get("cpu", 0.0) for n, u in found.items()} == {"a": 1.0, "b": 2.0}


@given(st.lists(st.dictionaries(st.sampled_from(["cpu", "gpu"]), st.integers(1, 50).map(float)), max_size=6))
def test_adding_and_taking_away_leaves_nothing(amounts: list[dict[str, float]]) -> None:
    total = Usage()
    for one in amounts:
        total.add(Usage(dict(one), dict(one), dict(one)))
    for one in amounts:
        total.add(Usage(dict(one), dict(one), dict(one)), -1.0)
    assert total == Usage()


def test_what_is_wrong_with_a_queue_is_said_with_its_place() -> None:
    queues = tree(fine="", lost="nobody", a="b", b="a")
    assert problem(queues["fine"], queues) == ""
    assert "spec.parentQueue: queue nobody does not exist" in problem(queues["lost"], queues)
    assert "is its own ancestor" in problem(queues["a"], queues)
    assert children(tree(z="r", y="r", r=""))["r"] == ["y", "z"]


def test_a_group_in_no_queue_is_told() -> None:
    assert group_problem(GroupRecord(namespace="ns", name="g", queue="q"), tree(q="")) == ""
    assert "queue 'x' does not exist" in group_problem(GroupRecord(namespace="ns", name="g", queue="x"), tree(q=""))
