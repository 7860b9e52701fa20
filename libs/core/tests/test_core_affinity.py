"""Pod affinity and anti-affinity: namespaces, terms of pods that run, preferences, gangs that want to be together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal_contracts.state import Affinity, NamespaceRecord, PodRecord, PodTerm, Requirement, Selector, Toleration
from shoal_core import Cluster, Settings, cycle
from shoal_core.placement.census import meaning
from shoal_core.placement.feasible import matches
from shoal_core.rows import Pod
from shoal_core.session import Session
from shoal_core.status import ACTIVE, RELEASING, USED
from shoal_testkit.small import node, queue, starts, work, world

HOST = "kubernetes.io/hostname"


def host(name: str, gpus: float = 4, **more: Any) -> Any:
    return node(name, gpus, labels={HOST: name} | more.pop("labels", {}), **more)


def equal(**wanted: str) -> Selector:
    return Selector(requirements=[Requirement(key=k, operator="In", values=[v]) for k, v in wanted.items()])


def term(selector: Selector | None = None, key: str = HOST, **more: Any) -> PodTerm:
    return PodTerm(topology_key=key, selector=equal(app="db") if selector is None else selector, **more)


def runs(name: str, namespace: str, at: str, **more: Any) -> PodRecord:
    return PodRecord(namespace=namespace, name=name, uid=name, node=at, phase="Running", **({"labels": {"app": "db"}} | more))


def waits(affinity: Affinity, **more: Any) -> list[Any]:
    return work("g", pod={"affinity": affinity} | more)


A, B = (
    NamespaceRecord(name="ns", labels={"kubernetes.io/metadata.name": "ns"}),
    NamespaceRecord(name="b", labels={"kubernetes.io/metadata.name": "b", "team": "db"}),
)
ALL, TEAM, NONE = Selector(), equal(team="db"), equal(team="nobody")
NAMED = equal(**{"kubernetes.io/metadata.name": "unknown"})


@pytest.mark.parametrize(
    ("namespaces", "selector", "where", "meant"),
    [
        ([], None, "ns", True), ([], None, "b", False), (["b"], None, "b", True), (["b"], None, "ns", False),
        ([], ALL, "ns", True), ([], ALL, "b", True), ([], ALL, "unknown", True), ([], TEAM, "b", True),
        ([], TEAM, "ns", False), ([], NONE, "ns", False), (["ns"], TEAM, "ns", True), (["ns"], TEAM, "b", True),
        (["ns"], TEAM, "unknown", False), (["ns"], NONE, "b", False), ([], NAMED, "unknown", True), ([], NAMED, "b", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("direction", ["near", "far", "theirs"])
def test_a_term_speaks_of_listed_namespaces_and_of_selected_ones(
    namespaces: list[str], selector: Selector | None, where: str, meant: bool, direction: str
) -> None:
    one = term(namespaces=namespaces, namespace_selector=selector)
    records: list[Any] = [queue("q"), A, B, host("n1"), host("n2", 1)]
    if direction == "theirs":
        # The pod that runs is in "ns" and would not have pods of ``where`` beside it.
        owner = runs("r", "ns", "n2", labels={}, affinity=Affinity(anti_required=[one]))
        mine = [replace(r, namespace=where) for r in work("g", pod={"labels": {"app": "db"}, "node_selector": {HOST: "n2"}})]
        assert starts(cycle(world(*records, owner, *mine))) == ({} if meant else {"g-0": "n2"})
        return
    other = runs("r", where, "n2")
    if direction == "near":
        got = starts(cycle(world(*records, other, *waits(Affinity(pod_required=[one])))))
        assert got == ({"g-0": "n2"} if meant else {})
    else:
        got = starts(cycle(world(*records, other, *waits(Affinity(anti_required=[one]), node_selector={HOST: "n2"}))))
        assert got == ({} if meant else {"g-0": "n2"})


def test_labels_of_a_namespace_change_and_a_namespace_becomes_known() -> None:
    near = Affinity(pod_required=[term(namespace_selector=TEAM)])
    c = world(queue("q"), host("n1"), runs("r", "late", "n1"), *waits(near))
    assert starts(cycle(c)) == {}
    c.apply(NamespaceRecord(name="late", labels={"team": "web"}))
    assert starts(cycle(c)) == {}
    c.apply(NamespaceRecord(name="late", labels={"team": "db"}))
    c.remove("namespace", "", "late")
    assert starts(cycle(c)) == {}
    c.apply(NamespaceRecord(name="late", labels={"team": "db"}))
    assert starts(cycle(c)) == {"g-0": "n1"}


def test_a_pod_counts_for_an_affinity_only_if_all_terms_mean_it() -> None:
    both = Affinity(pod_required=[term(equal(app="db")), term(equal(tier="gold"))])
    records = [queue("q"), host("n1"), host("n2"), runs("a", "ns", "n1"), runs("b", "ns", "n1", labels={"tier": "gold"})]
    assert starts(cycle(world(*records, *waits(both)))) == {}
    records.append(runs("c", "ns", "n2", labels={"app": "db", "tier": "gold"}))
    assert starts(cycle(world(*records, *waits(both)))) == {"g-0": "n2"}


def test_keys_that_must_match_or_must_not_take_the_pods_own_values() -> None:
    far = Affinity(anti_required=[term(equal(app="db"), match_label_keys=["hash"])])
    old = runs("old", "ns", "n1", labels={"app": "db", "hash": "1"})
    mine = {"labels": {"app": "db", "hash": "2"}, "node_selector": {HOST: "n1"}}
    assert starts(cycle(world(queue("q"), host("n1"), old, *waits(far, **mine)))) == {"g-0": "n1"}
    apart = Affinity(anti_required=[term(equal(app="db"), mismatch_label_keys=["hash"])])
    assert starts(cycle(world(queue("q"), host("n1"), old, *waits(apart, **mine)))) == {}
    # What the API server wrote into the selector holds, also after the pod's own label was changed.
    merged = Selector(requirements=[*equal(app="db").requirements, Requirement(key="hash", operator="In", values=["1"])])
    far = Affinity(anti_required=[term(merged, match_label_keys=["hash"])])
    assert starts(cycle(world(queue("q"), host("n1"), old, *waits(far, **mine)))) == {}


def test_pods_with_the_same_demands_fare_differently_by_their_labels() -> None:
    """A job that is kept away by a pod that runs says nothing of the next one, which is not."""
    keeper = runs("keeper", "ns", "n1", labels={}, affinity=Affinity(anti_required=[term()]))
    full = work("low", gpus=4, nodes=["n1"])
    db = work("db", gpus=4, priority="high", created=1, pod={"labels": {"app": "db"}})
    web = work("web", gpus=4, priority="high", created=2, pod={"labels": {"app": "web"}})
    result = cycle(world(queue("q"), host("n1"), keeper, *full, *db, *web))
    assert [e.pod for e in result.evictions] == ["low-0"]
    assert [r.pod for r in result.reserved] == ["web-0"]


def test_a_victim_is_no_neighbour_of_what_takes_its_place() -> None:
    far = {"labels": {"app": "db"}, "affinity": Affinity(anti_required=[term()])}
    low = work("low", gpus=4, nodes=["n1"], pod=far)
    high = work("high", gpus=4, priority="high", created=1, pod=far)
    c = world(queue("q"), host("n1"), *low, *high)
    result = cycle(c)
    assert [e.pod for e in result.evictions] == ["low-0"]
    assert [(r.pod, r.node) for r in result.reserved] == [("high-0", "n1")]


def test_while_a_victim_ends_no_other_is_sought() -> None:
    far = {"labels": {"app": "db"}, "affinity": Affinity(anti_required=[term()])}
    records = [queue("q"), host("n1"), host("n2")]
    low = [r for i in (1, 2) for r in work(f"low{i}", gpus=4, nodes=[f"n{i}"], created=i, pod=far)]
    c = world(*records, *low, *work("high", gpus=4, priority="high", created=3, pod=far))
    first = cycle(c)
    assert len(first.evictions) == 1
    gone = first.evictions[0]
    ending = next(r for r in low if isinstance(r, PodRecord) and r.uid == gone.uid)
    for now in (1.0, 2.0, 3.0):
        c.apply(replace(ending, deleted=0.5))
        c.forget(gone.uid)
        result = cycle(c, now=now)
        assert (result.evictions, starts(result)) == ([], {})
        assert [r.node for r in result.reserved] == [first.reserved[0].node]
    c.remove("pod", ending.namespace, ending.name)
    assert starts(cycle(c, now=4.0)) == {"high-0": first.reserved[0].node}


def test_a_pod_that_ends_by_itself_keeps_others_away_until_it_is_gone() -> None:
    far = Affinity(anti_required=[term()])
    ending = runs("r", "ns", "n1", deleted=1.0)
    c = world(queue("q"), host("n1"), ending, *waits(far))
    result = cycle(c, now=2.0)
    assert (starts(result), result.reserved) == ({}, [])
    c.remove("pod", "ns", "r")
    assert starts(cycle(c, now=3.0)) == {"g-0": "n1"}


# preferences


@pytest.mark.parametrize("weight", [1, 100])
def test_a_preferred_affinity_beats_packing_and_an_anti_affinity_too(weight: int) -> None:
    full = work("full", gpus=3, nodes=["n1"])
    records = [queue("q"), host("n1"), host("n2"), *full, runs("r", "ns", "n2")]
    assert starts(cycle(world(*records, *work("g")))) == {"g-0": "n1"}
    assert starts(cycle(world(*records, *waits(Affinity(pod_preferred=[term(weight=weight)]))))) == {"g-0": "n2"}
    records = [queue("q"), host("n1"), host("n2"), *full, runs("r", "ns", "n1")]
    assert starts(cycle(world(*records, *waits(Affinity(anti_preferred=[term(weight=weight)]))))) == {"g-0": "n2"}


def test_pods_that_run_would_have_others_near_or_far() -> None:
    full = work("full", gpus=3, nodes=["n1"])
    mine = work("g", pod={"labels": {"app": "db"}})
    for affinity, at, wanted in (
        (Affinity(pod_preferred=[term(weight=1)]), "n2", "n2"),
        (Affinity(pod_required=[term()]), "n2", "n2"),
        (Affinity(anti_preferred=[term(weight=1)]), "n1", "n2"),
        (Affinity(pod_preferred=[term(weight=1)]), "n1", "n1"),
    ):
        other = runs("r", "ns", at, labels={}, affinity=affinity)
        assert starts(cycle(world(queue("q"), host("n1"), host("n2"), *full, other, *mine))) == {"g-0": wanted}


def test_weights_add_up_and_a_preference_never_delays_a_start() -> None:
    records = [queue("q"), host("n1"), host("n2"), runs("a", "ns", "n1"), runs("b", "ns", "n2", labels={"app": "web"})]
    both = Affinity(pod_preferred=[term(weight=10), term(equal(app="web"), weight=20)])
    assert starts(cycle(world(*records, *waits(both)))) == {"g-0": "n2"}
    full = work("full", gpus=4, nodes=["n2"])
    assert starts(cycle(world(*records, *full, *waits(both)))) == {"g-0": "n1"}


def test_a_gang_that_would_be_apart_is() -> None:
    apart = {"labels": {"app": "db"}, "affinity": Affinity(anti_preferred=[term(weight=1)])}
    c = world(queue("q"), host("n1"), host("n2"), host("n3"), *work("g", pods=3, pod=apart))
    assert sorted(starts(cycle(c)).values()) == ["n1", "n2", "n3"]


# gangs that must be together


def racks(*sizes: tuple[str, float]) -> list[Any]:
    return [host(f"{rack}-{i}", gpus, labels={"rack": rack}) for i, (rack, gpus) in enumerate(sizes)]


TOGETHER = {"labels": {"app": "db"}, "affinity": Affinity(pod_required=[term(key="rack")])}


def test_a_gang_that_must_be_together_gets_a_domain_with_room_for_all_of_it() -> None:
    c = world(queue("q"), *racks(("r1", 2), ("r2", 4)), *work("g", pods=4, pod=TOGETHER))
    assert set(starts(cycle(c)).values()) == {"r2-1"}


def test_of_several_domains_the_fullest_that_is_large_enough() -> None:
    nodes = racks(("r1", 2), ("r2", 8), ("r3", 3), ("r3", 2), ("r4", 8))
    got = set(starts(cycle(world(queue("q"), *nodes, *work("g", pods=5, pod=TOGETHER)))).values())
    assert got == {"r3-2", "r3-3"}


def test_pods_that_run_settle_the_domain() -> None:
    c = world(queue("q"), *racks(("r1", 2), ("r2", 4)), runs("r", "ns", "r1-0"), *work("g", pods=4, pod=TOGETHER))
    result = cycle(c)
    assert starts(result) == {}
    c.check()


def test_workers_that_must_be_near_their_leader_pull_it_along() -> None:
    near = Affinity(pod_required=[term(equal(role="leader"), key="rack")])
    gang = work("g", pods=4)
    pods = [r for r in gang if isinstance(r, PodRecord)]
    told = [replace(pods[0], labels={"role": "leader"}), *(replace(p, affinity=near) for p in pods[1:])]
    c = world(queue("q"), *racks(("r1", 2), ("r2", 4)), gang[0], *told)
    assert set(starts(cycle(c)).values()) == {"r2-1"}


def test_a_gang_for_which_no_domain_is_large_enough_waits_and_says_what_it_said() -> None:
    c = world(queue("q"), *racks(("r1", 2), ("r2", 3)), *work("g", pods=4, pod=TOGETHER))
    result = cycle(c)
    assert starts(result) == {}
    assert "4 must start together" in result.waiting[0].message
    c.check()


def test_victims_are_sought_for_a_gang_that_must_be_together() -> None:
    low = [r for i in range(2) for r in work(f"low{i}", gpus=4, nodes=["r2-1"], created=i)][:2]
    c = world(queue("q"), *racks(("r1", 2), ("r2", 4)), *low, *work("g", pods=4, priority="high", created=9, pod=TOGETHER))
    result = cycle(c)
    assert {r.node for r in result.reserved} == {"r2-1"}
    assert [e.pod for e in result.evictions] == ["low0-0"]


# the census against a plain twin


def _twin(c: Cluster, owner: PodRecord, one: PodTerm) -> tuple[list[int], list[int]]:
    near, active = np.zeros(8, int), np.zeros(8, int)
    for pod in c.pods.values():
        if pod.record.namespace != owner.namespace or one.selector is None:
            continue
        if not all(matches(r, pod.record.labels) for r in one.selector.requirements):
            continue
        if pod.node >= 0 and USED[pod.status]:
            victim = pod.status == RELEASING and (pod.virtual or pod.uid in c.evicted)
            near[pod.node] += not victim
            active[pod.node] += ACTIVE[pod.status]
    return near.tolist(), active.tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_follow_every_step_and_its_undo(data: st.DataObject) -> None:
    jobs = [
        work(
            f"g{i}", gpus=1, pods=2, nodes=["n0", "n1"] if i % 2 else None,
            pod={"labels": {"app": "db" if i % 3 else "web"}, "affinity": Affinity(anti_preferred=[term(weight=3)])},
        )
        for i in range(6)
    ]  # fmt: skip
    c = world(queue("q"), *(host(f"n{i}", 16) for i in range(3)), *(r for job in jobs for r in job))
    session = Session(c, 0.0, Settings())
    owner = next(r for r in jobs[0] if isinstance(r, PodRecord))
    one = term(equal(app="db"))
    count = session.census.count(meaning(one, owner))
    meant = next(r for r in jobs[1] if isinstance(r, PodRecord))
    assert session.census.concerned(meant)
    pods: list[Pod] = [c.pods[uid] for uid in sorted(c.pods)]
    marks = [0]
    for _ in range(data.draw(st.integers(1, 25))):
        pod = data.draw(st.sampled_from(pods))
        what = data.draw(st.sampled_from(["step", "mark", "undo"]))
        if what == "mark":
            marks.append(len(session.log))
        elif what == "undo":
            session.rollback(marks.pop() if len(marks) > 1 else 0)
        elif pod.node < 0 or (pod.status == RELEASING and not pod.away):
            session.place(pod, data.draw(st.integers(0, 2)), data.draw(st.booleans()))
        elif ACTIVE[pod.status]:
            session.evict(pod)
        near, active = _twin(c, owner, one)
        count = session.census.count(meaning(one, owner))
        assert count.here(True)[:8].tolist() == near[: len(count.here(True))]
        assert count.active[:8].tolist() == active[: len(count.active)]
        everyone = sum(p.node >= 0 and USED[p.status] and not (p.status == RELEASING and p.virtual) for p in pods)
        mine = c.pods[meant.uid]
        own = mine.node >= 0 and USED[mine.status] and not (mine.status == RELEASING and mine.virtual)
        found = sum(int(x.counts.sum()) for x in session.census.attracting(meant, hard=True))
        assert found == -3 * (everyone - own)


def test_no_pod_pays_where_nobody_holds_a_term() -> None:
    c = world(queue("q"), host("n1"), *work("g", pod={"tolerations": [Toleration(operator="Exists")]}))
    session = Session(c, 0.0)
    assert not session.census.concerned(c.pods["g-0"].record)
    assert session.journal is None


# the terms of others against a plain twin

LABELS = ("app", "tier", "x")
VALUES = ("a", "b", "c")
SPACES = ("ns", "other", "third")


@st.composite
def selectors(draw: st.DrawFn) -> Selector | None:
    if draw(st.integers(0, 9)) == 0:
        return None
    found = []
    for _ in range(draw(st.integers(0, 3))):
        operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "odd"]))
        values = draw(st.lists(st.sampled_from(VALUES), max_size=2)) if operator not in ("Exists", "DoesNotExist") else []
        found.append(Requirement(key=draw(st.sampled_from(LABELS)), operator=operator, values=values))
    return Selector(requirements=found)


@st.composite
def pod_terms(draw: st.DrawFn) -> PodTerm:
    return PodTerm(
        topology_key=draw(st.sampled_from(["kubernetes.io/hostname", "zone", "nowhere"])),
        selector=draw(selectors()),
        namespaces=draw(st.lists(st.sampled_from(SPACES), max_size=2)),
        namespace_selector=draw(st.none() | selectors()),
        match_label_keys=draw(st.lists(st.sampled_from(LABELS), max_size=1)),
        mismatch_label_keys=draw(st.lists(st.sampled_from(LABELS), max_size=1)),
        weight=draw(st.sampled_from([1, 5])),
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_terms_of_others_count_as_one_by_one(data: st.DataObject) -> None:
    tags = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(VALUES), max_size=3)
    few = st.lists(pod_terms(), max_size=2)
    records: list[PodRecord] = []
    for i in range(data.draw(st.integers(1, 6))):
        rules = Affinity(
            anti_required=data.draw(few), pod_required=data.draw(few), pod_preferred=data.draw(few),
            anti_preferred=data.draw(few),
        )  # fmt: skip
        (one,) = [
            r
            for r in work(f"g{i}", gpus=0, nodes=[f"n{i % 3}"], pod={"labels": data.draw(tags), "affinity": rules})
            if isinstance(r, PodRecord)
        ]
        records.append(replace(one, namespace=data.draw(st.sampled_from(SPACES))))
    nodes = [host(f"n{i}", 16) for i in range(3)]
    nodes[0] = replace(nodes[0], labels=nodes[0].labels | {"zone": "z"})
    c = world(queue("q"), *nodes, *records)
    session = Session(c, 0.0, Settings())
    asked = replace(records[0], uid="asked", labels=data.draw(tags), namespace=data.draw(st.sampled_from(SPACES)))
    for pod in (asked, records[0]):
        repelled: dict[str, list[int]] = {}
        attracted: dict[str, list[int]] = {}
        for other in c.pods.values():
            if other.uid == pod.uid or other.node < 0 or other.record.affinity is None:
                continue
            rules = other.record.affinity
            given = [(t, 0) for t in rules.anti_required] + [(t, 1) for t in rules.pod_required]
            given += [(t, t.weight) for t in rules.pod_preferred] + [(t, -t.weight) for t in rules.anti_preferred]
            for one, weight in given:
                means = meaning(one, other.record)
                if session.census.domains(one.topology_key)[1] and means.means(pod, c.namespaces):
                    into = attracted if weight else repelled
                    counts = into.setdefault(one.topology_key, [0] * session.everywhere.shape[0])
                    counts[other.node] += weight or 1
        found = {x.topology_key: x.counts.tolist() for x in session.census.repelling(pod, later=False)}
        assert found == {k: v for k, v in repelled.items() if any(v)}
        found = {x.topology_key: x.counts.tolist() for x in session.census.attracting(pod, hard=True)}
        assert found == {k: v for k, v in attracted.items() if any(v)}
        for one in (records[0].affinity or Affinity()).anti_required:
            means = meaning(one, records[0])
            plain = [0] * session.everywhere.shape[0]
            for other in c.pods.values():
                if other.node >= 0 and other.uid != pod.uid and means.means(other.record, c.namespaces):
                    plain[other.node] += 1
            assert session.census.count(means).here(False, pod.uid).tolist() == plain
