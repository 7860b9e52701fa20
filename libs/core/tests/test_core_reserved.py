"""What starts and has to make room in one cycle leaves nobody waiting for room that nobody holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal_contracts.state import Affinity, GpuShare, HostPort, PodRecord, PodTerm, Requirement, Selector, SpreadConstraint
from shoal_core import Cluster, cycle
from shoal_testkit.small import node, queue, starts, work, world

APP = Selector(requirements=[Requirement(key="app", operator="In", values=["s"])])
AT = {"n0": {"node_selector": {"at": "n0"}}, "n1": {"node_selector": {"at": "n1"}}, "": {}}
SPREAD = {"labels": {"app": "s"}, "spread": [SpreadConstraint(topology_key="at", max_skew=1, selector=APP)]}
NEAR = {"labels": {"app": "s"}, "affinity": Affinity(pod_required=[PodTerm(topology_key="at", selector=APP)])}
PORT = {"host_ports": [HostPort(port=80)]}


def at(name: str, gpus: float = 1) -> Any:
    return node(name, gpus, labels={"at": name})


def memory(name: str, **more: Any) -> list[Any]:
    share = GpuShare(memory_mib=50_000)
    return [replace(r, share=share) if isinstance(r, PodRecord) else r for r in work(name, gpus=0, **more)]


def share(name: str, **more: Any) -> list[Any]:
    return work(name, gpus=0.6, **more)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (share("a"), share("b", created=1, pod=AT["n0"])),
        (memory("a"), memory("b", created=1, pod=AT["n0"])),
        (share("a"), work("b", created=1, pod=AT["n0"])),
        (work("a"), share("b", created=1, pod=AT["n0"])),
        (work("a", pod=SPREAD), work("b", created=1, pod=SPREAD | AT["n0"])),
        (work("a"), work("b", created=1, pod=AT["n0"])),
    ],
)
def test_a_pod_that_makes_room_before_it_starts_starts_elsewhere_at_once(first: list[Any], second: list[Any]) -> None:
    result = cycle(world(queue("q"), at("n0"), at("n1"), *first, *second))
    assert starts(result) == {"a-0": "n1", "b-0": "n0"}
    assert (result.evictions, result.reserved) == ([], [])


def test_pods_that_want_to_be_together_start_where_they_all_fit() -> None:
    several = [r for i in range(4) for r in work(f"p{i}", created=i, pod=NEAR)]
    result = cycle(world(queue("q"), at("n0"), at("n1", 4), *several))
    assert set(starts(result).values()) == {"n1"}
    assert len(starts(result)) == 4


WISHES = st.tuples(
    st.sampled_from([0.0, 0.3, 0.6, 0.6, 1.0, 1.0, 2.0]), st.sampled_from(["", "", "n0", "n1"]),
    st.sampled_from([{}, {}, PORT, SPREAD, NEAR]), st.sampled_from([1, 1, 1, 2]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=3), st.lists(WISHES, min_size=2, max_size=5))
def test_nobody_waits_for_room_that_nobody_holds(
    sizes: list[int], wishes: list[tuple[float, str, dict[str, Any], int]]
) -> None:
    nodes = [at(f"n{i}", gpus) for i, gpus in enumerate(sizes)]
    records = [
        r
        for i, (gpus, only, more, pods) in enumerate(wishes)
        for r in work(f"g{i}", gpus=gpus, pods=pods, created=i, pod=more | AT[only])
    ]
    found = world(queue("q"), *nodes, *records)
    known = {r.uid: r for r in records if isinstance(r, PodRecord)}
    for number in range(12):
        result = cycle(found, now=float(number))
        assert result.gangs or result.evictions or not result.reserved
        if not (result.gangs or result.evictions):
            break
        _carry_out(found, known, result)
        found.check()


def _carry_out(found: Cluster, known: dict[str, PodRecord], result: Any) -> None:
    """What was decided to start runs, what was to go waits again."""
    for gang in result.gangs:
        for m in gang.members:
            known[m.uid] = replace(known[m.uid], node=m.node, phase="Running", gpu_groups=list(m.gpu_groups))
            found.apply(known[m.uid])
            found.forget(m.uid)
    for gone in result.evictions:
        found.remove("pod", "ns", gone.pod)
        found.forget(gone.uid)
        known[gone.uid] = replace(known[gone.uid], node="", phase="Pending", gpu_groups=[])
        found.apply(known[gone.uid])
