"""Shapes: as few as there are kinds of pods, and none of a kind that is gone."""

from __future__ import annotations

from typing import Any

from shoal_contracts import state
from shoal_core import cycle
from shoal_testkit.small import node, queue, starts, work, world


def kept(cluster: Any) -> tuple[int, int, int]:
    nodes = cluster.nodes
    return len(cluster._shapes._shapes), len(nodes._allowed), len(nodes._verdicts)


def preferring(**labels: str) -> dict[str, Any]:
    term = state.NodeTerm(expressions=[state.Requirement(key="a", operator="Exists")], weight=1)
    return {"affinity": state.Affinity(node_preferred=[term]), "labels": labels}


def apart(key: str, **labels: str) -> dict[str, Any]:
    chosen = state.Selector(requirements=[state.Requirement(key=key, operator="In", values=["x"])])
    term = state.PodTerm(topology_key="kubernetes.io/hostname", selector=chosen)
    return {"affinity": state.Affinity(anti_required=[term]), "labels": labels}


def test_days_of_jobs_leave_nothing_behind() -> None:
    c = world(queue("q"), *(node(f"n{i}", gpus=8) for i in range(4)))
    sizes = []
    for day in range(5):
        names = [f"job-{day}-{i}" for i in range(10)]
        for i, name in enumerate(names):
            for record in work(name, pods=2, gpus=1 + i % 3, pod=preferring(**{"controller-uid": name})):
                c.apply(record)
        cycle(c, now=float(day))
        for name in names:
            for k in range(2):
                c.remove("pod", "ns", f"{name}-{k}")
                c.forget(f"{name}-{k}")
            c.remove("group", "ns", name)
        sizes.append(kept(c))
    assert sizes == [(0, 0, 0)] * 5
    assert not c.jobs
    assert not c.pods
    c.check()


def test_labels_that_no_term_of_the_pod_looks_at_make_no_shape() -> None:
    c = world(queue("q"), node("n", 8, labels={"kubernetes.io/hostname": "n"}))
    for i in range(3):
        for record in work(f"a{i}", pod=preferring(**{"controller-uid": str(i), "pod-index": str(i)})):
            c.apply(record)
        for record in work(f"b{i}", pod=apart("app", **{"app": "x", "pod-index": str(i)})):
            c.apply(record)
    assert kept(c)[0] == 2
    assert len(starts(cycle(c, now=1.0))) == 4


def test_labels_that_a_term_of_the_pod_looks_at_do() -> None:
    c = world(queue("q"), node("n", 8, labels={"kubernetes.io/hostname": "n"}))
    for name, app in (("a", "x"), ("b", "y"), ("c", "y")):
        for record in work(name, pod=apart("app", app=app)):
            c.apply(record)
    assert kept(c)[0] == 2
    assert starts(cycle(c, now=1.0)).keys() in ({"a-0"}, {"b-0", "c-0"})


def test_a_shape_stays_while_a_pod_has_it() -> None:
    c = world(queue("q"), node("n", 2), *work("a"), *work("b"), *work("big", gpus=8))
    cycle(c, now=1.0)
    assert kept(c)[0] == 2
    c.remove("pod", "ns", "a-0")
    c.forget("a-0")
    assert kept(c)[0] == 2
    c.remove("pod", "ns", "b-0")
    assert kept(c)[0] == 1
    for record in work("d"):
        c.apply(record)
    assert starts(cycle(c, now=2.0)) == {"d-0": "n"}
    c.check()


def test_labels_of_nodes_that_change_for_ever_leave_nothing_behind() -> None:
    c = world(queue("q"), *(node(f"n{i}", 1) for i in range(3)), *work("a", gpus=2), *work("b"))
    for beat in range(500):
        c.apply(node("n0", 1, labels={"beat": str(beat)}))
        cycle(c, now=float(beat))
    assert len(c.nodes._profiles) < 100
    assert all(len(v) < 100 for v in c.nodes._verdicts.values())
    c.check()
