"""Several shards commit to one real stream at the same time: none is refused for another's sake."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from shoal_bus import Bus, BusConfig
from shoal_contracts import streams, subjects
from shoal_contracts.decision import Decision, Verb
from shoal_scheduler.commit import Committer, StreamLost, Terms, stored_epoch, take_epoch
from shoal_testkit.nats import NatsServer

ROUNDS, SIZE = 40, 20


class Leader:
    """A leader of a shard, who commits and closes as the loop does."""

    def __init__(self, bus: Bus, shard: str, at: int, holder: str) -> None:
        self.shard, self.committer = shard, Committer(bus, shard, 1, at, holder)
        self.last: dict[str, int] = {}
        self.refused: list[str] = []

    def batch(self, number: int) -> list[list[Decision]]:
        named = [(f"{self.shard}-1-{number}-{i}", f"{number}-{i}") for i in range(SIZE)]
        return [[Decision(id=id, verb=Verb.BIND, namespace="n", pod=uid, uid=uid, epoch=1) for id, uid in named]]

    def tell(self, uid: str, seq: int, last: int | None) -> None:
        if seq:
            self.last[uid] = seq
        else:
            self.refused.append(uid)

    async def work(self) -> None:
        for number in range(ROUNDS):
            terms = Terms(lambda uid: self.last.get(uid, 0), {}, 0.0, self.tell)
            await self.committer.commit(self.batch(number), terms)
            if number % 4 == 3:
                await self.committer.close([(f"{number}-{i}", self.last[f"{number}-{i}"]) for i in range(SIZE)])


@pytest.mark.parametrize("shards", [2, 5])
async def test_shards_that_commit_at_the_same_time_do_not_refuse_each_other(shards: int) -> None:
    with NatsServer() as server:
        async with AsyncExitStack() as stack:
            leaders = []
            for number in range(shards):
                bus = await stack.enter_async_context(Bus.connect(BusConfig(server.url, f"scheduler-{number}")))
                await bus.ensure([streams.DECISION], [streams.BINDER])
                shard = "default" if number == 0 else f"a-shard-with-a-long-name-of-many-letters-{number}"
                at = await take_epoch(bus, shard, 1, "holder", 0.0)
                leaders.append(Leader(bus, shard, at, "holder"))
            async with asyncio.timeout(60):
                await asyncio.gather(*(leader.work() for leader in leaders))
            assert [leader.refused for leader in leaders] == [[] for _ in leaders]
            # No batch was parted or sent again.
            assert [leader.committer.batches for leader in leaders] == [ROUNDS] * shards


@pytest.mark.parametrize(
    "forged", [b"", b"{}", b"\xff", b'{"kind":"epoch.v1","epoch":"seven"}', b'{"type":"io.nats.jetstream"}', b"[" * 9000]
)
async def test_an_epoch_or_a_decision_that_can_not_be_read_is_a_lost_one(forged: bytes) -> None:
    with NatsServer() as server:
        async with Bus.connect(BusConfig(server.url, "scheduler")) as bus:
            await bus.ensure([streams.DECISION], [streams.BINDER])
            at = await take_epoch(bus, "default", 7, "holder", 0.0)
            committer = Committer(bus, "default", 7, at, "holder")
            decision = Decision(id="default-7-1", verb=Verb.BIND, namespace="n", pod="p", uid="u", epoch=7)
            seq = await bus.publish(subjects.decision("u"), forged)
            assert await committer.standing(decision) == (False, seq)

            where = await bus.publish(subjects.epoch(), forged)
            terms = Terms(lambda uid: seq, {}, 0.0, lambda uid, seq, last: None)
            with pytest.raises(StreamLost):
                await committer.commit([[decision]], terms)
            assert await stored_epoch(bus, "default") == (0, where)
            # The Lease still knows the number.
            committer.epoch_seq = await take_epoch(bus, "default", 8, "holder", 0.0)
            assert await stored_epoch(bus, "default") == (8, committer.epoch_seq)
            await committer.commit([[decision]], terms)
            assert (await committer.standing(decision))[0]


async def test_batch_ids_differ_by_shard_leader_and_epoch_and_fit() -> None:
    bus: Bus = None  # type: ignore[assignment]
    long = "x" * 63
    made = [
        Committer(bus, shard, epoch, 1, holder)
        for shard in ("default", "blue", long, long[:-1] + "y")
        for epoch in (1, 10**9)
        for holder in ("a", "b")
    ]
    for committer in made:
        committer.batches = 10**9
    ids = [committer.batch_id for committer in made]
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) <= 64
