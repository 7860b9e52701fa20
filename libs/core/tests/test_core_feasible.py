"""Labels, taints and cordoned nodes: Kubernetes' rules, in tables."""

from __future__ import annotations

import pytest

from shoal_contracts.state import (
    Affinity,
    NodeTerm,
    PodRecord,
    Requirement,
    Selector,
    Taint,
    Toleration,
)
from shoal_core import Settings, cycle
from shoal_core.placement.feasible import integer, matches, may_use_cordoned, meets, selects
from shoal_testkit.small import node, queue, starts, work, world


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("10", 10), ("+7", 7), ("-7", -7), ("007", 7), ("-0", 0), ("00000000000000000000000012", 12),
        ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None), ("-9223372036854775809", None), ("1" * 40, None),
        ("", None), ("+", None), ("-", None), ("+-1", None), ("1_000", None), (" 1", None), ("1 ", None), ("1\n", None),
        ("0x10", None), ("1.0", None), ("1e3", None), ("v10", None), ("\u0661\u0662", None), ("\u00b2", None),
    ],
)  # fmt: skip
def test_numbers_of_labels_are_read_as_go_does(text: str, value: int | None) -> None:
    assert integer(text) == value
    least = Requirement(key="gen", operator="Gt", values=["-9223372036854775808"])
    assert matches(least, {"gen": text}) == (value is not None and value > -(2**63))
    bound = Requirement(key="gen", operator="Lt", values=[text])
    assert matches(bound, {"gen": "-9223372036854775808"}) == (value is not None and value > -(2**63))


@pytest.mark.parametrize(
    ("operator", "values", "labels", "good"),
    [
        ("Gt", ["9"], {"gen": "10"}, True), ("Gt", ["9"], {"gen": "9"}, False), ("Lt", ["9"], {"gen": "8"}, True),
        ("Lt", ["9"], {"gen": "9"}, False), ("Gt", ["9"], {}, False), ("Lt", ["9"], {}, False),
        ("Gt", [], {"gen": "1"}, False), ("Gt", ["1", "2"], {"gen": "9"}, False), ("Lt", ["-1"], {"gen": "-2"}, True),
    ],
)  # fmt: skip
def test_greater_and_less_need_one_number_on_each_side(
    operator: str, values: list[str], labels: dict[str, str], good: bool
) -> None:
    assert matches(Requirement(key="gen", operator=operator, values=values), labels) is good


def test_fields_know_in_and_not_in_of_one_name() -> None:
    def term(operator: str, *values: str, key: str = "metadata.name") -> NodeTerm:
        return NodeTerm(fields=[Requirement(key=key, operator=operator, values=list(values))])

    assert meets(term("In", "10"), "10", {})
    assert not meets(term("In", "10"), "11", {})
    assert meets(term("NotIn", "10"), "11", {})
    assert not meets(term("Gt", "9"), "10", {})
    assert not meets(term("Exists"), "10", {})
    assert not meets(term("In", "10", "11"), "10", {})
    assert not meets(term("In", "10", key="metadata.uid"), "10", {})


def test_label_selectors_have_no_greater_and_less() -> None:
    assert selects(Selector(), {"gen": "10"})
    assert not selects(None, {"gen": "10"})
    assert not selects(Selector(requirements=[Requirement(key="gen", operator="Gt", values=["9"])]), {"gen": "10"})


def test_a_pod_that_asks_for_a_greater_label_gets_the_one_node_that_has_it() -> None:
    wanted = Affinity(node_required=[NodeTerm(expressions=[Requirement(key="gen", operator="Gt", values=["9"])])])
    nodes = [node(f"n{i}", 1, labels={"gen": text}) for i, text in enumerate(("9", "v10", "1_000", "10"))]
    waiting = [w for i in range(3) for w in work(f"g{i}", created=i, pod={"affinity": wanted})]
    assert starts(cycle(world(queue("q"), *nodes, *waiting))) == {"g0-0": "n3"}


UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


@pytest.mark.parametrize(
    ("toleration", "good"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration(operator="Exists", effect="NoSchedule"), True),
        (Toleration(operator="Exists", effect="NoExecute"), False),
        (Toleration(key=UNSCHEDULABLE, operator="Exists"), True),
        (Toleration(key=UNSCHEDULABLE, operator="Exists", effect="NoSchedule"), True),
        (Toleration(key=UNSCHEDULABLE, operator="Exists", effect="NoExecute"), False),
        (Toleration(key=UNSCHEDULABLE), True),
        (Toleration(key=UNSCHEDULABLE, value="yes"), False),
        (Toleration(key=UNSCHEDULABLE, operator="Gt"), False),
        (Toleration(key="node.kubernetes.io/not-ready", operator="Exists"), False),
    ],
)
@pytest.mark.parametrize("tainted", [False, True])
def test_who_tolerates_it_may_use_a_cordoned_node(toleration: Toleration, good: bool, tainted: bool) -> None:
    assert may_use_cordoned(PodRecord(namespace="ns", name="p", uid="p", tolerations=[toleration])) is good
    taints = [Taint(key=UNSCHEDULABLE, effect="NoSchedule")] if tainted else []
    nodes = [node("cordoned", unschedulable=True, taints=taints), node("small", 1)]
    c = world(queue("q"), *nodes, *work("g", gpus=2, pod={"tolerations": [toleration]}))
    assert starts(cycle(c)) == ({"g-0": "cordoned"} if good else {})


def test_a_cordoned_node_that_is_not_ready_takes_nobody_and_is_no_part_of_what_is_divided() -> None:
    everything = {"tolerations": [Toleration(operator="Exists")]}
    c = world(queue("q"), node("n", unschedulable=True, ready=False), *work("g", pod=everything))
    result = cycle(c)
    assert starts(result) == {}
    assert "not ready or not schedulable" in result.waiting[0].message
    c.apply(node("n", unschedulable=True))
    assert c.total()[2] == 0
    assert starts(cycle(c)) == {"g-0": "n"}


def test_equal_pods_of_which_one_tolerates_it_are_told_apart() -> None:
    c = world(queue("q"), node("n", unschedulable=True), *work("a"))
    for record in work("b", created=1, pod={"tolerations": [Toleration(operator="Exists")]}):
        c.apply(record)
    assert starts(cycle(c)) == {"b-0": "n"}


def _prefers(*terms: tuple[int, str]) -> dict[str, object]:
    found = [NodeTerm(weight=w, expressions=[Requirement(key="gen", operator="Gt", values=[v])]) for w, v in terms]
    return {"affinity": Affinity(node_preferred=found)}


def test_preferred_labels_of_nodes_beat_packing_and_their_weights_add_up() -> None:
    full = work("full", gpus=3, nodes=["n9"])
    nodes = [node("n9", labels={"gen": "9"}), node("n10", labels={"gen": "10"}), node("n20", labels={"gen": "20"})]
    assert starts(cycle(world(queue("q"), *nodes, *full, *work("g")))) == {"g-0": "n9"}
    assert starts(cycle(world(queue("q"), *nodes, *full, *work("g", pod=_prefers((1, "9"), (1, "15")))))) == {"g-0": "n20"}
    assert starts(cycle(world(queue("q"), *nodes, *full, *work("g", pods=2, pod=_prefers((1, "9")))))) == {
        "g-0": "n10",
        "g-1": "n10",
    }
    # An empty term prefers nothing.
    nothing = {"affinity": Affinity(node_preferred=[NodeTerm(weight=100)])}
    assert starts(cycle(world(queue("q"), *nodes, *full, *work("g", pod=nothing)))) == {"g-0": "n9"}
    reference = cycle(
        world(queue("q"), *nodes, *full, *work("g", pod=_prefers((1, "9")))), settings=Settings(compatibility="0.17")
    )
    assert starts(reference) == {"g-0": "n9"}


@pytest.mark.parametrize("gpus", [1, 0.5])
def test_taints_that_would_rather_have_no_pods_are_avoided_while_there_is_room(gpus: float) -> None:
    shy = [Taint(key="spot", effect="PreferNoSchedule")]
    c = world(
        queue("q"), node("a", taints=shy), node("b", 1), *(r for i in range(3) for r in work(f"g{i}", gpus=gpus, created=i))
    )
    got = starts(cycle(c))
    assert [got[f"g{i}-0"] for i in range(3)] == (["b", "a", "a"] if gpus == 1 else ["b", "b", "a"])
    fond = {"tolerations": [Toleration(key="spot", operator="Exists")]}
    c = world(queue("q"), node("a", taints=shy), node("b"), *work("g", gpus=gpus, pod=fond))
    assert starts(cycle(c)) == {"g-0": "a"}
