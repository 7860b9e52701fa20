"""A device that is held for nobody counts as being released, and as shared again once somebody uses it."""

from __future__ import annotations

import msgspec

from shoal_contracts.state import GpuShare, PodRecord
from shoal_core import cycle
from shoal_model import labels
from shoal_scheduler.reservations import Reservations
from shoal_testkit.small import node, queue, starts, work, world

TAGS = {labels.APP: labels.RESERVATION_APP, labels.GPU_GROUP: "g"}
RESERVATION = PodRecord(
    namespace=labels.RESERVATION_NAMESPACE, name="r", uid="r", labels=TAGS, gpu_groups=["g"], node="a", phase="Running",
    requests={labels.GPU: 1.0, "cpu": 1.0}, created=1.0,
)  # fmt: skip
USER = PodRecord(
    namespace="ns", name="u", uid="u", scheduler_name="kai-scheduler", node="a", phase="Running", gpu_groups=["g"],
    share=GpuShare(fraction=0.5),
)  # fmt: skip


def test_a_reservation_is_told_as_it_is_while_somebody_uses_its_group() -> None:
    book = Reservations()
    book.record(USER, 5.0)
    assert book.record(RESERVATION, 5.0) == RESERVATION
    assert book.changes(5.0) == []


def test_it_is_leaving_once_its_last_user_is_gone_and_stays_once_it_is_used_again() -> None:
    book = Reservations()
    book.record(USER, 5.0)
    book.record(RESERVATION, 5.0)
    book.record(msgspec.structs.replace(USER, phase="Succeeded"), 6.0)
    (leaving,) = book.changes(6.0)
    assert (leaving.name, leaving.deleted, leaving.gpu_groups) == ("r", 6.0, [])
    assert book.changes(7.0) == []
    book.decided("w", "a", ("g",))
    assert book.changes(8.0) == [RESERVATION]


def test_a_decision_and_the_pods_own_labels_count_once() -> None:
    book = Reservations()
    book.decided("u", "a", ("g",))
    book.record(RESERVATION, 5.0)
    book.record(USER, 5.0)
    book.decided("u", "", ())
    assert book.changes(5.0) == []
    book.gone("u")
    assert len(book.changes(6.0)) == 1


def test_the_same_group_on_another_node_is_another_device() -> None:
    book = Reservations()
    book.record(msgspec.structs.replace(USER, node="b"), 5.0)
    assert book.record(RESERVATION, 5.0).deleted == 5.0


def test_no_pod_starts_on_a_device_that_is_held_for_nobody() -> None:
    book, cluster = Reservations(), world(node("a", 1), queue("q"), *work("w", gpus=1))
    cluster.apply(book.record(RESERVATION, 5.0))
    result = cycle(cluster, now=6.0)
    assert starts(result) == {}
    assert [r.pod for r in result.reserved] == ["w-0"]
    cluster.remove("pod", RESERVATION.namespace, RESERVATION.name)
    assert starts(cycle(cluster, now=7.0)) == {"w-0": "a"}
    cluster.check()
