"""What each user of the bus can't do, tried on a real server with the configuration of the local bus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from shoal_bus import Bus, BusConfig, Unavailable
from shoal_contracts import streams, subjects
from shoal_contracts.permissions import (
    API,
    IMPORTED_API,
    PEOPLE,
    SERVICES,
    USERS,
    WRITES,
    api_prefix,
    configuration,
    permissions,
)  # fmt: skip
from shoal_contracts.queries import HealthReply, HealthRequest
from shoal_testkit.nats import NatsServer

EVENT_USERS = {"blue": ["blue"], "green": ["green", "green-night"]}
TARGETS = {
    "state": subjects.state("node", "forged"), "decision": subjects.decision("forged"), "epoch": subjects.epoch(),
    "outcome": subjects.outcome("forged"), "event": subjects.event("blue", "pod", "forged", "ns", "p"),
    "log": subjects.log("input"),
}  # fmt: skip
STREAM_OF = {"state": streams.STATE, "event": streams.EVENT, "log": streams.LOG}
EVENTS = {
    queue: subjects.event(queue, "pod", "bound", "ns", f"of-{queue}") for queue in ("blue", "green", "green-night", "red")
}


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    passwords = {name: name for name in (*USERS, *EVENT_USERS)}
    with NatsServer(json.dumps({"accounts": configuration(passwords, EVENT_USERS)})) as running:
        asyncio.run(fill(running))
        yield running


def config(server: NatsServer, user: str) -> BusConfig:
    return BusConfig(server.url, user, user, user, timeout=1.0, connect_timeout=5.0)


async def fill(server: NatsServer) -> None:
    """The streams, with a message of each kind."""
    async with Bus.connect(config(server, "cluster-state")) as bus:
        await bus.ensure([streams.STATE])
        await bus.publish(subjects.state("pod", "ns", "victim"), b'{"kind":"pod.v1"}')
        await bus.delete_marker(subjects.state("pod", "ns", "gone"))
    async with Bus.connect(config(server, "scheduler")) as bus:
        await bus.ensure([streams.DECISION, streams.EVENT, streams.LOG], [streams.BINDER])
        await bus.publish(subjects.decision("u"), b'{"kind":"decision.v1"}')
        await bus.publish(subjects.log("decision"), b"{}")
        for queue, subject in EVENTS.items():
            await bus.publish(subject, json.dumps({"queue": queue}).encode())


@asynccontextmanager
async def client(server: NatsServer, user: str) -> AsyncIterator[Client]:
    """As an attacker would connect: without our library."""

    async def ignore(_: Exception) -> None:
        return

    connected = await nats.connect(
        server.url, user=user, password=user, inbox_prefix=f"_INBOX_{user}", error_cb=ignore, allow_reconnect=False
    )
    try:
        yield connected
    finally:
        await connected.close()


async def counts(server: NatsServer) -> dict[str, int]:
    """Stream -> its last sequence."""
    found = {}
    for owner in ("cluster-state", "scheduler"):
        async with Bus.connect(config(server, owner)) as bus:
            for stream in streams.STREAMS:
                if stream.owner == owner:
                    found[stream.name] = await bus.last_seq(stream.name)
    return found


def planes(user: str) -> dict[str, str]:
    """Where the user may not write, each with a subject."""
    return {
        plane: subject
        for plane, subject in TARGETS.items()
        if not any(subject.startswith(may.removesuffix(">").split("*")[0]) for may in WRITES.get(user, []))
    }


REQUESTS = (
    ("STREAM.INFO.{}", b""),
    ("STREAM.MSG.GET.{}", b'{"last_by_subj":">"}'),
    ("STREAM.MSG.GET.{}", b'{"seq":1}'),
    ("DIRECT.GET.{}", b'{"last_by_subj":">"}'),
    ("CONSUMER.CREATE.{}", b"{}"),
    ("CONSUMER.CREATE.{}.evil", b"{}"),
    ("CONSUMER.INFO.{}.binder", b""),
    ("CONSUMER.MSG.NEXT.{}.binder", b'{"batch":1,"no_wait":true}'),
    ("STREAM.NAMES", b""),
    ("STREAM.LIST", b""),
    ("INFO", b""),
)


@pytest.mark.parametrize("user", [*USERS, *EVENT_USERS])
async def test_no_answer_is_stored_where_its_asker_may_not_write(server: NatsServer, user: str) -> None:
    before = await counts(server)
    async with client(server, user) as attacker:
        for target in planes(user).values():
            for prefix in (API, IMPORTED_API):
                for verb, body in REQUESTS:
                    for stream in streams.STREAMS:
                        await attacker.publish(f"{prefix}.{verb.format(stream.name)}", body, reply=target)
                for copied in (subjects.state("pod", "ns", "gone"), subjects.decision("u"), EVENTS["red"]):
                    for stream in streams.STREAMS:
                        await attacker.publish(f"{prefix}.DIRECT.GET.{stream.name}.{copied}", b"", reply=target)
            for service in SERVICES:
                await attacker.publish(f"shoal.v1.q.{service}.health", b"{}", reply=target)
            for may in permissions(user)["publish"] if user in USERS else []:
                if ".STREAM.PURGE." in may:
                    continue
                await attacker.publish(may.replace("*", "x").replace(">", "x"), b"{}", reply=target)
            await attacker.flush()
    after = await counts(server)
    # What the user wrote itself, where it may, counts there.
    written = {s.name for s in streams.STREAMS if any(may.startswith(s.subjects[0][:12]) for may in WRITES.get(user, []))}
    if "shoal.v1.outcome.>" in WRITES.get(user, []):
        written.add(streams.DECISION.name)
    assert {k: v for k, v in after.items() if k not in written} == {k: v for k, v in before.items() if k not in written}
    async with Bus.connect(config(server, "scheduler")) as bus, Bus.connect(config(server, "cluster-state")) as state:
        for plane, target in planes(user).items():
            stream = STREAM_OF.get(plane, streams.DECISION)
            assert plane == "log" or await (state if stream is streams.STATE else bus).last(stream.name, target) is None, plane


@pytest.mark.parametrize("user", [*USERS, *EVENT_USERS])
async def test_no_consumer_delivers_into_a_stream(server: NatsServer, user: str) -> None:
    before = await counts(server)
    async with client(server, user) as attacker:
        answers = await attacker.subscribe(f"_INBOX_{user}.answers")
        for stream in streams.STREAMS:
            for plane, target in planes(user).items():
                wanted = {
                    "name": f"evil-{plane}", "deliver_subject": target, "deliver_policy": "all", "ack_policy": "none",
                    "mem_storage": True, "inactive_threshold": int(60e9),
                }  # fmt: skip
                body = json.dumps({"stream_name": stream.name, "config": wanted}).encode()
                where = f"{api_prefix(user, stream.name)}.CONSUMER.CREATE.{stream.name}.evil-{plane}"
                await attacker.publish(where, body, reply=f"_INBOX_{user}.answers")
        await attacker.flush()
        made = 0
        with suppress(nats.errors.TimeoutError, TimeoutError):
            while True:
                made += "error" not in json.loads((await answers.next_msg(timeout=0.1)).data)
        # Longer than such a consumer takes for the first message.
        await asyncio.sleep(0.3 if made else 0)
    assert await counts(server) == before


async def read(server: NatsServer, user: str, name: str, subject: str, prefix: str = IMPORTED_API, **more: object) -> list[str]:
    """Subjects that a pull consumer gives the user. Raises nats errors where it is refused."""
    async with client(server, user) as reader:
        stream = reader.jetstream(prefix=prefix, timeout=0.3)
        wanted = ConsumerConfig(
            name=name, filter_subject=subject, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, **more
        )  # type: ignore[arg-type]
        await stream.add_consumer("SHOAL_EVENT", wanted)
        return await fetch(reader, name, prefix)


async def fetch(reader: Client, name: str, prefix: str = IMPORTED_API, patience: float = 5.0) -> list[str]:
    inbox = reader.new_inbox()
    subscription = await reader.subscribe(inbox)
    request = json.dumps({"batch": 100, "expires": int(patience * 1e9)}).encode()
    await reader.publish(f"{prefix}.CONSUMER.MSG.NEXT.SHOAL_EVENT.{name}", request, reply=inbox)
    found: list[str] = []
    with suppress(nats.errors.TimeoutError, TimeoutError):
        while True:
            message = await subscription.next_msg(timeout=2 * patience)
            if "Status" in (message.headers or {}):
                break
            found.append(message.subject)
            if message.metadata.num_pending == 0:
                break
    return found


def pattern(queue: str) -> str:
    return f"shoal.v1.event.*.{queue}.>"


async def test_a_team_reads_its_queues(server: NatsServer) -> None:
    assert await read(server, "blue", "blue", pattern("blue")) == [EVENTS["blue"]]
    assert await read(server, "green", "green", pattern("green")) == [EVENTS["green"]]
    assert await read(server, "green", "green_1", pattern("green-night")) == [EVENTS["green-night"]]
    # The administrators' user reads all.
    assert set(await read(server, "user", "all-of-them", "shoal.v1.event.>")) >= set(EVENTS.values())


@pytest.mark.parametrize("prefix", [API, IMPORTED_API])
async def test_a_team_reads_no_other_queue(server: NatsServer, prefix: str) -> None:
    wide = ("shoal.v1.event.>", "shoal.v1.event.*.*.>", ">", pattern("green"), "shoal.v1.event.default.green.>")
    tried = [read(server, "blue", name, where, prefix) for where in wide for name in ("blue", "blue_1", "other", "green")]
    answers = await asyncio.gather(*tried, return_exceptions=True)
    assert all(isinstance(answer, (nats.errors.Error, TimeoutError)) for answer in answers), answers
    async with client(server, "blue") as reader:
        own = pattern("blue")
        for where in (
            f"CONSUMER.CREATE.SHOAL_EVENT.blue.{own}", "CONSUMER.CREATE.SHOAL_EVENT.blue", "CONSUMER.CREATE.SHOAL_EVENT",
            "CONSUMER.DURABLE.CREATE.SHOAL_EVENT.blue", f"CONSUMER.CREATE.SHOAL_EVENT.blue_2.{own}",
        ):  # fmt: skip
            for wanted in (
                {"filter_subjects": [own, pattern("green")]}, {"filter_subject": pattern("green")}, {},
                {"filter_subject": own, "filter_subjects": [pattern("green")]},
                {"filter_subjects": ["shoal.v1.event.>"], "name": "blue_3"},
            ):  # fmt: skip
                name = {"name": "blue_2" if "blue_2" in where else "blue", "ack_policy": "none"}
                body = json.dumps({"stream_name": "SHOAL_EVENT", "config": name | wanted}).encode()
                await reader.publish(f"{prefix}.{where}", body, reply="_INBOX_blue.unread")
        await reader.flush()
        for name in ("blue", "blue_1", "blue_2", "blue_3"):
            assert set(await fetch(reader, name, prefix, 0.2)) <= {EVENTS["blue"]}
        for where, body in (
            ("STREAM.MSG.GET.SHOAL_EVENT", b'{"seq":1}'), ("STREAM.INFO.SHOAL_EVENT", b'{"subjects_filter":">"}'),
            ("STREAM.MSG.GET.SHOAL_EVENT", json.dumps({"last_by_subj": EVENTS["green"]}).encode()),
            (f"DIRECT.GET.SHOAL_EVENT.{EVENTS['green']}", b""), ("DIRECT.GET.SHOAL_EVENT", b'{"seq":1}'),
            ("CONSUMER.NAMES.SHOAL_EVENT", b""), ("CONSUMER.LIST.SHOAL_EVENT", b""), ("STREAM.NAMES", b""),
            ("STREAM.CREATE.MINE", json.dumps({"name": "MINE", "mirror": {"name": "SHOAL_EVENT"}}).encode()),
            ("STREAM.CREATE.MINE", json.dumps({"name": "MINE", "sources": [{"name": "SHOAL_EVENT"}]}).encode()),
            ("STREAM.SNAPSHOT.SHOAL_EVENT", b'{"deliver_subject":"_INBOX_blue.s"}'),
        ):  # fmt: skip
            with suppress(nats.errors.Error, TimeoutError):
                answer = json.loads((await reader.request(f"{prefix}.{where}", body, timeout=0.1)).data)
                assert "error" in answer, (where, answer)


async def test_a_team_can_not_take_from_anothers_consumer_or_inbox(server: NatsServer) -> None:
    await read(server, "green", "green_2", pattern("green"))
    async with client(server, "green") as green, client(server, "blue") as blue, client(server, "user") as other:
        taken = [await blue.subscribe(s) for s in (">", "_INBOX_green.>", "_INBOX_user.>", "shoal.v1.>", "_R_.>", "$JS.>")]
        for name in ("green", "green_2"):
            for prefix in (API, IMPORTED_API):
                assert await fetch(blue, name, prefix, 0.2) == []
        await green.jetstream(prefix=IMPORTED_API).add_consumer(
            "SHOAL_EVENT", ConsumerConfig(name="green_3", filter_subject=pattern("green"), ack_policy=AckPolicy.NONE)
        )
        assert await fetch(green, "green_3") == [EVENTS["green"]]
        assert await read(server, "user", "mine", EVENTS["red"]) == [EVENTS["red"]]
        await other.flush()
        await blue.flush()
        assert [s.pending_msgs for s in taken] == [0] * len(taken)


async def test_services_answer_whom_they_are_for(server: NatsServer) -> None:
    async def answer(_: bytes) -> HealthReply:
        return HealthReply(service="s", instance="i", ready=True)

    async with (
        Bus.connect(config(server, "gpu-reservation")) as reservation,
        Bus.connect(config(server, "scheduler")) as scheduler,
    ):
        await reservation.serve(subjects.reserve(3), answer)
        await scheduler.serve(subjects.query("scheduler", "health"), answer, queue="scheduler")
        async with Bus.connect(config(server, "binder")) as binder:
            assert b'"ready":true' in await binder.request(subjects.reserve(3), HealthRequest())
        async with Bus.connect(config(server, "user")) as user:
            assert b'"ready":true' in await user.request(subjects.query("scheduler", "health"), HealthRequest())

        async def refused(name: str, subject: str) -> None:
            async with Bus.connect(config(server, name)) as other:
                with pytest.raises(Unavailable):
                    await other.request(subject, HealthRequest(), timeout=0.3)

        health = subjects.query("scheduler", "health")
        await asyncio.gather(
            *(refused(name, subjects.reserve(3)) for name in {*USERS, *EVENT_USERS} - {"binder", "gpu-reservation"}),
            *(refused(name, health) for name in {*USERS, *EVENT_USERS} - {"user", "scheduler"}),
        )


def test_a_user_of_events_does_not_take_the_name_of_a_service() -> None:
    with pytest.raises(ValueError, match="'scheduler'"):
        configuration(dict.fromkeys(USERS, "x"), {"scheduler": ["q"]})
    assert set(USERS) > PEOPLE
