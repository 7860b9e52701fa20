"""gpu-reservation: holds whole GPUs for groups of pods that share them, and keeps the ledger of who uses what."""

from __future__ import annotations

import asyncio

import msgspec

from shoal_bus import BusError
from shoal_bus.bus import Served
from shoal_contracts import streams, subjects
from shoal_contracts.decision import Decision
from shoal_contracts.queries import Reserved, ReserveReply, ReserveRequest
from shoal_contracts.state import NodeRecord, PodRecord
from shoal_gpu_reservation import metrics
from shoal_gpu_reservation.books import Books
from shoal_gpu_reservation.capacity import Capacity
from shoal_gpu_reservation.desk import Desk
from shoal_gpu_reservation.ledger import Key, Ledger
from shoal_gpu_reservation.manifest import PodSettings
from shoal_gpu_reservation.mending import Mender
from shoal_gpu_reservation.ownership import Ownership
from shoal_gpu_reservation.recount import Recount
from shoal_gpu_reservation.repair import Found, Patience, Watch
from shoal_kube import Kube, KubeConfig, Recorder
from shoal_service import Common, Context, run
from shoal_service.aside import decode
from shoal_service.mirror import mirror

NAME = "gpu-reservation"
LOOK = 0.5
"""Seconds between two looks for what is to be mended."""
_REQUEST = msgspec.json.Decoder(ReserveRequest)
_DECISION = msgspec.json.Decoder(Decision)


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of gpu-reservation."""

    lease_seconds: float = 4.0
    """How long a replica that says nothing keeps its nodes."""
    reservation: PodSettings = PodSettings()
    """How reservation pods are made."""
    allocation_timeout: float = 40.0
    """Seconds that a reservation pod has to learn its device."""
    grace: float = 5.0
    """Seconds that a leftover must last before it is repaired."""
    quarantine: float = 20.0
    """After the stream of decisions was made anew, nothing is taken for unused for so many seconds: binders may still
    hold decisions that it lost. Longer than the scheduler's ``expiry``."""
    recount: float = 15.0
    """Seconds between two recounts from the API."""


class Service:
    """One replica."""

    def __init__(self, context: Context[Config], kube: Kube, recorder: Recorder) -> None:
        config = context.config
        self._context, self._kube = context, kube
        self._ledger = Ledger()
        self._nodes: dict[str, NodeRecord] = {}
        self._ownership = Ownership(context, kube, self._serve)
        self._capacity = Capacity(self._nodes, self._ledger)
        self._desk = Desk(context, kube, self._ledger, self._ownership, config.reservation, self._capacity)
        self._mender = Mender(context, kube, recorder, self._desk)
        self._recount = Recount(context, kube, self._ledger)
        self._books = Books(context, self._ledger, self._nodes, self._mine)
        self._watch = Watch(Patience(grace=config.grace, allocation=config.allocation_timeout))
        self._served: dict[int, Served] = {}
        self._current = asyncio.Event()
        self._decided = asyncio.Event()
        self._sure_from = float("inf")
        """From when on the open decisions are known for sure."""

    async def run(self) -> None:
        """Follow, own, answer and mend."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_state())
            tasks.create_task(self._follow_decisions())
            await self._current.wait()
            await self._decided.wait()
            self._context.have("state")
            tasks.create_task(self._ownership.run())
            tasks.create_task(self._look())
            tasks.create_task(self._recount.run(self._mine))
            tasks.create_task(self._books.run())

    def _mine(self, node: str) -> bool:
        return self._ownership.term(subjects.partition(node)) > 0

    def _tell(self, changed: set[Key]) -> None:
        for key in changed:
            self._desk.tell(key)
            self._books.touch(key)

    async def _follow_state(self) -> None:
        async for news in mirror(self._context, ("pod", "node")):
            if news.current:
                self._current.set()
            elif isinstance(news.record, NodeRecord):
                self._nodes[news.names[0]] = news.record
            elif news.kind == "node":
                self._nodes.pop(news.names[0], None)
            elif isinstance(news.record, PodRecord):
                self._capacity.pod(news.record)
                self._tell(self._ledger.pod(news.record))
            else:
                self._capacity.gone(*news.names)
                self._tell(self._ledger.pod_gone(*news.names))

    async def _follow_decisions(self) -> None:
        incarnation = ""
        filters = [subjects.decision("*", shard="*")]
        async for change in self._context.bus.follow(streams.DECISION.name, filters):
            if change.incarnation != incarnation:
                incarnation = change.incarnation
                self._sure_from = float("inf")
                wait = await self._unsure(self._context.config.quarantine)
                self._sure_from = self._context.clock.monotonic() + wait
            if change.subject:
                uid = subjects.parse(change.subject)[2][0]
                if change.data is None or not change.data:
                    self._tell(self._ledger.closed(uid))
                elif not uid.startswith("_") and (found := decode(_DECISION, change.data, change.subject, self._context.log)):
                    self._tell(self._ledger.decision(found))
            if change.caught_up:
                self._decided.set()

    async def _unsure(self, quarantine: float) -> float:
        """Seconds until the stream of decisions is old enough. Its age is the server's word: clocks of machines differ."""
        try:
            return max(0.0, quarantine - await self._context.bus.age(streams.DECISION.name))
        except BusError:
            return quarantine

    async def _serve(self, parts: set[int]) -> None:
        """Answer for these parts, and for no others. Raises BusError."""
        for part in self._served.keys() - parts:
            await self._served.pop(part).stop()
        for part in parts - self._served.keys():
            subject = subjects.reserve(part)
            self._served[part] = await self._context.bus.serve(subject, self._answer, tasks=self._context.tasks)
        metrics.PARTS.set(len(self._served))

    async def _answer(self, data: bytes) -> ReserveReply:
        try:
            request = _REQUEST.decode(data)
        except msgspec.DecodeError as error:
            return ReserveReply(state=Reserved.REFUSED, message=f"no such request: {error}")
        return await self._desk.reserve(request)

    async def _look(self) -> None:
        """Mend what is to be mended, for ever."""
        while True:
            await asyncio.sleep(LOOK)
            now = self._context.clock.monotonic()
            repairs = self._watch.judge(self._ledger, now, self._mine, self._nodes, self._desk.held())
            if now < self._sure_from:
                repairs = [r for r in repairs if r.found not in (Found.RELEASED, Found.UNUSED)]
            if repairs:
                await self._mender.mend(repairs)
            mine = [g for g in self._ledger.groups.values() if self._mine(g.node)]
            metrics.GROUPS.set(len(mine))
            metrics.USERS.set(len({uid for g in mine for uid in g.users}))


async def start(context: Context[Config]) -> None:
    """Serve until the end."""
    context.wait_for("state")
    config = context.config
    settings = KubeConfig(context.kubeconfig, "shoal-gpu-reservation", config.qps, config.burst, patience=5.0)
    async with Kube.connect(settings) as kube:
        recorder = Recorder(kube, NAME, context.clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            tasks.create_task(Service(context, kube, recorder).run())


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
