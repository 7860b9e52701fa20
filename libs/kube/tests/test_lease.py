"""Leader election: one at a time, never by another's clock, and an epoch that only grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from shoal_kube import AlreadyExists, Conflict, NotFound, Unreachable
from shoal_kube.lease import Election, epoch_of
from shoal_model import labels


class Leases:
    """One Lease as the API keeps it: versions, preconditions, and days on which nothing answers."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    async def get(self, path: str) -> bytes:
        return await self.call("GET", path)

    async def call(self, verb: str, path: str, body: Any = None, **_: Any) -> bytes:
        await asyncio.sleep(0)
        if self.down:
            raise Unreachable(0, "ConnectionRefused", path)
        if verb == "GET":
            if self.stored is None:
                raise NotFound(404, "NotFound", path)
            return msgspec.json.encode(self.stored)
        if verb == "POST":
            if self.stored is not None:
                raise AlreadyExists(409, "AlreadyExists", path)
            self.stored = {"metadata": {}, "spec": {}}
        assert self.stored is not None
        wanted = body["metadata"].get("resourceVersion")
        if wanted and wanted != str(self.version):
            raise Conflict(409, "Conflict", path)
        self.version += 1
        notes = self.stored["metadata"].get("annotations", {}) | body["metadata"].get("annotations", {})
        self.stored["metadata"] = {"name": "l", "resourceVersion": str(self.version), "annotations": notes}
        self.stored["spec"] |= body.get("spec", {})
        return msgspec.json.encode(self.stored)


class LoopClock:
    """The loop's time; looptime makes it fly."""

    def now(self) -> float:
        return 1_700_000_000 + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@pytest.fixture
def leases() -> Leases:
    return Leases()


class Candidate:
    def __init__(self, leases: Leases, name: str, duration: float = 6.0) -> None:
        self.election = Election(leases, "ns", "l", name, LoopClock(), duration)  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.election.run())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def two(leases: Leases) -> AsyncIterator[tuple[Candidate, Candidate]]:
    """A leader and who waits for its place."""
    first = Candidate(leases, "first")
    await first.election.leading.wait()
    second = Candidate(leases, "second")
    yield first, second
    await first.end()
    await second.end()


pytestmark = pytest.mark.looptime


async def test_there_is_one_leader_at_a_time(leases: Leases) -> None:
    async with two(leases) as (first, second):
        await asyncio.sleep(60)
        assert first.election.valid()
        assert not second.election.leading.is_set()


async def test_a_leader_that_is_silent_is_replaced_after_the_leases_duration(leases: Leases) -> None:
    async with two(leases) as (first, second):
        await asyncio.sleep(10)
        await first.end()
        began = asyncio.get_running_loop().time()
        await second.election.leading.wait()
        waited = asyncio.get_running_loop().time() - began
        assert (
            first.election.duration - first.election.renew_every
            <= waited
            <= first.election.duration + 2 * first.election.renew_every
        )


async def test_a_leader_that_lets_go_is_replaced_at_once(leases: Leases) -> None:
    async with two(leases) as (first, second):
        await first.end()
        await first.election.release()
        began = asyncio.get_running_loop().time()
        await second.election.leading.wait()
        assert asyncio.get_running_loop().time() - began <= 2 * second.election.renew_every


async def test_a_leader_that_cannot_renew_stops_before_another_may_begin(leases: Leases) -> None:
    first = Candidate(leases, "first")
    await first.election.leading.wait()
    await asyncio.sleep(3)
    leases.down = True
    began = asyncio.get_running_loop().time()
    await first.task
    assert first.election.lost.is_set()
    assert not first.election.valid()
    assert asyncio.get_running_loop().time() - began < first.election.duration


async def test_a_short_silence_of_the_api_costs_nothing(leases: Leases) -> None:
    first = Candidate(leases, "first")
    await first.election.leading.wait()
    leases.down = True
    await asyncio.sleep(2.5)
    leases.down = False
    await asyncio.sleep(5)
    assert first.election.valid()
    await first.end()


async def test_the_epoch_only_grows_and_only_its_holder_raises_it(leases: Leases) -> None:
    async with two(leases) as (first, second):
        assert await first.election.raise_epoch(0) == 1
        assert await first.election.raise_epoch(41) == 42
        assert await epoch_of(leases, "ns", "l") == 42  # type: ignore[arg-type]
        with pytest.raises(Conflict):
            await second.election.raise_epoch(0)
        await first.end()
        await second.election.leading.wait()
        assert await second.election.raise_epoch(0) == 43
        assert leases.stored is not None
        assert leases.stored["metadata"]["annotations"][labels.EPOCH] == "43"


@pytest.mark.parametrize(("mine", "theirs"), [(2.0, 6.0), (6.0, 2.0), (2.0, 2.5)])
async def test_a_follower_waits_as_long_as_the_holders_lease_lasts(leases: Leases, mine: float, theirs: float) -> None:
    holder, follower = Candidate(leases, "holder", theirs), Candidate(leases, "follower", mine)
    await holder.election.leading.wait()
    await asyncio.sleep(10)
    assert not follower.election.leading.is_set()
    await holder.end()
    began = asyncio.get_running_loop().time()
    await follower.election.leading.wait()
    waited = asyncio.get_running_loop().time() - began
    assert theirs - holder.election.renew_every <= waited <= theirs + 2 * max(mine, theirs)
    await follower.end()


async def test_the_loss_of_a_lease_is_logged_with_its_reason(leases: Leases, caplog: pytest.LogCaptureFixture) -> None:
    first = Candidate(leases, "first")
    await first.election.leading.wait()
    leases.down = True
    await first.task
    (line,) = [r.getMessage() for r in caplog.records if "is lost" in r.getMessage()]
    assert "not renewed for" in line
    assert "ConnectionRefused" in line


async def test_a_renewal_of_ones_own_that_is_answered_too_late_loses_nothing(leases: Leases) -> None:
    first = Candidate(leases, "first")
    await first.election.leading.wait()
    for _ in range(5):
        # It was written, and nobody heard of it: the next renewal names a version that is gone.
        leases.version += 1
        assert leases.stored is not None
        leases.stored["metadata"]["resourceVersion"] = str(leases.version)
        await asyncio.sleep(3)
        assert first.election.valid()
    await first.end()


async def test_a_lease_that_another_took_is_lost_at_the_next_look(leases: Leases) -> None:
    first = Candidate(leases, "first")
    await first.election.leading.wait()
    leases.version += 1
    assert leases.stored is not None
    leases.stored["metadata"]["resourceVersion"] = str(leases.version)
    leases.stored["spec"]["holderIdentity"] = "another"
    began = asyncio.get_running_loop().time()
    await first.task
    assert asyncio.get_running_loop().time() - began <= 3 * first.election.renew_every
    assert not first.election.valid()
