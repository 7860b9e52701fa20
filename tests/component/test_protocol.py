"""The life of a decision between leader, stream, binders and API, with everything going wrong that can.

A model of the API (preconditions on UID and resourceVersion) and of the stream (conditions on sequences, atomic
batches, the epoch's fence; it can be emptied), and the real ledger and the real binder rules on them. Hypothesis
chooses who moves next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal_binder.bind import Evict, Finish, Look, Post, Posted, Step, World, after_eviction, after_post, follow, judge
from shoal_contracts.decision import Decision, Outcome, Result, Verb
from shoal_scheduler.ledger import Assume, AssumeGone, Backoff, Close, Forget, Go, Hold, Instruction, Ledger, Phase, Touch

NODES = {"a": 1, "b": 2}
EXPIRY = 15.0


@dataclass
class ApiPod:
    uid: str
    version: int
    node: str = ""
    given_up: str = ""


@dataclass
class Stream:
    """Subject -> (sequence, message); a conditional write is refused when the sequence differs.

    A stream that is made again begins above all sequences of the one before (``shoal_bus.ensure``).
    """

    held: dict[str, tuple[int, object]] = field(default_factory=dict)
    seq: int = 0
    incarnation: int = 0

    def last(self, subject: str) -> int:
        return self.held[subject][0] if subject in self.held else 0

    def commit(self, writes: list[tuple[str, object, int]], fence: int | None = None) -> list[int] | None:
        if fence is not None and self.last("_epoch") != fence:
            return None
        if any(self.last(subject) != expect for subject, _, expect in writes):
            return None
        found = []
        for subject, message, _ in writes:
            self.seq += 1
            self.held[subject] = (self.seq, message)
            found.append(self.seq)
        return found


@dataclass
class Leader:
    epoch: int
    fence: int
    incarnation: int
    ledger: Ledger = field(default_factory=lambda: Ledger(EXPIRY))
    view: dict[str, str] = field(default_factory=dict)
    """Pod uid -> node, as far as the leader has seen."""
    assumed: dict[str, str] = field(default_factory=dict)
    touches: list[Decision] = field(default_factory=list)
    closing: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def room(self, node: str) -> int:
        used = {u for u, n in self.view.items() if n == node} | {u for u, n in self.assumed.items() if n == node}
        return NODES[node] - len(used)


@dataclass
class Task:
    """A delivery in a binder's hands."""

    decision: Decision
    seq: int
    step: Step
    incarnation: int = -1
    """Of the stream that it came from; -1: of no matter."""


class Protocol(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.pods: dict[str, ApiPod] = {}
        self.versions = 0
        self.names = 0
        self.stream = Stream()
        self.lease_epoch = 0
        self.tasks: list[Task] = []
        self.deposed: list[Leader] = []
        self.delivered: set[tuple[int, int]] = set()
        self.lead()

    # the leader

    def lead(self) -> None:
        """Take over: raise the epoch, adopt what the stream holds, fence if it was lost."""
        recorded = self.stream.held.get("_epoch", (0, 0))[1]
        assert isinstance(recorded, int)
        epoch = max(self.lease_epoch, recorded) + 1
        self.lease_epoch = epoch
        stored = self.stream.commit([("_epoch", epoch, self.stream.last("_epoch"))])
        assert stored is not None
        self.leader = Leader(epoch, stored[0], self.stream.incarnation)
        self.leader.view = {p.uid: p.node for p in self.pods.values()}
        outcomes = []
        for subject, (seq, message) in list(self.stream.held.items()):
            if isinstance(message, Decision):
                self.do(self.leader.ledger.adopt(message, seq, self.now))
            elif isinstance(message, Outcome):
                outcomes.append(message)
            elif subject.startswith("d.") and message is None:
                self.leader.ledger.marked(subject[2:], seq, self.now)
        for outcome in outcomes:
            self.do(self.leader.ledger.outcome(outcome, self.now))
        for uid in list(self.leader.ledger.entries):
            self.do(
                self.leader.ledger.seen(uid, self.leader.view[uid]) if uid in self.leader.view else self.leader.ledger.gone(uid)
            )
        if recorded == 0 and epoch > 1:
            for pod in self.pods.values():
                if not pod.node:
                    self.touch_pod(pod, f"before-{epoch}")

    def do(self, instructions: list[Instruction]) -> None:
        for found in instructions:
            match found:
                case Assume(uid, node):
                    self.leader.assumed[uid] = node
                case Forget(uid):
                    self.leader.assumed.pop(uid, None)
                case Close(uid, seq):
                    self.leader.closing[uid] = seq
                case Touch(decision):
                    self.leader.touches.append(decision)
                case Hold() | Go() | AssumeGone() | Backoff():
                    pass

    def touch_pod(self, pod: ApiPod, mark: str) -> None:
        self.versions += 1
        pod.version, pod.given_up = self.versions, mark

    def by_uid(self, uid: str) -> ApiPod | None:
        return next((p for p in self.pods.values() if p.uid == uid), None)

    # the world

    @rule()
    def create_pod(self) -> None:
        if len(self.pods) < sum(NODES.values()):
            self.names += 1
            self.versions += 1
            name = f"p{len(self.pods)}" if f"p{len(self.pods)}" not in self.pods else f"x{self.names}"
            self.pods[name] = ApiPod(f"u{self.names}", self.versions)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def delete_pod(self, data: st.DataObject) -> None:
        del self.pods[data.draw(st.sampled_from(sorted(self.pods)))]

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def someone_else_patches_a_pod(self, data: st.DataObject) -> None:
        self.versions += 1
        self.pods[data.draw(st.sampled_from(sorted(self.pods)))].version = self.versions

    @rule(lost=st.booleans())
    def decide(self, lost: bool) -> None:
        """The leader places every pod that it can, in one batch; the answer may be lost."""
        leader = self.leader
        if leader.incarnation != self.stream.incarnation:
            return
        decisions = []
        for uid, node in leader.view.items():
            pod = self.by_uid(uid)
            if node or leader.ledger.is_open(uid) or uid in leader.assumed:
                continue
            for target in NODES:
                if leader.room(target) > 0:
                    leader.count += 1
                    leader.assumed[uid] = target
                    decisions.append(
                        Decision(
                            id=f"{leader.epoch}-{leader.count}", verb=Verb.BIND, namespace="n", pod=uid, uid=uid, node=target,
                            epoch=leader.epoch, resource_version=str(pod.version if pod else 0),
                        )
                    )  # fmt: skip
                    break
        self.commit(decisions, lost)

    @rule(data=st.data(), lost=st.booleans())
    def decide_evictions(self, data: st.DataObject, lost: bool) -> None:
        """The leader wants some of those away that run, as far as it knows."""
        leader = self.leader
        running = sorted(uid for uid, node in leader.view.items() if node and not leader.ledger.is_open(uid))
        if leader.incarnation != self.stream.incarnation or not running:
            return
        decisions = []
        for uid in data.draw(st.lists(st.sampled_from(running), min_size=1, max_size=2, unique=True)):
            leader.count += 1
            name, node = f"{leader.epoch}-{leader.count}", leader.view[uid]
            decisions.append(Decision(id=name, verb=Verb.EVICT, namespace="n", pod=uid, uid=uid, node=node, epoch=leader.epoch))
        self.commit(decisions, lost)

    def commit(self, decisions: list[Decision], lost: bool) -> None:
        leader = self.leader
        if not decisions:
            return
        self.do(leader.ledger.decided(decisions, self.now))
        writes: list[tuple[str, object, int]] = [(f"d.{d.uid}", d, leader.ledger.expected(d.uid)) for d in decisions]
        stored = self.stream.commit(writes, leader.fence)
        if stored is None or lost:
            self.read_back(decisions)
            return
        for decision, seq in zip(decisions, stored, strict=True):
            self.do(leader.ledger.committed(decision.uid, seq, self.now))

    def read_back(self, decisions: list[Decision]) -> None:
        """Refused, or no answer: look what is stored."""
        for decision in decisions:
            seq, message = self.stream.held.get(f"d.{decision.uid}", (0, None))
            if isinstance(message, Decision) and message.id == decision.id:
                self.do(self.leader.ledger.committed(decision.uid, seq, self.now))
            else:
                self.do(self.leader.ledger.not_committed(decision.uid, seq))

    @rule()
    def leader_sees_the_api(self) -> None:
        leader = self.leader
        now = {p.uid: p.node for p in self.pods.values()}
        for uid in set(leader.view) - set(now):
            self.do(leader.ledger.gone(uid))
        leader.view = now
        for uid, node in now.items():
            self.do(leader.ledger.seen(uid, node))

    @rule()
    def leader_sees_the_outcomes(self) -> None:
        for _, message in list(self.stream.held.values()):
            if isinstance(message, Outcome):
                self.do(self.leader.ledger.outcome(message, self.now))

    @rule()
    def time_passes(self) -> None:
        self.now += EXPIRY + 1
        # Longer than markers stand.
        self.stream.held = {subject: held for subject, held in self.stream.held.items() if held[1] is not None}
        self.do(self.leader.ledger.tick(self.now))

    @precondition(lambda self: self.leader.touches)
    @rule(answer=st.booleans())
    def leader_touches(self, answer: bool) -> None:
        decision = self.leader.touches.pop(0)
        pod = self.by_uid(decision.uid)
        if pod is not None:
            self.touch_pod(pod, decision.id)
        if answer:
            self.do(self.leader.ledger.touched(decision, pod.node if pod else None, self.now))
        else:
            self.do(self.leader.ledger.not_touched(decision, self.now))

    @rule()
    def leader_closes(self) -> None:
        closing, self.leader.closing = self.leader.closing, {}
        for uid, seq in closing.items():
            if stored := self.stream.commit([(f"d.{uid}", None, seq)]):
                self.leader.ledger.closed(uid, stored[0], self.now)

    @rule()
    def leader_dies(self) -> None:
        self.deposed.append(self.leader)
        self.lead()

    @precondition(lambda self: self.deposed)
    @rule(data=st.data())
    def deposed_leader_tries(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.deposed))
        decision = Decision(id="old", verb=Verb.BIND, namespace="n", pod="p", uid="u1", node="a", epoch=old.epoch)
        assert self.stream.commit([("d.u1", decision, self.stream.last("d.u1"))], old.fence) is None, (
            "a deposed leader stores nothing"
        )

    @rule()
    def stream_is_emptied(self) -> None:
        """And the leader notices: it makes the stream, raises the epoch, gives up what is open."""
        self.stream = Stream(incarnation=self.stream.incarnation + 1, seq=self.stream.seq + 1000)
        self.lease_epoch += 1
        stored = self.stream.commit([("_epoch", self.lease_epoch, 0)])
        assert stored is not None
        self.leader.epoch, self.leader.fence, self.leader.incarnation = self.lease_epoch, stored[0], self.stream.incarnation
        self.do(self.leader.ledger.stream_lost())

    @rule()
    def stream_is_emptied_and_the_leader_dies(self) -> None:
        self.stream = Stream(incarnation=self.stream.incarnation + 1, seq=self.stream.seq + 1000)
        self.deposed.append(self.leader)
        self.lead()

    # binders

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """A binder takes a decision: the first time, or again because nobody acknowledged it."""
        open_ = [(s, q, m) for s, (q, m) in self.stream.held.items() if isinstance(m, Decision)]
        if not open_:
            return
        _, seq, decision = data.draw(st.sampled_from(sorted(open_, key=lambda x: x[1])))
        mark = (self.stream.incarnation, seq)
        again = mark in self.delivered or decision.verb is Verb.EVICT
        step: Step = Look() if again else Post(decision.resource_version)
        follow(decision, None, step)
        self.delivered.add(mark)
        self.tasks.append(Task(decision, seq, step, self.stream.incarnation))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), fault=st.sampled_from(["", "", "", "lost", "refused", "late look"]))
    def binder_moves(self, data: st.DataObject, fault: str) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        self.advance(task, fault)

    def advance(self, task: Task, fault: str = "") -> None:
        before = task.step
        self.move(task, fault)
        if not isinstance(before, Finish):
            follow(task.decision, before, task.step)

    def move(self, task: Task, fault: str) -> None:
        decision = task.decision
        match task.step:
            case Evict(version):
                if fault == "refused":
                    task.step = after_eviction(Posted.REFUSED, "a budget")
                    return
                answer = self.evict(task, version)
                task.step = after_eviction(Posted.NO_ANSWER if fault == "lost" else answer)
            case Post(version):
                if fault == "refused":
                    task.step = after_post(Posted.REFUSED, "no")
                    return
                answer = self.post(decision, version)
                task.step = after_post(Posted.NO_ANSWER if fault == "lost" else answer)
            case Look():
                pod = self.pods_named(decision)
                if pod is None:
                    task.step = judge(decision, World(exists=False))
                    return
                current = self.stream.last(f"d.{decision.uid}") == task.seq
                world = World(True, pod.uid, pod.node, str(pod.version), False, pod.given_up, current)
                task.step = judge(decision, world)
            case Finish(result):
                outcome = Outcome(decision=decision.id, sequence=task.seq, uid=decision.uid, result=result)
                if self.stream.last(f"d.{decision.uid}") == task.seq:
                    self.stream.commit([(f"o.{decision.uid}", outcome, self.stream.last(f"o.{decision.uid}"))])
                self.tasks.remove(task)

    def evict(self, task: Task, version: str) -> Posted:
        decision = task.decision
        pod = self.by_uid(decision.uid)
        if pod is None:
            return Posted.NOT_FOUND
        if str(pod.version) != version:
            return Posted.CONFLICT
        standing = self.stream.last(f"d.{decision.uid}") == task.seq
        assert standing or task.incarnation not in (-1, self.stream.incarnation), "evicted on a decision that was closed"
        assert pod.node in ("", decision.node), "evicted elsewhere than decided"
        del self.pods[next(name for name, p in self.pods.items() if p is pod)]
        return Posted.DONE

    def pods_named(self, decision: Decision) -> ApiPod | None:
        return self.by_uid(decision.uid)

    def post(self, decision: Decision, version: str) -> Posted:
        pod = self.by_uid(decision.uid)
        if pod is None:
            return Posted.NOT_FOUND
        if str(pod.version) != version or pod.node:
            return Posted.CONFLICT
        self.versions += 1
        pod.node, pod.version = decision.node, self.versions
        return Posted.DONE

    @rule()
    def leader_gives_up_all(self) -> None:
        """Nothing comes of what is open for too long: touched, and closed."""
        self.time_passes()
        while self.leader.touches:
            self.leader_touches(answer=True)
        self.leader_closes()

    @rule()
    def what_is_decided_is_done(self) -> None:
        """A quiet moment: bindings succeed and are seen."""
        self.leader_sees_the_api()
        self.decide(lost=False)
        for seq, message in list(self.stream.held.values()):
            if isinstance(message, Decision) and message.verb is Verb.BIND:
                task = Task(message, seq, Look(), self.stream.incarnation)
                self.tasks.append(task)
                while task in self.tasks:
                    self.advance(task)
        self.leader_sees_the_outcomes()
        self.leader_sees_the_api()
        self.leader_closes()

    @rule()
    def a_binder_stops_before_its_evictions(self) -> None:
        """It has looked, and comes back late."""
        for seq, message in list(self.stream.held.values()):
            if isinstance(message, Decision) and message.verb is Verb.EVICT:
                task = Task(message, seq, Look(), self.stream.incarnation)
                self.tasks.append(task)
                self.advance(task)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def binder_dies(self, data: st.DataObject) -> None:
        self.tasks.remove(data.draw(st.sampled_from(self.tasks)))

    # what must hold

    @invariant()
    def no_node_is_over_its_room(self) -> None:
        for node, room in NODES.items():
            bound = [p for p in getattr(self, "pods", {}).values() if p.node == node]
            assert len(bound) <= room, f"{node} holds {len(bound)} of {room}"

    def teardown(self) -> None:
        """The faults end: everything comes to rest, and every pod is bound."""
        if not hasattr(self, "pods"):
            return
        for _ in range(12):
            self.leader_sees_the_api()
            self.decide(lost=False)
            for seq, message in list(self.stream.held.values()):
                if isinstance(message, Decision):
                    self.tasks.append(Task(message, seq, Look()))
            while self.tasks:
                self.advance(self.tasks[0])
                self.no_node_is_over_its_room()
            self.leader_sees_the_outcomes()
            while self.leader.touches:
                self.leader_touches(answer=True)
            self.leader_sees_the_api()
            self.leader_closes()
            self.time_passes()
        waiting = [p.uid for p in self.pods.values() if not p.node]
        assert not waiting, f"never bound: {waiting}"
        phases = {e.phase for e in self.leader.ledger.entries.values()}
        assert not phases & {Phase.COMMITTING}


Protocol.TestCase.settings = settings(max_examples=250, stateful_step_count=60, deadline=None)
TestProtocol = Protocol.TestCase


def test_a_refused_decision_frees_its_room_only_after_a_touch() -> None:
    ledger = Ledger(EXPIRY)
    decision = Decision(id="1-1", verb=Verb.BIND, namespace="n", pod="p", uid="u", node="a", epoch=1)
    ledger.decided([decision], 0.0)
    ledger.committed("u", 7, 0.0)
    refused = Outcome(decision="1-1", sequence=7, uid="u", result=Result.REFUSED)
    assert ledger.outcome(refused, 1.0) == [Touch(decision)]
    assert ledger.touched(decision, "", 2.0) == [Forget("u"), Close("u", 7), Hold("u", 0.2, refused=True)]


def test_a_staged_gang_goes_when_all_are_prepared() -> None:
    ledger = Ledger(EXPIRY)
    made = [
        Decision(id=f"1-{i}", verb=Verb.BIND, namespace="n", pod=f"p{i}", uid=f"u{i}", node="a", epoch=1, gang="g", staged=True)
        for i in range(2)
    ]
    ledger.decided(made, 0.0)
    prepared = [Outcome(decision=d.id, sequence=1, uid=d.uid, result=Result.PREPARED) for d in made]
    assert ledger.outcome(prepared[0], 1.0) == []
    assert ledger.outcome(prepared[1], 1.0) == [Go("g", ("u0", "u1"))]
