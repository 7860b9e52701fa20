"""Commit decisions behind the epoch: whole gangs in atomic batches, and find out what became of one without an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from shoal_bus import Bus, Conflict, Item, Stored, Unavailable, Unknown
from shoal_bus.trace import headers as trace_headers
from shoal_contracts import streams, subjects
from shoal_contracts.base import encode
from shoal_contracts.decision import Decision, Epoch, Header
from shoal_scheduler.ledger import MARKER_TTL

MOST = 900
"""Decisions in one batch; the server's bound is 1,000 messages."""
_EPOCH = msgspec.json.Decoder(Epoch)
_DECISION = msgspec.json.Decoder(Decision)


class Deposed(Exception):
    """Another leader has taken the epoch: stop."""


class StreamLost(Exception):
    """The stream was made anew: the epoch has to be written again."""


@dataclass(frozen=True)
class Terms:
    """What a commit goes by, and whom it tells."""

    expected: Callable[[str], int]
    """Pod UID -> sequence that its subject should have."""
    traces: dict[str, str]
    """Pod UID -> traceparent."""
    sent: float
    tell: Callable[[str, int, int | None], None]
    """``tell(uid, seq, last)``: stored under ``seq``, or (0) not, its subject being at ``last`` (None: not known)."""


class Committer:
    """Writes decisions of one epoch. ``holder``: the identity of this leader."""

    def __init__(self, bus: Bus, shard: str, epoch: int, epoch_seq: int, holder: str) -> None:
        self._bus, self._shard, self.epoch, self.epoch_seq = bus, shard, epoch, epoch_seq
        self.batches = 0
        # The server takes batches of one id for one batch, whoever sends them, and ids of 64 characters at most.
        self._leader = f"{shard[:20]}-{hashlib.sha256(f'{shard}/{holder}'.encode()).hexdigest()[:12]}-{epoch}"

    @property
    def batch_id(self) -> str:
        """The id of the last batch: no other leader of any shard uses it."""
        return f"{self._leader}-{self.batches}"

    def _item(self, decision: Decision, terms: Terms) -> Item:
        trace = terms.traces.get(decision.uid, "")
        headers = trace_headers(cause=decision.cause, epoch=decision.epoch, sent=terms.sent, traceparent=trace)
        where = subjects.decision(decision.uid, shard=self._shard)
        return Item(where, encode(decision), headers, terms.expected(decision.uid))

    async def commit(self, gangs: Sequence[Sequence[Decision]], terms: Terms) -> None:
        """Commit all gangs, in as few batches as they fit in. Raises Deposed, StreamLost, Unavailable (not committed)."""
        batch: list[Sequence[Decision]] = []
        size = 0
        for gang in gangs:
            if size and size + len(gang) > MOST:
                await self._batch(batch, terms)
                batch, size = [], 0
            batch.append(gang)
            size += len(gang)
        if batch:
            await self._batch(batch, terms)

    async def _batch(self, gangs: Sequence[Sequence[Decision]], terms: Terms) -> None:
        decisions = [d for gang in gangs for d in gang]
        items = [self._item(d, terms) for d in decisions]
        # The fence: stored only while the epoch's record is the one that this leader wrote.
        fence = Item(
            subjects.decision("_fence", shard=self._shard), b"{}", expect=self.epoch_seq,
            expect_subject=subjects.epoch(shard=self._shard), ttl=60.0,
        )  # fmt: skip
        self.batches += 1
        try:
            done = await self._bus.commit([fence, *items], self.batch_id)
        except Conflict:
            await self._after_refusal(gangs, terms)
            return
        except Unknown:
            await self._after_silence(gangs, terms)
            return
        for number, decision in enumerate(decisions, 1):
            terms.tell(decision.uid, done.first + number, None)

    async def _check_epoch(self) -> None:
        stored = await self._bus.last(streams.DECISION.name, subjects.epoch(shard=self._shard))
        if stored is None:
            raise StreamLost
        if stored.seq != self.epoch_seq:
            found = _epoch(stored)
            if found and found.epoch > self.epoch:
                raise Deposed(f"epoch {found.epoch} of {found.holder}")
            raise StreamLost

    async def standing(self, decision: Decision) -> tuple[bool, int]:
        """(whether the subject's last message is this very decision, its sequence or 0)."""
        stored = await self._bus.last(streams.DECISION.name, subjects.decision(decision.uid, shard=self._shard))
        if stored is None:
            return False, 0
        try:
            return bool(stored.data) and _DECISION.decode(stored.data).id == decision.id, stored.seq
        except msgspec.MsgspecError:
            return False, stored.seq

    async def _after_refusal(self, gangs: Sequence[Sequence[Decision]], terms: Terms) -> None:
        """Refused: by a newer leader, a stale pod, or because it was stored already. Drop what is stale, try the rest."""
        await self._check_epoch()
        good: list[Sequence[Decision]] = []
        dropped = False
        for gang in gangs:
            standing = [(d, *await self.standing(d)) for d in gang]
            if all(mine for _, mine, _ in standing):
                for decision, _, seq in standing:
                    terms.tell(decision.uid, seq, None)
                dropped = True
            elif all(seq == terms.expected(d.uid) for d, _, seq in standing):
                good.append(gang)
            else:
                dropped = True
                for decision, _, seq in standing:
                    terms.tell(decision.uid, 0, seq)
        if not good:
            return
        if not dropped and len(good) == 1:
            # Nothing explains the refusal: decide anew.
            for decision in good[0]:
                terms.tell(decision.uid, 0, None)
        elif dropped:
            await self._batch(good, terms)
        else:
            half = len(good) // 2
            await self._batch(good[:half], terms)
            await self._batch(good[half:], terms)

    async def _after_silence(self, gangs: Sequence[Sequence[Decision]], terms: Terms) -> None:
        """No answer: read back what is stored."""
        await self._check_epoch()
        for gang in gangs:
            for decision in gang:
                mine, seq = await self.standing(decision)
                terms.tell(decision.uid, seq if mine else 0, None if mine else seq)

    async def close(self, closing: Sequence[tuple[str, int]]) -> tuple[dict[str, int], set[str]]:
        """Replace terminal records by markers that vanish: (the markers' sequences by uid, the uids of which it is not
        known). A record that is another one by now is left alone."""
        items = [
            Item(subjects.decision(uid, shard=self._shard), b"", {Header.DELETED: "1"}, seq, ttl=MARKER_TTL)
            for uid, seq in closing
        ]
        done: dict[str, int] = {}
        unknown: set[str] = set()
        for (uid, _), answer in zip(closing, await self._bus.publish_each(items), strict=True):
            if isinstance(answer, int):
                done[uid] = answer
            elif not isinstance(answer, Conflict):
                unknown.add(uid)
        return done, unknown


async def take_epoch(bus: Bus, shard: str, epoch: int, holder: str, at: float) -> int:
    """Write the epoch's record and return its sequence. Raises Deposed if a higher one stands there, BusError."""
    where = subjects.epoch(shard=shard)
    for _ in range(5):
        stored = await bus.last(streams.DECISION.name, where)
        if (found := _epoch(stored)) and found.epoch >= epoch:
            raise Deposed(f"epoch {found.epoch} stands already")
        record = Epoch(epoch=epoch, holder=holder, at=at)
        try:
            return await bus.publish(where, record, expect=stored.seq if stored else 0)
        except (Conflict, Unknown):
            again = await bus.last(streams.DECISION.name, where)
            if again and (found := _epoch(again)) and (found.holder, found.epoch) == (holder, epoch):
                return again.seq
    raise Unavailable("the epoch could not be written")


async def stored_epoch(bus: Bus, shard: str) -> tuple[int, int]:
    """(the epoch that the stream records, the sequence of its record); zeros if none, epoch 0 if the record can't be read."""
    stored = await bus.last(streams.DECISION.name, subjects.epoch(shard=shard))
    found = _epoch(stored)
    return (found.epoch if found else 0, stored.seq if stored else 0)


def _epoch(stored: Stored | None) -> Epoch | None:
    """What an epoch's record says. One that can't be read says nothing: as if the stream were lost, the Lease decides."""
    if stored is None:
        return None
    try:
        return _EPOCH.decode(stored.data)
    except msgspec.MsgspecError:
        return None
