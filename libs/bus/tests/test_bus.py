"""The bus on a real server: conditions, batches, mirrors, work, and what happens when the server dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal_bus import Bus, BusConfig, Change, Conflict, Item, NotAllowed, Unavailable
from shoal_bus import follow as following
from shoal_contracts import streams, subjects
from shoal_contracts.permissions import USERS, configuration
from shoal_contracts.streams import Stream
from shoal_local.certs import Authority
from shoal_testkit.nats import NatsServer, free_port


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with Bus.connect(BusConfig(server.url, "test")) as connected:
        await connected.ensure(streams.STREAMS, streams.CONSUMERS)
        yield connected


class Mirror:
    """A follower that keeps what it has seen."""

    def __init__(self, bus: Bus, stream: str, *filters: str, after: int = 0) -> None:
        self.held: dict[str, bytes] = {}
        self.changes: list[Change] = []
        self.news = asyncio.Event()
        self._task = asyncio.create_task(self._run(bus, stream, filters, after))

    async def _run(self, bus: Bus, stream: str, filters: tuple[str, ...], after: int) -> None:
        async for change in bus.follow(stream, filters, after):
            self.changes.append(change)
            if change.subject and change.data is None:
                self.held.pop(change.subject, None)
            elif change.subject:
                assert change.data is not None
                self.held[change.subject] = change.data
            self.news.set()

    async def until(self, wanted: dict[str, bytes]) -> None:
        async with asyncio.timeout(20):
            while self.held != wanted:
                self.news.clear()
                await self.news.wait()

    async def caught_up(self, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while sum(c.caught_up for c in self.changes) < times:
                self.news.clear()
                await self.news.wait()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def pod(i: int) -> str:
    return subjects.state("pod", "ns", f"p{i}")


async def test_a_write_on_a_stale_condition_is_refused(bus: Bus) -> None:
    first = await bus.publish(subjects.decision("u1"), b"1", expect=0)
    await bus.publish(subjects.decision("u1"), b"2", expect=first)
    with pytest.raises(Conflict):
        await bus.publish(subjects.decision("u1"), b"3", expect=first)
    stored = await bus.last("SHOAL_DECISION", subjects.decision("u1"))
    assert stored is not None
    assert stored.data == b"2"


async def test_a_batch_is_stored_whole_or_not_at_all(bus: Bus) -> None:
    taken = await bus.publish(subjects.decision("u3"), b"old")
    items = [Item(subjects.decision(f"u{i}"), b"new", expect=0) for i in range(8)]
    with pytest.raises(Conflict):
        await bus.commit(items, "b1")
    assert await bus.last("SHOAL_DECISION", subjects.decision("u0")) is None
    items[3] = Item(subjects.decision("u3"), b"new", expect=taken)
    done = await bus.commit(items, "b2")
    assert done.last - done.first == 7
    stored = await bus.last("SHOAL_DECISION", subjects.decision("u7"))
    assert stored is not None
    assert stored.seq == done.last


async def test_a_deposed_leader_can_commit_nothing(bus: Bus) -> None:
    mine = await bus.publish(subjects.epoch(), b"1", expect=0)
    check = Item(subjects.gang("check"), b"", expect=mine, expect_subject=subjects.epoch())
    await bus.commit([check, Item(subjects.decision("u1"), b"", expect=0)], "b1")
    await bus.publish(subjects.epoch(), b"2", expect=mine)
    with pytest.raises(Conflict):
        await bus.commit([check, Item(subjects.decision("u2"), b"", expect=0)], "b2")
    assert await bus.last("SHOAL_DECISION", subjects.decision("u2")) is None


async def test_an_outcome_needs_the_decision_that_it_is_about(bus: Bus) -> None:
    old = await bus.publish(subjects.decision("u1"), b"node a")
    await bus.publish(subjects.decision("u1"), b"node b", expect=old)
    with pytest.raises(Conflict):
        await bus.publish(subjects.outcome("u1"), b"", expect=old, expect_subject=subjects.decision("u1"))


async def test_a_reader_that_knows_the_beginning_is_told_the_rest(bus: Bus) -> None:
    seqs = [await bus.publish(subjects.outcome(f"u{i}"), b"x") for i in range(4)]
    mirror = Mirror(bus, "SHOAL_DECISION", subjects.outcome("*"), after=seqs[1])
    await mirror.caught_up()
    assert set(mirror.held) == {subjects.outcome("u2"), subjects.outcome("u3")}
    late = Mirror(bus, "SHOAL_DECISION", subjects.outcome("*"), after=seqs[3])
    await late.caught_up()
    assert late.held == {}
    await bus.publish(subjects.outcome("u9"), b"y")
    await late.until({subjects.outcome("u9"): b"y"})
    await mirror.stop()
    await late.stop()


async def test_a_stream_of_other_storage_is_not_replaced(bus: Bus) -> None:
    other = Stream(name="SHOAL_STATE", subjects=["shoal.v1.state.>"], owner="x", storage="file", max_per_subject=1)
    with pytest.raises(NotAllowed):
        await bus.ensure([other])


async def test_a_missing_stream_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable):
        await bus.publish("shoal.v1.nowhere.x", b"")


async def test_the_age_of_a_stream_is_the_servers(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    first = await bus.age(streams.STATE.name)
    assert 0.0 <= first < 3600.0
    assert await bus.age(streams.STATE.name) > first
    with pytest.raises(Unavailable):
        await bus.age("NO_SUCH_STREAM")


async def test_a_mirror_sees_the_present_and_then_every_change(bus: Bus) -> None:
    await bus.publish_many([Item(pod(i), b"a") for i in range(300)])
    mirror = Mirror(bus, "SHOAL_STATE", subjects.state(">"))
    await mirror.until({pod(i): b"a" for i in range(300)})
    await bus.publish(pod(0), b"b")
    await bus.delete_marker(pod(1))
    await mirror.until({pod(0): b"b"} | {pod(i): b"a" for i in range(2, 300)})
    await mirror.stop()


@pytest.mark.parametrize("wipe", [False, True])
async def test_a_mirror_survives_a_server_that_dies_and_tells_what_is_gone(server: NatsServer, bus: Bus, wipe: bool) -> None:
    await bus.publish_many([Item(pod(i), b"old") for i in range(100)])
    mirror = Mirror(bus, "SHOAL_STATE", subjects.state(">"))
    await mirror.until({pod(i): b"old" for i in range(100)})
    server.kill()
    if wipe:
        server.wipe()
    server.start()
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.ensure([streams.STATE])
                await bus.publish_many([Item(pod(i), b"new") for i in range(50)])
                break
            except Unavailable:
                await asyncio.sleep(0.1)
    # The state plane is in memory: after the restart only what was published again is there.
    await mirror.until({pod(i): b"new" for i in range(50)})
    await mirror.stop()


async def test_a_mirror_survives_its_consumer(bus: Bus) -> None:
    mirror = Mirror(bus, "SHOAL_STATE", subjects.state(">"))
    await mirror.caught_up()
    js = bus._connection.js
    for consumer in await js.consumers_info("SHOAL_STATE"):
        await js.delete_consumer("SHOAL_STATE", consumer.name)
    await bus.publish(pod(1), b"x")
    await mirror.until({pod(1): b"x"})
    await mirror.stop()


async def test_a_mirror_notices_a_stream_that_was_made_anew(bus: Bus) -> None:
    await bus.publish_many([Item(pod(i), b"old") for i in range(20)])
    mirror = Mirror(bus, "SHOAL_STATE", subjects.state(">"))
    await mirror.until({pod(i): b"old" for i in range(20)})
    await bus._connection.js.delete_stream("SHOAL_STATE")
    await bus.ensure([streams.STATE])
    await bus.publish_many([Item(pod(i), b"new") for i in range(30, 60)])
    await mirror.until({pod(i): b"new" for i in range(30, 60)})
    await mirror.stop()


async def test_a_mirror_forgets_what_expires_by_itself(bus: Bus) -> None:
    outcomes = [subjects.outcome(f"u{i}") for i in range(50)]
    follower = bus.follow(streams.DECISION.name, [subjects.outcome("*")])
    await bus.publish_many([Item(subject, b"x", ttl=60) for subject in outcomes])
    await bus.publish(subjects.outcome("kept"), b"x")
    seen: list[Change] = []

    async def until_caught_up(with_: str) -> None:
        async with asyncio.timeout(20):
            async for change in follower:
                seen.append(change)
                if change.caught_up and any(c.subject == with_ for c in seen):
                    return

    await until_caught_up(subjects.outcome("kept"))
    assert len([c for c in seen if c.subject]) == 51
    seen.clear()
    await bus._connection.js.delete_stream(streams.DECISION.name)
    await bus.ensure([streams.DECISION])
    await bus.publish(subjects.outcome("new"), b"x", ttl=60)
    await until_caught_up(subjects.outcome("new"))
    assert [c.subject for c in seen if c.subject and c.data is None] == [subjects.outcome("kept")]


async def test_work_that_is_not_acknowledged_comes_again(server: NatsServer) -> None:
    quick = streams.Consumer(name="w", stream="SHOAL_DECISION", owner="t", filters=["shoal.v1.decision.>"], ack_wait=0.3)
    async with Bus.connect(BusConfig(server.url, "test")) as bus:
        await bus.ensure([streams.DECISION], [quick])
        await bus.publish(subjects.decision("u1"), b"x")
        seen: list[int] = []
        async with asyncio.timeout(10):
            async for delivery in bus.consume(quick):
                seen.append(delivery.delivered)
                if delivery.delivered == 2:
                    await delivery.ack()
                    break
    assert seen == [1, 2]


async def test_requests_are_answered(bus: Bus) -> None:
    from shoal_contracts.queries import HealthReply

    async def health(_: bytes) -> HealthReply:
        return HealthReply(service="s", instance="i", ready=True)

    await bus.serve(subjects.query("s", "health"), health, queue="s")
    assert b'"ready":true' in await bus.request(subjects.query("s", "health"), b"")
    with pytest.raises(Unavailable):
        await bus.request(subjects.query("nobody", "health"), b"", timeout=1)


SECURE = """
authorization {{ users: [{{user: "a", password: "{password}"}}] }}
tls {{ cert_file: "{folder}/server.crt", key_file: "{folder}/server.key", handshake_first: true }}
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.issue("server", "nats", hosts=("127.0.0.1",))
    return made


async def test_tls_with_an_authority_of_its_own(authority: Authority, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("right\n")
    with NatsServer(SECURE.format(password="right", folder=authority.folder)) as server:
        url = server.url.replace("nats:", "tls:")
        async with Bus.connect(BusConfig(url, "t", "a", password_file=str(secret), ca_file=str(authority.ca))) as bus:
            await bus.ensure([streams.STATE])
            assert await bus.publish(subjects.state("node", "n"), b"{}") > 0
        with pytest.raises(Unavailable, match="certificate verify failed"):
            async with Bus.connect(BusConfig(url, "t", "a", "right", connect_timeout=0.5)):
                pass


async def test_the_password_is_not_sent_in_the_clear_where_tls_is_wanted(authority: Authority) -> None:
    seen = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"tls_required":false,"auth_required":true,"max_payload":1000}\r\n')
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(2):
                while chunk := await reader.read(4096):
                    seen.extend(chunk)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(Unavailable):
        async with Bus.connect(BusConfig(url, "t", "a", "secret-word", ca_file=str(authority.ca), connect_timeout=1.0)):
            pass
    server.close()
    assert seen
    assert b"secret-word" not in seen


async def test_a_password_that_changed_is_used_for_the_next_connection(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("old")
    users = 'authorization {{ users: [{{user: "a", password: "{}"}}] }}'
    with NatsServer(users.format("old")) as server:
        async with Bus.connect(BusConfig(server.url, "t", "a", password_file=str(secret))) as bus:
            back = asyncio.Event()

            async def came_back() -> None:
                back.set()

            bus.on_reconnect(came_back)
            server.kill()
            secret.write_text("new")
            server.configure(users.format("new"))
            server.start()
            async with asyncio.timeout(15):
                await back.wait()


async def test_a_server_that_refuses_us_for_good_is_not_waited_for_in_silence(tmp_path: Path) -> None:
    users = 'authorization {{ users: [{{user: "a", password: "{}"}}] }}'
    with NatsServer(users.format("old")) as server:
        async with Bus.connect(BusConfig(server.url, "t", "a", "old")) as bus:
            ended = asyncio.create_task(bus.ended())
            server.configure(users.format("new"))
            server.send(signal.SIGHUP)
            async with asyncio.timeout(15):
                with pytest.raises(Unavailable, match="closed"):
                    await ended


async def test_requests_into_another_account_are_forgotten_with_their_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server keeps a line for each request until the inbox of its answers is gone; a follower asks for ever."""
    monkeypatch.setattr("shoal_bus.pull.RENEW", 20)
    monitor = free_port()
    accounts = json.dumps({"accounts": configuration({name: name for name in USERS})})
    with NatsServer(f'{accounts[1:-1]}\nhttp: "127.0.0.1:{monitor}"') as server:

        def config(user: str) -> BusConfig:
            return BusConfig(server.url, user, user, user)

        def remembered() -> int:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/accountz?acc=SHOAL_CLUSTER_STATE") as answer:
                return len(json.load(answer)["account_detail"].get("responses", {}))

        async with Bus.connect(config("cluster-state")) as owner, Bus.connect(config("admission")) as reader:
            await owner.ensure([streams.STATE])
            changes = following.follow(reader._connection, streams.STATE.name, ["shoal.v1.state.>"], batch=2)
            most = 0
            for number in range(200):
                await owner.publish(subjects.state("pod", "ns", f"p{number}"), b"{}")
                while not (change := await anext(changes)).subject:
                    pass
                assert change.subject.endswith(f"p{number}")
                most = max(most, remembered() if number % 20 == 19 else 0)
            await changes.aclose()
    assert 0 < most <= 3 * 20
