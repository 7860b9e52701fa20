"""The leader's loop: one coroutine owns the cluster and the ledger; everything else reaches it through its inbox."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from shoal_bus import BusError, Conflict, Unavailable, trace
from shoal_bus.trace import TRACEPARENT
from shoal_contracts import streams, subjects
from shoal_contracts.decision import Decision, GangGo, Header, Outcome, Verb
from shoal_contracts.state import GroupRecord, PodRecord, QueueRecord
from shoal_core import Cluster, CycleResult, cycle
from shoal_kube import Conflict as KubeConflict
from shoal_kube import Election, Kube, KubeError, NotFound
from shoal_kube.resources import PODS
from shoal_model import admission, labels, objects, storage
from shoal_model.membership import Membership
from shoal_scheduler import metrics
from shoal_scheduler.admission import BindingAdmission
from shoal_scheduler.commit import Committer, Deposed, StreamLost, Terms, stored_epoch, take_epoch
from shoal_scheduler.decisions import Naming, Origin, decisions
from shoal_scheduler.fence import Target, fence, pending
from shoal_scheduler.journal import Journal
from shoal_scheduler.ledger import (
    Assume,
    AssumeGone,
    Backoff,
    Close,
    Forget,
    Go,
    Hold,
    IllegalTransition,
    Instruction,
    Ledger,
    Phase,
    StartFailed,
    Touch,
)
from shoal_scheduler.marks import Marks
from shoal_scheduler.policy import COLLECTION, prepared, settings
from shoal_scheduler.reporter import Reporter
from shoal_scheduler.reservations import Reservations
from shoal_scheduler.user_events import UserEvents
from shoal_service import Context, telemetry
from shoal_service.aside import decode
from shoal_service.events import Events
from shoal_service.failpoint import reach
from shoal_service.leader import leading
from shoal_service.metrics import UNEXPECTED
from shoal_service.mirror import News, mirror

if TYPE_CHECKING:
    from shoal_scheduler.app import Config

TOUCHES = 16
IDLE = 1.0
GO_TTL = 600.0
"""Seconds that it is known of a gang that it may go: longer than its members are waited for."""
GENTLE = 200
"""News that are applied without a pause where nothing is urgent."""
_NORMALISED = ("node", "pod", "group", "queue", "priorityclass", "topology", "pdb", "namespace", "nrt")
FOLLOWED = (*_NORMALISED, *admission.KINDS, *(kind for kind, _ in storage.KINDS.values()))
"""Kinds of the state plane that decisions depend on."""
_POD = msgspec.json.Decoder(objects.Pod)


class Loop:
    """Decides as the leader of one epoch. ``run`` ends only by an error: then the process ends, and another leads."""

    def __init__(self, context: Context[Config], kube: Kube, reporter: Reporter, marks: Marks, events: Events) -> None:
        self._context, self._kube, self._metrics = context, kube, metrics.Instruments(context.config.shard)
        self._election: Election | None = None
        self._reporter, self._marks, self._events = reporter, marks, UserEvents(events)
        self._cluster = Cluster(settings(context.config))
        if self._cluster.settings.preempt_min_runtime > 0 or self._cluster.settings.reclaim_min_runtime > 0:
            marks.need_starts()
        marks.uids = self._uid_of_group
        self._journal = Journal(context, self._cluster)
        self._ledger = Ledger(context.config.expiry, context.config.preparation, context.config.provisioning)
        self._membership = Membership()
        self._reservations, self._admission = Reservations(), BindingAdmission()
        self._inbox: deque[News | Outcome | tuple[str, Decision, str | None]] = deque()
        self._wake = asyncio.Event()
        self._complete = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "core")
        self._committer: Committer | None = None
        self._cycle = 0
        self._implied: set[str] = set()
        """Pods whose group the API does not show on them yet: their binding brings the annotation."""
        self._origin: dict[str, Origin] = {}
        """Pod -> its last news."""
        self._holds: dict[str, float] = {}
        self._backoffs: dict[str, float] = {}
        """Uid of a pod whose eviction was refused -> until when it is not chosen again."""
        self._mark = 0
        """Everything that the state plane held up to this sequence was told."""
        self._closing: dict[str, int] = {}
        self._lost = False
        self._touching = asyncio.Semaphore(TOUCHES)
        self._tasks: asyncio.TaskGroup

    def _uid_of_group(self, key: tuple[str, str]) -> str:
        job = self._cluster.jobs.get(key)
        return job.record.uid if job is not None and job.record is not None else ""

    async def run(self, lease: str) -> None:
        """Follow, wait for the Lease, take over, decide."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._follow_state())
            await self._complete.wait()
            self._context.have("state")
            warm = self._tasks.create_task(self._keep_warm())
            async with leading(self._context, self._kube, lease) as self._election:
                warm.cancel()
                await asyncio.wait([warm])
                await self._lead()

    async def _keep_warm(self) -> None:
        """Until it leads: take in what is told, and do nothing about it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._drain_gently()
            # Made anew after a queue changed, and kept up to date from then on.
            _ = self._cluster.tree

    async def _lead(self) -> None:
        self._context.bus.on_reconnect(self._streams)
        await self._context.retry("scheduler.streams", self._streams)
        known = await self._take_over()
        self._tasks.create_task(self._follow_outcomes(known))
        self._tasks.create_task(self._journal.run())
        gc.set_threshold(*COLLECTION)
        await self._turn()
        # What stands now stays: it need not be looked through again.
        gc.collect()
        gc.freeze()
        while True:
            await self._turn()

    # input

    async def _follow_state(self) -> None:
        async for news in mirror(self._context, FOLLOWED):
            if news.current:
                self._mark = news.mark
                self._complete.set()
            else:
                self._inbox.append(news)
            self._wake.set()

    async def _follow_outcomes(self, known: int) -> None:
        """Outcomes after this sequence, for ever."""
        shard = self._context.config.shard
        decoder = msgspec.json.Decoder(Outcome)
        incarnation = ""
        async for change in self._context.bus.follow(streams.DECISION.name, [subjects.outcome("*", shard=shard)], known):
            if incarnation and change.incarnation != incarnation:
                self._context.log.warning("the decision stream was made anew")
                self._lost = True
                self._wake.set()
            incarnation = change.incarnation
            # Outcomes of decisions that were closed long ago are kept for a while: nobody waits for them.
            if not change.subject or not change.data or not self._ledger.is_open(subjects.parse(change.subject)[2][0]):
                continue
            if found := decode(decoder, change.data, change.subject, self._context.log):
                self._inbox.append(found)
                self._wake.set()

    async def _streams(self) -> None:
        await self._context.bus.ensure([streams.DECISION, streams.EVENT, streams.LOG], [streams.BINDER])

    # takeover

    async def _take_over(self) -> int:
        """Raise the epoch, then adopt what the stream holds. The sequence after which outcomes matter."""
        before, _ = await stored_epoch(self._context.bus, self._context.config.shard)
        epoch = await self._raise(before)
        await self._see_state()
        self._journal.begin()
        if self._election and epoch > 1 and before == 0:
            # The stream was lost together with the leader: nobody knows what a binder still has in its hands.
            await self._fence_pending(epoch)
        await self._reign(epoch)
        # What the leader before saw, and closed its decisions by, must be seen here too.
        await self._see_state()
        known = await self._adopt()
        self._context.log.info("leading with epoch", epoch=epoch, adopted=len(self._ledger.entries))
        return known

    async def _see_state(self) -> None:
        """Take in all that the state plane holds now."""
        seen = await self._context.bus.last_seq(streams.STATE.name)
        async with asyncio.timeout(60):
            while self._mark < seen:
                self._wake.clear()
                await self._wake.wait()
        await self._drain_gently()

    async def _raise(self, above: int) -> int:
        """An epoch higher than ``above`` and than any that the Lease has seen; nothing is committed under it yet."""
        return await self._election.raise_epoch(above) if self._election else above + 1

    async def _reign(self, epoch: int) -> None:
        """Store the epoch, and commit under it from now on."""
        bus, shard, holder = self._context.bus, self._context.config.shard, self._context.identity
        await reach("scheduler.before_epoch")
        at = await take_epoch(bus, shard, epoch, holder, self._context.clock.now())
        self._committer = Committer(bus, shard, epoch, at, holder)
        self._journal.epoch = epoch
        self._metrics.epoch.set(epoch)

    async def _adopt(self) -> int:
        """Take over the open decisions. The sequence after which their outcomes are: none comes before its decision."""
        shard = self._context.config.shard
        known = await self._context.bus.last_seq(streams.DECISION.name)
        decoder = msgspec.json.Decoder(Decision)
        open_now: dict[str, tuple[Decision, int]] = {}
        went: set[str] = set()
        filters = [subjects.decision("*", shard=shard), subjects.gang("*", shard=shard)]
        async with asyncio.timeout(60):
            async for change in self._context.bus.follow(streams.DECISION.name, filters):
                if change.subject:
                    names = subjects.parse(change.subject)[2]
                    if names[0] == "_gang" and change.data is not None:
                        went.add(names[1])
                    if names[0].startswith("_"):
                        continue
                    if change.data is None:
                        open_now.pop(names[0], None)
                        self._ledger.marked(names[0], change.seq, self._context.clock.monotonic())
                    elif decision := decode(decoder, change.data, change.subject, self._context.log):
                        open_now[names[0]] = (decision, change.seq)
                if change.caught_up:
                    break
        now = self._context.clock.monotonic()
        for decision, seq in open_now.values():
            self._do(self._ledger.adopt(decision, seq, now, decision.gang in went))
        self._do(self._ledger.adopted())
        # Who is gone, or bound by now, is known before outcomes let a gang go: those are followed from here on.
        for uid in list(self._ledger.entries):
            pod = self._cluster.pods.get(uid)
            self._do(self._ledger.seen(uid, pod.record.node, bool(pod.record.deleted)) if pod else self._ledger.gone(uid))
        return min([known, *(seq - 1 for _, seq in open_now.values())])

    async def _fence_pending(self, epoch: int) -> None:
        await self._fence(epoch, pending(self._cluster))

    async def _fence(self, epoch: int, targets: list[Target]) -> None:
        """Nothing that was decided under an epoch before this one takes effect on these pods any more."""
        self._context.log.warning("stream lost: fencing pods", count=len(targets), epoch=epoch)

        async def mark(target: Target, text: str) -> None:
            async with self._touching:
                await self._mark_pod(target.namespace, target.name, target.uid, text)

        def refused(target: Target, error: Exception) -> None:
            # Without the mark an old decision on it may still be carried out: it is not decided anew.
            self._journal.bar(target.uid, True)
            self._context.log.error("pod can't be fenced, it waits", pod=(target.namespace, target.name), error=str(error))

        await fence(self._context, targets, epoch, mark, refused)

    async def _mark_pod(self, namespace: str, name: str, uid: str, mark: str) -> bytes | None:
        """Change the pod's version by a mark on it; its JSON afterwards, None if it is gone or another. Raises KubeError."""
        patch = {"metadata": {"uid": uid, "annotations": {labels.GIVEN_UP: mark}}}
        try:
            return await self._kube.merge_patch(PODS.path(name, namespace), patch)
        except (NotFound, KubeConflict):
            return None

    # a turn

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(IDLE):
                await self._wake.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(self._context.config.interval)
        self._wake.clear()
        if self._lost or self._committer is None:
            await self._recover()
        now = self._context.clock.monotonic()
        changed = self._drain_state()
        self._do(self._ledger.tick(now))
        for uid, until in list(self._holds.items()):
            if until <= now:
                del self._holds[uid]
                self._journal.bar(uid, False)
        for uid, until in list(self._backoffs.items()):
            if until <= now:
                del self._backoffs[uid]
                self._journal.set_eviction_backoff(uid, False)
        await self._close()
        self._metrics.open.set(len(self._ledger.entries))
        self._reporter.open = len(self._ledger.entries)
        if not changed and not self._cluster.waiting and not self._cluster.doubtful:
            return
        if self._election and not self._election.valid():
            return
        result = await self._decide()
        if result.gangs or result.evictions:
            await self._commit(result)
        self._marks.cycle(result)
        self._reporter.cycle(result.waiting)
        self._metrics.waiting.set(len(result.waiting))
        if self._committer is not None:
            self._events.cycle(result, self._ledger.decision, self._committer.epoch)

    async def _decide(self) -> CycleResult:
        began = self._context.clock.monotonic()
        now = self._context.clock.now()
        self._journal.begins(self._cycle, now)
        result = await asyncio.get_running_loop().run_in_executor(self._worker, lambda: cycle(self._cluster, now=now))
        self._tell_odd()
        self._journal.ended(self._cycle, result)
        self._cycle += 1
        self._metrics.cycles.inc()
        self._metrics.cycle_seconds.observe(self._context.clock.monotonic() - began)
        return result

    async def _drain_gently(self) -> None:
        """Apply what came in, a bit at a time: the Lease has to be renewed meanwhile."""
        while self._inbox:
            self._drain_state(GENTLE)
            await asyncio.sleep(0)

    def _drain_state(self, most: int = 1 << 60) -> bool:
        """Apply what came in, ``most`` news at a time; True if the cluster changed."""
        before = self._cluster.changes
        now = self._context.clock.monotonic()
        while self._inbox and most:
            most -= 1
            found = self._inbox.popleft()
            match found:
                case Outcome():
                    self._outcome(found, now)
                case News():
                    try:
                        self._news(found)
                    except Exception as error:  # one odd record must not stop the rest
                        self._cluster.quarantine.failed("/".join((found.kind, *found.names)), error)
                case ("touched", decision, node):
                    self._metrics.given_up.inc()
                    self._do(self._ledger.touched(decision, node, now))
                case (_, decision, _):
                    self._do(self._ledger.not_touched(decision, now))
        for record in self._reservations.changes(self._context.clock.now()):
            self._journal.remove("pod", record.namespace, record.name)
            self._journal.apply(record)
        self._tell_odd()
        return self._cluster.changes != before

    def _outcome(self, found: Outcome, now: float) -> None:
        try:
            self._do(self._ledger.outcome(found, now))
        except IllegalTransition as error:
            # A binder's word that can't be true changes nothing: the decision expires, and its pod is looked at.
            UNEXPECTED.labels("scheduler.outcome").inc()
            self._context.log.error("impossible outcome", pod=found.pod, binder=found.binder, error=str(error))

    def _tell_odd(self) -> None:
        """Log and count what raised in the core and was put aside there."""
        for what, error in self._cluster.quarantine.new_errors():
            self._metrics.put_aside.inc()
            self._context.log.error("put aside after an error", what=what, error=repr(error), exc_info=error)

    def _news(self, news: News) -> None:
        if self._admission.apply(news.kind, news.names, news.record is not None):
            return
        match news.record:
            case PodRecord() as pod:
                self._pod(pod, news)
            case QueueRecord() as queue:
                if queue.preempt_min_runtime or queue.reclaim_min_runtime:
                    jobs = self._cluster.jobs.values()
                    self._marks.need_starts((j.key, j.history.started) for j in jobs if j.history.started and j.active)
                self._journal.apply(queue)
            case GroupRecord() as group:
                self._reporter.group(group)
                self._journal.apply(group)
                if pod := self._membership.group(group):
                    self._implied.add(pod.uid)
                    self._journal.apply(prepared(pod))
                    self._reporter.pod(pod)
            case None:
                if news.kind == "pod":
                    namespace, name = news.names
                    self._membership.pod_gone(namespace, name)
                    if uid := self._cluster.uid_of.get((namespace, name)):
                        self._gone(uid)
                elif news.kind == "group":
                    namespace, name = news.names
                    self._membership.group_gone(namespace, name)
                    self._reporter.forget((namespace, name))
                self._journal.remove(news.kind, *(news.names if len(news.names) == 2 else ("", *news.names)))
            case record:
                self._journal.apply(record)

    def _pod(self, pod: PodRecord, news: News) -> None:
        before = self._cluster.uid_of.get((pod.namespace, pod.name))
        if before and before != pod.uid:
            self._gone(before)
        filled = self._membership.pod(pod)
        if filled.group != pod.group:
            self._implied.add(pod.uid)
        else:
            self._implied.discard(pod.uid)
        self._journal.apply(prepared(self._reservations.record(filled, self._context.clock.now())))
        if pod.scheduler_name != self._cluster.scheduler_name:
            return
        self._reporter.pod(filled)
        if not pod.node:
            cause, parent = news.headers.get(Header.CAUSE, ""), news.headers.get(TRACEPARENT, "")
            self._origin[pod.uid] = Origin(cause, trace.sent(news.headers), parent)
            return
        if (entry := self._ledger.entries.get(pod.uid)) is not None:
            self._metrics.bound_seconds.observe(max(0.0, self._context.clock.now() - entry.decision.at))
        self._do(self._ledger.seen(pod.uid, pod.node, bool(pod.deleted)))
        self._origin.pop(pod.uid, None)
        self._implied.discard(pod.uid)

    def _gone(self, uid: str) -> None:
        self._reservations.gone(uid)
        self._do(self._ledger.gone(uid))
        self._origin.pop(uid, None)
        self._implied.discard(uid)
        self._holds.pop(uid, None)
        if self._backoffs.pop(uid, None) is not None:
            self._journal.set_eviction_backoff(uid, False)
        self._reporter.pod_gone(uid)

    # output

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Assume(uid, node, groups):
                    self._reservations.decided(uid, node, groups)
                    self._journal.assume(uid, node, groups)
                case AssumeGone(uid):
                    self._journal.assume_gone(uid)
                case Forget(uid):
                    self._reservations.decided(uid, "", ())
                    self._journal.forget(uid)
                    if (pod := self._cluster.pods.get(uid)) is not None and pod.barred and uid not in self._holds:
                        self._journal.bar(uid, False)
                case Close(uid, seq):
                    self._closing[uid] = seq
                case Hold(uid, seconds, refused):
                    self._holds[uid] = self._context.clock.monotonic() + seconds
                    self._journal.bar(uid, True, refused)
                case Backoff(uid, seconds, why):
                    self._backoffs[uid] = self._context.clock.monotonic() + seconds
                    self._journal.set_eviction_backoff(uid, True, why)
                case Touch(decision):
                    if decision.verb is Verb.BIND and decision.uid not in self._holds:
                        # Until it is given up, its gang may have it or not: the others don't start on the strength of it.
                        self._journal.bar(decision.uid, True)
                    self._tasks.create_task(self._touch(decision))
                case StartFailed(namespace, group):
                    self._journal.start_failed(namespace, group)
                case Go(gang, members):
                    self._tasks.create_task(self._go(gang, members))

    async def _touch(self, decision: Decision) -> None:
        """Change the pod's version, so that a late POST of the decision fails."""
        try:
            async with self._touching:
                body = await self._mark_pod(decision.namespace, decision.pod, decision.uid, decision.id)
            node = None if body is None else _POD.decode(body).spec.node_name
        except (KubeError, msgspec.DecodeError) as error:
            self._context.log.info("pod not touched, again soon", pod=decision.pod, error=str(error))
            self._inbox.append(("not touched", decision, None))
            self._wake.set()
            return
        self._inbox.append(("touched", decision, node))
        self._wake.set()

    async def _go(self, gang: str, members: tuple[str, ...]) -> None:
        assert self._committer is not None
        committer, shard = self._committer, self._context.config.shard
        record = GangGo(gang=gang, epoch=committer.epoch, members=list(members))
        where = subjects.gang(gang, shard=shard)

        async def write() -> None:
            await reach("scheduler.before_go")
            if not any(self._ledger.goes(uid, gang) for uid in members):
                return  # given up by now
            try:
                # Like a batch: stored only while the epoch's record is the one that this leader wrote.
                await self._context.bus.publish(
                    where, record, ttl=GO_TTL, expect=committer.epoch_seq, expect_subject=subjects.epoch(shard=shard)
                )
            except Conflict:
                self._context.log.warning("a gang was not let go: another leads", gang=gang)

        await self._context.retry("scheduler.go", write)

    async def _close(self) -> None:
        if not self._closing or self._committer is None:
            return
        closing, self._closing = list(self._closing.items()), {}
        await reach("scheduler.before_close")
        done, unknown = await self._committer.close(closing)
        for uid, seq in done.items():
            self._ledger.closed(uid, seq, self._context.clock.monotonic())
        for uid, seq in closing:
            if uid in unknown:
                self._closing.setdefault(uid, seq)

    async def _commit(self, result: CycleResult) -> None:
        assert self._committer is not None
        epoch, at = self._committer.epoch, self._context.clock.now()
        naming = Naming(epoch, self._cycle, at, self._context.config.shard)
        gangs = decisions(result, self._cluster, naming, self._origin, self._implied, dry_run=bool(self._admission))
        flat = [d for gang in gangs for d in gang]
        clock = self._context.clock
        self._do(self._ledger.decided(flat, clock.monotonic()))
        for decision in flat:
            if decision.gpu_groups:
                self._reservations.decided(decision.uid, decision.node, tuple(decision.gpu_groups))
        traces: dict[str, str] = {}
        for decision in flat:
            if parent := self._origin[decision.uid].traceparent if decision.uid in self._origin else "":
                with telemetry.span("decide", parent, pod=decision.pod, cycle=decision.cycle) as child:
                    traces[decision.uid] = child
        await reach("scheduler.before_commit")
        began = clock.monotonic()
        open_before = {d.uid for d in flat}

        def tell(uid: str, seq: int, last: int | None) -> None:
            open_before.discard(uid)
            if seq:
                self._do(self._ledger.committed(uid, seq, clock.monotonic()))
                self._metrics.decided.inc()
            else:
                self._metrics.refused.inc()
                self._do(self._ledger.not_committed(uid, last))

        try:
            await self._committer.commit(gangs, Terms(self._ledger.expected, traces, clock.now(), tell))
        except Deposed:
            raise
        except StreamLost:
            self._lost = True
        except BusError as error:
            self._context.log.warning("not committed, again soon", count=len(open_before), error=str(error))
            # What got no answer may be stored all the same: without an outcome it expires like any other.
            if not isinstance(error, Unavailable):
                raise
            self._lost = True
        self._metrics.commit_seconds.observe(clock.monotonic() - began)
        await reach("scheduler.after_commit")

    async def _recover(self) -> None:
        """The bus was away or lost its data: make the streams, hold the epoch, give up what nobody can find again."""

        async def again() -> None:
            # Set again where the stream is lost once more meanwhile.
            self._lost = False
            await self._streams()
            before, at = await stored_epoch(self._context.bus, self._context.config.shard)
            assert self._committer is not None
            # The same epoch under another sequence is a stream that was put back from somewhere: a lost one.
            if (before, at) == (self._committer.epoch, self._committer.epoch_seq):
                await self._read_back()
                return
            epoch = await self._raise(max(before, self._committer.epoch))
            opened = [e.decision for e in self._ledger.entries.values()]
            await self._fence(epoch, [Target(d.namespace, d.pod, d.uid) for d in opened])
            await self._reign(epoch)
            self._context.log.warning("epoch raised after the stream was lost", epoch=epoch)
            self._do(self._ledger.stream_lost())

        await self._context.retry("scheduler.recover", again)

    async def _read_back(self) -> None:
        """The stream is the same: settle what was being committed when the bus went away."""
        assert self._committer is not None
        for uid, entry in list(self._ledger.entries.items()):
            if entry.phase is not Phase.COMMITTING:
                continue
            mine, seq = await self._committer.standing(entry.decision)
            if mine:
                self._do(self._ledger.committed(uid, seq, self._context.clock.monotonic()))
            else:
                self._do(self._ledger.not_committed(uid, seq))
