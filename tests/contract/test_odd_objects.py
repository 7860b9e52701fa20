"""Odd objects on their way through the services: what stands for them, and what the readers make of it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_admission.pods import Rules, mutate, validate
from shoal_cluster_state.unread import stand_in
from shoal_contracts import state
from shoal_gpu_reservation.ledger import Ledger
from shoal_kube.admission import Request
from shoal_model.normalise import from_dict
from shoal_queue_controller.app import Config, Service
from shoal_queue_controller.usage import roll_up
from shoal_testkit.fuzz import BATCH, Fuzzer

_KINDS = {"Pod": "pod", "Node": "node", "PodGroup": "group", "Queue": "queue", "PodDisruptionBudget": "pdb"}
_RECORDS = msgspec.json.Decoder(state.StateMessage)


def told(seed: int, count: int) -> Iterator[tuple[dict[str, Any], state.StateMessage]]:
    """(object, its record as readers get it)."""
    held: dict[tuple[str, str, str], bytes] = {}
    for raw in Fuzzer(seed).objects(count):
        meta = raw["metadata"]
        key = (raw["kind"], str(meta.get("namespace", "")), meta["name"])
        try:
            record: state.StateMessage | None = from_dict(raw)
        except msgspec.ValidationError as error:
            kind, names = _KINDS.get(raw["kind"], ""), (key[1], key[2])
            record = stand_in(kind, names, meta["uid"], "1", str(error), held.get(key), msgspec.json.encode(raw))
        if record is not None:
            held[key] = msgspec.json.encode(record)
            yield raw, _RECORDS.decode(held[key])


def queue_controller() -> Service:
    clock = SimpleNamespace(monotonic=lambda: 100.0, now=lambda: 100.0)
    context: Any = SimpleNamespace(config=Config(), clock=clock, log=SimpleNamespace(info=lambda *_, **__: None))
    nothing: Any = SimpleNamespace(event=lambda *_: None)
    return Service(context, nothing, nothing)


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_readers_take_whatever_comes(first: int) -> None:
    for seed in range(first, first + 20):
        service, ledger = queue_controller(), Ledger()
        names: set[tuple[str, str, str]] = set()
        for raw, record in told(seed, BATCH):
            place = f"seed {seed}, object {raw}"
            try:
                take(service, ledger, record)
                if isinstance(record, state.PodRecord):
                    review(raw)
            except Exception as error:
                raise AssertionError(f"{place}: {error!r}") from error
            names.add((type(record).__name__, getattr(record, "namespace", ""), getattr(record, "name", "")))
        assert not ledger.differs(ledger.recounted()), f"seed {seed}"
        service.usage()
        for what, namespace, name in sorted(names):
            kind = what.removesuffix("Record").lower()
            service._gone(kind, (namespace, name) if kind in ("pod", "group") else (name,))
            if kind == "pod":
                ledger.pod_gone(namespace, name)
        assert not ledger.groups, f"seed {seed}"
        assert service.usage() == {}, f"seed {seed}"
        left = (service._pods, service._group_of, service._groups, service._usage, service._direct, service._changed)
        assert not any(left), f"seed {seed}: {left}"


def take(service: Service, ledger: Ledger, record: state.StateMessage) -> None:
    match record:
        case state.PodRecord():
            service._pod(service._membership.pod(record))
            ledger.pod(record)
        case state.GroupRecord():
            service._group(record)
            if pod := service._membership.group(record):
                service._pod(pod)
        case state.QueueRecord():
            service._queue(record)
        case state.PriorityClassRecord():
            service._class(record.name, record)
        case _:
            return
    roll_up(service._queues, service._direct)


def review(raw: dict[str, Any]) -> None:
    data = msgspec.Raw(msgspec.json.encode(raw))
    for rules in (Rules(), Rules(hami_core=True, block_visible_devices=True)):
        mutate(Request("u", "CREATE", "default", "p", data), rules)
        validate(Request("u", "CREATE", "default", "p", data), rules)
        validate(Request("u", "UPDATE", "default", "p", data, data), rules)


@pytest.mark.parametrize("resource", ["cpu", "memory", "nvidia.com/gpu", "example.com/x"])
def test_a_huge_request_that_goes_leaves_what_others_of_the_queue_ask_for(resource: str) -> None:
    service = queue_controller()
    service._queue(state.QueueRecord(name="top"))
    service._queue(state.QueueRecord(name="q", parent="top"))
    for name, amount in (("small", 3.0), ("huge", 1e18), ("other", 2.0)):
        service._group(state.GroupRecord(namespace="ns", name=name, uid=name, queue="q"))
        service._pod(
            state.PodRecord(
                namespace="ns", name=name, uid=name, group=name, scheduler_name="kai-scheduler", requests={resource: amount}
            )
        )
    service._gone("pod", ("ns", "huge"))
    service._gone("group", ("ns", "huge"))
    found = service.usage()
    assert found["q"].requested == found["top"].requested == {resource: 5.0}


def test_queues_in_a_ring_don_t_count_each_other_s_huge_requests() -> None:
    service = queue_controller()
    for name, parent, amount in (("a", "b", 1e18), ("b", "a", 1.0)):
        service._queue(state.QueueRecord(name=name, parent=parent))
        service._group(state.GroupRecord(namespace="ns", name=name, uid=name, queue=name))
        service._pod(
            state.PodRecord(
                namespace="ns", name=name, uid=name, group=name, scheduler_name="kai-scheduler", requests={"gpu": amount}
            )
        )
    assert service.usage()["b"].requested == {"gpu": 1.0}
