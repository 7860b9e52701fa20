"""No more reservations on a node than it has devices that work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shoal_contracts.queries import Reserved, ReserveRequest
from shoal_contracts.state import NodeRecord, PodRecord
from shoal_gpu_reservation.capacity import Capacity
from shoal_gpu_reservation.desk import Desk
from shoal_gpu_reservation.ledger import Ledger
from shoal_gpu_reservation.manifest import PodSettings
from shoal_kube import AlreadyExists, Invalid, KubeError, Unreachable
from shoal_model import labels
from shoal_testkit.shared_records import reservation, user


def node(gpus: float, name: str = "n") -> NodeRecord:
    # What the label says is not what works.
    return NodeRecord(name=name, allocatable={labels.GPU: gpus}, labels={"nvidia.com/gpu.count": "8"})


def whole(name: str, gpus: float = 1.0, where: str = "n", **more: Any) -> PodRecord:
    return PodRecord(namespace="ns", name=name, uid=name, node=where, requests={labels.GPU: gpus}, phase="Running", **more)


class Front:
    """A desk, what it knows, and the reservations that it made."""

    def __init__(self, gpus: float, *pods: PodRecord) -> None:
        self.ledger, self.nodes = Ledger(), {"n": node(gpus)}
        self.capacity = Capacity(self.nodes, self.ledger)
        self.made: list[str] = []
        self.error: KubeError | None = None
        self.at = 100.0
        context: Any = SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: self.at))
        kube: Any = SimpleNamespace(post=self._post)
        ownership: Any = SimpleNamespace(term=lambda part: 1)
        self.desk = Desk(context, kube, self.ledger, ownership, PodSettings(), self.capacity)
        for pod in pods:
            self.told(pod)

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.made.append(body["metadata"]["labels"][labels.GPU_GROUP])

    def told(self, pod: PodRecord) -> None:
        self.capacity.pod(pod)
        self.ledger.pod(pod)

    async def asked(self, group: str, where: str = "n") -> Reserved:
        """PENDING where the desk goes on waiting."""
        key = (where, group)
        self.desk._held[key] = self.at + 5.0
        reply = await self.desk._look(key, ReserveRequest(node=where, group=group, namespace="ns", pod="p"), 1)
        if reply is not None and reply.state is Reserved.REFUSED:
            assert "work (allocatable)" in reply.message
        return reply.state if reply is not None else Reserved.PENDING


@pytest.mark.parametrize("pods", [
    [reservation("a", "ga"), reservation("b", "gb")],
    [reservation("a", "ga"), reservation("b", "gb", device="")],
    [reservation("a", "ga"), whole("w")],
    [whole("w", 2.0)],
    [whole("w"), whole("v")],
])  # fmt: skip
async def test_a_node_whose_devices_are_held_refuses_at_once(pods: list[PodRecord]) -> None:
    front = Front(2, *pods)
    assert await front.asked("new") is Reserved.REFUSED
    assert front.made == []
    assert await front.asked("new") is Reserved.REFUSED


@pytest.mark.parametrize("pods", [
    [],
    [reservation("a", "ga")],
    [whole("w")],
    [reservation("a", "ga"), user("u", "ga"), user("v", "ga")],
    [reservation("a", "ga"), reservation("again", "ga")],
    [reservation("a", "ga"), reservation("b", "gb", notes={labels.DEVICE_LOST: "xid 79"})],
    [whole("w"), whole("far", 8.0, "m"), reservation("f", "gf", node="m")],
])  # fmt: skip
async def test_a_device_that_is_left_is_given(pods: list[PodRecord]) -> None:
    front = Front(2, *pods)
    assert await front.asked("new") is Reserved.PENDING
    assert front.made == ["new"]


@pytest.mark.parametrize(
    "leaving", [reservation("b", "gb", deleted=5.0), whole("w", deleted=5.0)], ids=["reservation", "whole"]
)
async def test_what_is_leaving_is_waited_for(leaving: PodRecord) -> None:
    front = Front(2, reservation("a", "ga"), leaving)
    assert await front.asked("new") is Reserved.PENDING
    assert front.made == []
    front.ledger.pod_gone(leaving.namespace, leaving.name)
    front.capacity.gone(leaving.namespace, leaving.name)
    assert await front.asked("new") is Reserved.PENDING
    assert front.made == ["new"]


async def test_of_many_that_ask_at_once_no_more_are_made_than_there_is_room_for() -> None:
    front = Front(2)
    assert [await front.asked(f"g{i}") for i in range(6)] == [Reserved.PENDING] * 2 + [Reserved.REFUSED] * 4
    assert front.made == ["g0", "g1"]
    for i in range(2):
        front.told(reservation(f"r{i}", f"g{i}"))
    assert await front.asked("g5") is Reserved.REFUSED


@pytest.mark.parametrize(
    ("error", "then"),
    [
        (Invalid(422, "Invalid", "no"), Reserved.PENDING),
        (Unreachable(0, "", "no answer"), Reserved.REFUSED),
        (AlreadyExists(409, "AlreadyExists", "there"), Reserved.REFUSED),
    ],
    ids=["refused", "unknown", "there"],
)
async def test_a_reservation_that_was_refused_holds_nothing(error: KubeError, then: Reserved) -> None:
    front = Front(1)
    front.error = error
    try:
        await front.asked("one")
    except KubeError:
        pass
    front.error = None
    assert await front.asked("two") is then


async def test_a_node_that_loses_a_device_gives_no_more_than_it_has_now() -> None:
    front = Front(2, reservation("a", "ga"))
    front.nodes["n"] = node(1)
    assert await front.asked("new") is Reserved.REFUSED
    front.nodes["n"] = node(2)
    assert await front.asked("new") is Reserved.PENDING
    # A node that is not known yet is the kubelet's to judge.
    assert await front.asked("new", "unknown") is Reserved.PENDING


async def test_who_ends_or_goes_gives_the_device_back() -> None:
    front = Front(1, whole("w"))
    assert await front.asked("new") is Reserved.REFUSED
    front.told(PodRecord(namespace="ns", name="w", uid="w", node="n", requests={labels.GPU: 1.0}, phase="Succeeded"))
    assert await front.asked("new") is Reserved.PENDING
    assert front.capacity._whole == {}
