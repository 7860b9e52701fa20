"""The ledger of shared GPUs is derived: whatever comes in whatever order, it is what a recount makes of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.decision import Verb
from shoal_contracts.state import PodRecord
from shoal_gpu_reservation.ledger import Ledger
from shoal_model import labels
from shoal_testkit.shared_records import decision, reservation, user


def test_a_group_is_its_reservation_its_users_and_who_is_to_come() -> None:
    ledger = Ledger()
    ledger.pod(reservation())
    ledger.pod(user("a"))
    ledger.pod(user("b", fraction=0.25))
    assert ledger.decision(decision("c")) == {("n", "g")}
    group = ledger.groups["n", "g"]
    assert group.reservation is not None
    assert group.reservation.device == "GPU-1"
    assert set(group.users) == {"a", "b"}
    assert group.coming == {"c"}
    assert group.used(1000.0) == 0.75
    assert ledger.closed("c") == {("n", "g")}
    ledger.pod_gone("ns", "a")
    ledger.pod_gone("ns", "b")
    assert not group.in_use
    ledger.pod_gone(labels.RESERVATION_NAMESPACE, "r")
    assert ledger.groups == {}


def test_who_does_not_count() -> None:
    ledger = Ledger()
    ledger.pod(user(node=""))
    ledger.pod(
        user(),
    )
    ledger.pod(PodRecord(namespace="ns", name="u", uid="u", node="n", gpu_groups=["g"], phase="Succeeded"))
    ledger.pod(PodRecord(namespace="ns", name="whole", uid="w", node="n", phase="Running"))
    ledger.decision(decision("e", verb=Verb.EVICT))
    assert ledger.groups == {}


def test_labels_that_a_user_sets_make_nothing_of_a_pod() -> None:
    ledger = Ledger()
    for tags in ({labels.APP: labels.RESERVATION_APP}, {labels.GPU_GROUP: "g"}):
        ledger.pod(PodRecord(namespace="ns", name="r", uid="r", node="n", gpu_groups=["g"], phase="Running", labels=tags))
    assert ledger.groups == {}


def test_the_oldest_reservation_that_is_not_leaving_counts() -> None:
    ledger = Ledger()
    ledger.pod(reservation("old", created=1.0, deleted=9.0))
    ledger.pod(reservation("b", created=2.0))
    ledger.pod(reservation("a", created=3.0))
    found = ledger.groups["n", "g"].reservation
    assert found is not None
    assert found.name == "b"


NAMES = st.sampled_from("abc")
GROUPS = st.lists(st.sampled_from(["g", "h"]), min_size=1, max_size=2, unique=True)
STEPS = st.one_of(
    st.builds(lambda n, g, node: ("pod", user(n, *g, node=node)), NAMES, GROUPS, st.sampled_from(["n", "m", ""])),
    st.builds(lambda n, g, d: ("pod", reservation(f"r-{n}", g[0], deleted=d)), NAMES, GROUPS, st.sampled_from([0.0, 5.0])),
    st.builds(lambda n: ("gone", ("ns", n)), NAMES),
    st.builds(lambda n: ("gone", (labels.RESERVATION_NAMESPACE, f"r-{n}")), NAMES),
    st.builds(lambda n, g: ("decision", decision(n, *g)), NAMES, GROUPS),
    st.builds(lambda n: ("closed", n), NAMES),
)


@given(st.lists(STEPS, max_size=30))
def test_it_never_drifts_from_a_recount(steps: list[tuple[str, Any]]) -> None:
    ledger = Ledger()
    for what, value in steps:
        before = {k: (set(g.users), set(g.reservations), set(g.coming)) for k, g in ledger.groups.items()}
        match what:
            case "pod":
                changed = ledger.pod(value)
            case "gone":
                changed = ledger.pod_gone(*value)
            case "decision":
                changed = ledger.decision(value)
            case _:
                changed = ledger.closed(value)
        assert ledger.differs(ledger.recounted()) == set()
        assert not any(g.empty for g in ledger.groups.values())
        after = {k: (set(g.users), set(g.reservations), set(g.coming)) for k, g in ledger.groups.items()}
        assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} <= changed
