"""The binder: carries decisions out. Any number of replicas share the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import msgspec

from shoal_binder import metrics, sets, sharing
from shoal_binder.bind import (
    Evict,
    Finish,
    Look,
    Post,
    Posted,
    Step,
    World,
    after_eviction,
    after_post,
    follow,
    judge,
)  # fmt: skip
from shoal_binder.evict import dry_run_unsupported, evict
from shoal_binder.prepare import HEARTBEAT, Preparation, needed
from shoal_binder.reign import Order, Reigns
from shoal_bus import BusError, Conflict, Delivery
from shoal_bus.trace import TRACEPARENT
from shoal_contracts import streams, subjects
from shoal_contracts.decision import TERMINAL, Decision, Epoch, GangGo, Header, Outcome, Result, Verb
from shoal_contracts.events import PodEvent
from shoal_kube import (
    AlreadyExists,
    Kube,
    KubeConfig,
    KubeError,
    NotFound,
    Recorder,
    Ref,
    Throttled,
    Unreachable,
    epoch_of,
)
from shoal_kube import Conflict as KubeConflict
from shoal_kube.resources import PODS
from shoal_model import labels
from shoal_service import Common, Context, run, telemetry
from shoal_service.aside import decode
from shoal_service.events import Events
from shoal_service.failpoint import reach
from shoal_service.metrics import UNEXPECTED

NAME = "binder"
OUTCOME_TTL = 300.0
"""Seconds that an outcome is kept for a leader that is away: a decision without one is looked into after its expiry."""
_POD = msgspec.json.Decoder(sharing.Pod)
_DECISION = msgspec.json.Decoder(Decision)
_GO = msgspec.json.Decoder(GangGo)
_EPOCH = msgspec.json.Decoder(Epoch)
T = TypeVar("T")


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of the binder."""

    in_flight: int = 64
    """Decisions carried out at a time."""
    attempts: int = 8
    """Bindings posted for one decision before it is refused."""
    reservation_timeout: float = 45.0
    """Seconds for a shared GPU to be reserved."""
    volume_timeout: float = 120.0
    """Seconds for the volumes of a pod's claims."""
    cdi: bool = False
    """Name devices to containers by CDI."""


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of it gives. One that raises is raised when the others are through."""
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


class Service:
    """Takes decisions from the shared consumer and sees each to its outcome."""

    def __init__(self, context: Context[Config], kube: Kube, recorder: Recorder, events: Events) -> None:
        self._context, self._kube, self._recorder, self._events = context, kube, recorder, events
        self._gate = asyncio.Semaphore(context.config.in_flight)
        self._preparation = Preparation(context, kube, recorder, self._aside)
        self._reigns = Reigns()
        self._in_hand: dict[int, Delivery] = {}

    async def follow_epoch(self) -> None:
        """Know the reigning epoch of each shard; at each new one (or a new stream) read the shard's Lease once."""
        async for change in self._context.bus.follow(streams.DECISION.name, [subjects.epoch(shard="*")]):
            if not change.subject or not change.data:
                continue
            found = decode(_EPOCH, change.data, change.subject, self._context.log)
            if found is None:
                continue
            shard = subjects.parse(change.subject)[1]
            reign = self._reigns.of(shard)
            reign.epoch, reign.seq = found.epoch, change.seq
            try:
                reign.lease = await epoch_of(self._kube, self._context.config.namespace, f"shoal-scheduler-{shard}")
            except KubeError as error:
                self._context.log.info("lease not read", shard=shard, error=str(error))

    async def consume(self) -> None:
        """Carry out what is delivered, ``in_flight`` at a time, for ever."""
        gate = self._gate
        # What waits here for a slot runs out of time, and is delivered to another: few do, however slow the API is.
        waiting = max(1, self._context.config.in_flight // 2)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep())
            async for delivery in self._context.bus.consume(streams.BINDER, waiting):
                await gate.acquire()
                metrics.IN_FLIGHT.inc()
                self._in_hand[id(delivery)] = delivery
                task = tasks.create_task(self._guarded(delivery))
                task.add_done_callback(partial(self._done, id(delivery)))

    def _done(self, key: int, _: asyncio.Task[None]) -> None:
        del self._in_hand[key]
        self._gate.release()
        metrics.IN_FLIGHT.dec()

    async def _keep(self) -> None:
        """Nothing that is being worked on is delivered again meanwhile, for ever."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            for delivery in list(self._in_hand.values()):
                await delivery.in_progress()

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[None]:
        self._gate.release()
        try:
            yield
        finally:
            await self._gate.acquire()

    async def _guarded(self, delivery: Delivery) -> None:
        """One delivery; whatever goes wrong, it is delivered again."""
        try:
            await self._take(delivery)
        except (BusError, KubeError) as error:
            self._context.log.info("put off", subject=delivery.subject, error=str(error))
            await delivery.nak(min(10.0, 0.5 * 2 ** min(delivery.delivered, 5)))
        except Exception as error:  # one odd pod must not stop the others' bindings
            UNEXPECTED.labels("binder").inc()
            self._context.log.error("put off", subject=delivery.subject, error=repr(error), exc_info=error)
            await delivery.nak(10.0)

    async def _take(self, delivery: Delivery) -> None:
        _, shard, names = subjects.parse(delivery.subject)
        if Header.DELETED in delivery.headers or not delivery.data or names[0] in ("_epoch", "_fence"):
            await delivery.ack()
            return
        if names[0] == "_gang":
            if go := decode(_GO, delivery.data, delivery.subject, self._context.log):
                await self._go(go, delivery, shard)
            else:
                await delivery.term()
            return
        decision = decode(_DECISION, delivery.data, delivery.subject, self._context.log)
        if decision is None:
            await delivery.term()
            return
        began = self._context.clock.monotonic()
        await reach("binder.received")
        await self._carry_out(decision, delivery, shard)
        await delivery.ack()
        metrics.SECONDS.labels(metrics.shard(shard)).observe(self._context.clock.monotonic() - began)

    async def _go(self, go: GangGo, delivery: Delivery, shard: str) -> None:
        """Bind all members of a gang that was prepared, or evict all victims of a set: one budget at a time, until one is
        refused."""
        await reach("binder.before_go")
        gate = asyncio.Semaphore(self._context.config.in_flight)

        async def read(uid: str) -> Order | None:
            async with gate:
                stored = await self._context.bus.last(streams.DECISION.name, subjects.decision(uid, shard=shard))
            if stored is None or not stored.data:
                return None
            decision = decode(_DECISION, stored.data, stored.subject, self._context.log)
            return Order(decision, stored.seq, shard) if decision is not None and decision.gang == go.gang else None

        first, rest = sets.parted([o for o in await _all(read(uid) for uid in go.members) if o is not None])
        refused: Finish | None = None

        async def one(order: Order) -> Finish:
            async with gate:
                step = refused or await self._see_through(order, delivery, Look(), went=True)
                await self._tell(order, step)
            return step

        for order in first:
            step = await one(order)
            if refused is None and step.result is Result.REFUSED:
                refused = Finish(Result.REFUSED, sets.not_tried(order.decision, step.message))
        await _all(one(order) for order in rest)
        await delivery.ack()

    async def _carry_out(self, decision: Decision, delivery: Delivery, shard: str) -> None:
        order = Order(decision, delivery.seq, shard)
        with telemetry.span(
            f"{decision.verb} pod", delivery.headers.get(TRACEPARENT, ""), pod=decision.pod, node=decision.node
        ):
            if decision.verb is Verb.EVICT:
                step = await self._see_through(order, delivery, Look())
            else:
                # A decision that comes again may be done, or replaced: look first.
                first = Look() if delivery.delivered > 1 or needed(decision) else Post(decision.resource_version)
                step = await self._see_through(order, delivery, first)
            await self._tell(order, step)

    async def _see_through(self, order: Order, delivery: Delivery, step: Step, *, went: bool = False) -> Finish:
        """Look, judge, prepare, post, until it is over; a staged one until it is prepared, unless its gang ``went``."""
        decision = order.decision
        if self._reigns.deposed(order):
            return Finish(Result.STALE, "decided by a leader that was replaced")
        tries, message = 0, ""
        pod: sharing.Pod | None = None
        follow(decision, None, step)
        while not isinstance(step, Finish):
            if isinstance(step, Look):
                try:
                    pod, world = await self._look(order)
                except (Throttled, Unreachable):
                    raise
                except KubeError as error:
                    step = Finish(Result.REFUSED, f"{error.reason}: {error.message}")
                    break
                step = follow(decision, step, judge(decision, world))
                if isinstance(step, Post) and pod is not None and needed(decision):
                    tries += 1
                    step = await self._preparation.prepare(decision, pod, delivery, again=went)
                    if isinstance(step, Look) and tries > self._context.config.attempts:
                        step = Finish(Result.REFUSED, f"the pod changed {tries} times while it was prepared")
                continue
            tries += 1
            if tries > self._context.config.attempts:
                step = Finish(Result.REFUSED, f"no {decision.verb} after {tries - 1} tries: {message}")
                break
            await reach("binder.before_post")
            # Of a staged gang nothing goes, and nothing starts, before the API would take all of it.
            dry_run = decision.staged and not went
            if isinstance(step, Evict):
                answer, message = await evict(self._kube, self._recorder, decision, step.version, dry_run=dry_run)
                if answer is Posted.NO_ANSWER:
                    await asyncio.sleep(0.5)
                then = after_eviction(answer, message, dry_run=dry_run)
            else:
                answer, message = await self._post(decision, step, dry_run=dry_run)
                then = after_post(answer, message, dry_run=dry_run)
            await reach("binder.after_post")
            step = follow(decision, step, then)
        if step.result is Result.REFUSED and pod is not None and needed(decision):
            pod, world = await self._look(order)
            if pod is not None and isinstance(judge(decision, world), Post):
                await self._preparation.take_back(decision, pod)
        return step

    async def _post(self, decision: Decision, post: Post, *, dry_run: bool) -> tuple[Posted, str]:
        to = (decision.namespace, decision.pod, decision.uid, post.version, decision.node, decision.annotations)
        try:
            await self._kube.bind(*to, dry_run=dry_run)
        except (KubeConflict, AlreadyExists) as error:
            return Posted.CONFLICT, error.message
        except NotFound as error:
            return Posted.NOT_FOUND, error.message
        except (Throttled, Unreachable) as error:
            await asyncio.sleep(0.5)
            return Posted.NO_ANSWER, error.message
        except KubeError as error:
            if dry_run and dry_run_unsupported(error):
                return Posted.DONE, ""
            return Posted.REFUSED, f"{error.reason}: {error.message}"
        return Posted.DONE, ""

    async def _look(self, order: Order) -> tuple[sharing.Pod | None, World]:
        """The pod, and afterwards whether the decision still stands. Raises KubeError, BusError."""
        decision = order.decision
        try:
            pod = _POD.decode(await self._kube.get(PODS.path(decision.pod, decision.namespace)))
        except NotFound:
            return None, World(exists=False)
        where = subjects.decision(decision.uid, shard=order.shard)
        stored = await self._context.bus.last(streams.DECISION.name, where)
        meta = pod.metadata
        return pod, World(
            exists=True,
            uid=meta.uid,
            node=pod.spec.node_name,
            version=meta.resource_version,
            deleting=meta.deletion_timestamp is not None,
            ended=pod.status.phase in ("Succeeded", "Failed"),
            given_up=(meta.annotations or {}).get(labels.GIVEN_UP, ""),
            current=stored is not None and stored.seq == order.seq,
        )

    async def _tell(self, order: Order, step: Finish) -> None:
        """Write the outcome on condition that the decision still stands. Raises BusError where it can't be written."""
        decision, seq, shard = order.decision, order.seq, order.shard
        outcome = Outcome(
            decision=decision.id, sequence=seq, uid=decision.uid, namespace=decision.namespace, pod=decision.pod,
            node=decision.node, result=step.result, message=step.message, binder=self._context.identity,
            at=self._context.clock.now(),
        )  # fmt: skip
        try:
            await self._context.bus.publish(
                subjects.outcome(decision.uid, shard=shard), outcome, expect=seq,
                expect_subject=subjects.decision(decision.uid, shard=shard), ttl=OUTCOME_TTL,
            )  # fmt: skip
        except Conflict:
            # The leader has closed or replaced the decision: nobody waits for this any more.
            self._context.log.debug("outcome of a closed decision", pod=decision.pod, result=step.result)
        await reach("binder.after_outcome")
        metrics.RESULTS.labels(step.result, metrics.shard(shard)).inc()
        if step.result not in TERMINAL:
            return
        data = PodEvent(
            namespace=decision.namespace, pod=decision.pod, uid=decision.uid, group=decision.group, queue=decision.queue,
            node=decision.node, decision=decision.id, message=step.message, epoch=decision.epoch,
        )  # fmt: skip
        self._events.say(decision.queue, "pod", step.result, decision.pod, data, decision.id, shard)
        if step.result is Result.REFUSED:
            about = Ref("v1", "Pod", decision.namespace, decision.pod, decision.uid)
            text = f"Failed to {decision.verb} the pod ({decision.node or 'eviction'}): {step.message}"
            self._recorder.event(about, "Warning", "BindingError", text)


async def start(context: Context[Config]) -> None:
    """Consume until the end."""
    config = context.config
    settings = KubeConfig(context.kubeconfig, "shoal-binder", config.qps, config.burst, patience=5.0)
    async with Kube.connect(settings) as kube:
        recorder, events = Recorder(kube, NAME, context.clock), Events(context)
        service = Service(context, kube, recorder, events)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            tasks.create_task(events.run())
            tasks.create_task(service.follow_epoch())
            tasks.create_task(service.consume())


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
