"""The leader's book of open decisions. Pure: events in, instructions out.

A decision is open from its commit until the API agrees with it or it is given up. Until then its room counts as taken.

=============  =====================================================  =================================================
phase          ends by                                                then
=============  =====================================================  =================================================
COMMITTING     committed / not_committed                              OPEN / forgotten
OPEN           outcome bound, evicted; outcome stale, gone; the API   AGREED; closed; closed; GIVING_UP (a refused pod is
               shows it; outcome refused, or expiry                   held back a while before it is decided anew)
AGREED         the API shows the pod on a node, being deleted, or     closed; GIVING_UP
               gone; expiry
GIVING_UP      the pod was touched; it is gone; it is bound (of a     closed and decided anew; closed; AGREED;
               binding alone); the API did not answer                 RETRY_TOUCH
RETRY_TOUCH    a second has passed; the API shows it                  GIVING_UP; closed
=============  =====================================================  =================================================

``TRANSITIONS`` has the phases that may follow each other, for bindings and for evictions; any other raises.

To give up a decision, the pod's resourceVersion is changed first (``Touch``): from then on a late POST of the decision
fails. Only then is the record closed and the room free.

A staged gang is whole until it goes: if one member is refused, gone or given up before, all are given up. All victims
that go for one workload are such a gang as well: prepared means that a dry run let the pod go.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal_contracts.decision import Decision, Outcome, Result, Verb

FIRST_HOLD = 0.2
LONGEST_HOLD = 60.0
FORGIVEN = 600.0
"""Seconds after which a refused eviction is forgotten: the next pause is the shortest again."""
TOUCH_AGAIN = 1.0
"""Seconds after which a pod is touched again where the API did not answer."""
TEXT = 300
"""Characters that are kept of a refusal."""
MARKER_TTL = 10.0
"""Seconds that a closed decision's marker stands in the stream: a new leader reads all of them."""


class Phase(enum.Enum):
    """Where an open decision stands."""

    COMMITTING = enum.auto()
    OPEN = enum.auto()
    AGREED = enum.auto()
    GIVING_UP = enum.auto()
    RETRY_TOUCH = enum.auto()


_ENDING = (Phase.GIVING_UP, Phase.RETRY_TOUCH)
TRANSITIONS: dict[Verb, dict[Phase, tuple[Phase, ...]]] = {
    Verb.BIND: {
        Phase.COMMITTING: (Phase.OPEN, Phase.AGREED, Phase.GIVING_UP),
        Phase.OPEN: (Phase.AGREED, Phase.GIVING_UP),
        Phase.AGREED: (Phase.GIVING_UP,),
        Phase.GIVING_UP: (Phase.AGREED, Phase.RETRY_TOUCH),
        Phase.RETRY_TOUCH: (Phase.GIVING_UP,),
    },
    Verb.EVICT: {
        Phase.COMMITTING: (Phase.OPEN, Phase.AGREED, Phase.GIVING_UP),
        Phase.OPEN: (Phase.AGREED, Phase.GIVING_UP),
        Phase.AGREED: (Phase.GIVING_UP,),
        # A touch that finds the pod running says that it was not evicted.
        Phase.GIVING_UP: (Phase.RETRY_TOUCH,),
        Phase.RETRY_TOUCH: (Phase.GIVING_UP,),
    },
}
"""By what a decision is about: phase -> phases that may follow."""
RESULTS = {
    Verb.BIND: frozenset(Result) - {Result.EVICTED},
    Verb.EVICT: frozenset(Result) - {Result.BOUND},
}
"""How a decision may come out."""
STORY = 16
"""Last phases that an entry remembers."""


class IllegalTransition(Exception):
    """A decision would come to where it can't: a mistake of the suite, not of the world."""


@dataclass
class Entry:
    """An open decision. ``seq`` is its sequence in the stream, ``since`` the monotonic time of its phase."""

    decision: Decision
    phase: Phase
    since: float
    seq: int = 0
    hold: float = 0.0
    """Seconds for which the pod is held back once the decision is closed."""
    refused: bool = False
    patience: float = 0.0
    """Seconds without an outcome after which it is given up."""
    why: str = ""
    """What was said when it was refused."""
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY))
    """The phases that it left."""

    def move(self, phase: Phase, now: float | None = None) -> None:
        """To another phase, from ``now`` on. Raises IllegalTransition."""
        if phase not in TRANSITIONS[self.decision.verb][self.phase]:
            raise self.illegal(phase.name)
        self.story.append(self.phase.name)
        self.phase = phase
        self.since = self.since if now is None else now

    def illegal(self, what: str) -> IllegalTransition:
        """The error that tells what can't be, and what came before."""
        decision, story = self.decision, " > ".join([*self.story, self.phase.name])
        where = f"pod {decision.namespace}/{decision.pod} ({decision.uid}), sequence {self.seq}"
        return IllegalTransition(f"{decision.verb} {decision.id} of {where}: {what} after {story}")


@dataclass(frozen=True)
class Assume:
    """Count the pod as placed on ``node``, with a part of the shared GPUs ``groups``."""

    uid: str
    node: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class AssumeGone:
    """Count the pod as leaving its node."""

    uid: str


@dataclass(frozen=True)
class Forget:
    """Count what the pod's record says."""

    uid: str


@dataclass(frozen=True)
class Close:
    """Replace the record (if it is still ``seq``) by a marker."""

    uid: str
    seq: int


@dataclass(frozen=True)
class Touch:
    """Change the pod's resourceVersion, naming the decision; tell ``touched`` how it went."""

    decision: Decision


@dataclass(frozen=True)
class Hold:
    """Place the pod again only after so many seconds."""

    uid: str
    seconds: float
    refused: bool = False
    """Its binding was refused; else it is another pod by now, or its news are on their way."""


@dataclass(frozen=True)
class Backoff:
    """Choose the pod as a victim again only after so many seconds; ``why``: what was said of its eviction."""

    uid: str
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Go:
    """All members of a staged gang are prepared: let it go."""

    gang: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class StartFailed:
    """A member of the group was refused, and others of the same start may run: they go, unless the group is whole."""

    namespace: str
    group: str


Instruction = Assume | AssumeGone | Forget | Close | Touch | Hold | Backoff | Go | StartFailed


class Ledger:
    """Open decisions by pod UID."""

    def __init__(self, expiry: float, preparation: float = 60.0, provisioning: float = 150.0) -> None:
        self._expiry, self._preparation, self._provisioning = expiry, preparation, provisioning
        self.entries: dict[str, Entry] = {}
        self.last: dict[str, int] = {}
        """Pod UID -> last sequence of its subject, for the next decision's condition."""
        self._markers: deque[tuple[float, str, int]] = deque()
        """When markers have vanished for sure."""
        self._holds: dict[str, float] = {}
        self._backoffs: dict[str, tuple[float, float]] = {}
        """Uid of a pod that was not evicted -> (seconds of the next pause, when)."""
        self._gangs: dict[str, dict[str, bool]] = {}
        """Staged gangs that have not gone: uid of each member -> whether it is prepared."""

    def expected(self, uid: str) -> int:
        """The sequence that the pod's subject should have; 0: none."""
        return self.last.get(uid, 0)

    def goes(self, uid: str, gang: str) -> bool:
        """Whether the pod's decision is open, of this gang, and not given up."""
        entry = self.entries.get(uid)
        return entry is not None and entry.decision.gang == gang and entry.phase in (Phase.OPEN, Phase.COMMITTING)

    def is_open(self, uid: str) -> bool:
        """Whether a decision on the pod is open."""
        return uid in self.entries

    def decision(self, uid: str) -> Decision | None:
        """The pod's open decision."""
        entry = self.entries.get(uid)
        return entry.decision if entry else None

    # commit

    def decided(self, decisions: Iterable[Decision], now: float) -> list[Instruction]:
        """These are being committed. A staged gang one of whose members is decided anew (evicted) does not go."""
        decisions = list(decisions)
        found: list[Instruction] = []
        for decision in decisions:
            if old := self.entries.get(decision.uid):
                found += self._break(old.decision)
        slow = {d.gang for d in decisions if d.staged and d.volumes}
        for decision in decisions:
            self._enter(Entry(decision, Phase.COMMITTING, now), decision.staged, decision.gang in slow)
        return found

    def _enter(self, entry: Entry, staged: bool, slow: bool) -> None:
        """``slow``: a member of its gang waits for volumes, or may do so."""
        decision = entry.decision
        self.entries[decision.uid] = entry
        if decision.volumes or slow:
            entry.patience = self._provisioning
        else:
            entry.patience = self._preparation if staged or decision.gpu_groups else self._expiry
        if staged:
            self._gangs.setdefault(decision.gang, {})[decision.uid] = False

    def committed(self, uid: str, seq: int, now: float) -> list[Instruction]:
        """The decision is stored. It may be over already: its outcome, or the API, can be faster than the answer."""
        entry = self.entries.get(uid)
        if entry is None:
            return [Close(uid, seq)]
        entry.seq = self.last[uid] = seq
        if entry.phase is Phase.COMMITTING:
            entry.move(Phase.OPEN, now)
        return []

    def not_committed(self, uid: str, last: int | None = None) -> list[Instruction]:
        """The decision was refused and is not stored; ``last`` is its subject's last sequence, where it was read."""
        if last is not None:
            self.last[uid] = last
        entry = self.entries.pop(uid, None)
        return [Forget(uid), *(self._break(entry.decision) if entry else ())]

    # takeover

    def adopt(self, decision: Decision, seq: int, now: float, went: bool = False) -> list[Instruction]:
        """A decision that the stream holds at takeover is ours now. ``went``: its gang was let go before."""
        self.last[decision.uid] = seq
        self._enter(Entry(decision, Phase.OPEN, now, seq), decision.staged and not went, decision.staged)
        if decision.verb is Verb.EVICT:
            return [AssumeGone(decision.uid)]
        return [Assume(decision.uid, decision.node, tuple(decision.gpu_groups))]

    def adopted(self) -> list[Instruction]:
        """All that the stream holds was adopted: a staged gang of which members are missing is given up."""
        found: list[Instruction] = []
        for members in list(self._gangs.values()):
            one = self.entries[next(iter(members))]
            if len(members) < one.decision.gang_size:
                found += self._give_up(one)
        return found

    def stream_lost(self) -> list[Instruction]:
        """The stream came back empty: binders may still post what it held, so every open decision is given up."""
        self.last.clear()
        found: list[Instruction] = []
        for entry in self.entries.values():
            entry.seq = 0
            if entry.phase not in _ENDING:
                found += self._give_up(entry)
        return found

    # what happens

    def outcome(self, found: Outcome, now: float) -> list[Instruction]:
        """A binder says what became of a decision. About any other than the open one it says nothing.

        Raises IllegalTransition if no such decision can come out so.
        """
        entry = self.entries.get(found.uid)
        if entry is None or entry.decision.id != found.decision:
            return []
        if found.result not in RESULTS[entry.decision.verb]:
            raise entry.illegal(f"outcome {found.result}")
        match found.result:
            case Result.PREPARED:
                return self._prepared(entry.decision, now)
            case Result.BOUND | Result.EVICTED:
                if entry.phase in (Phase.OPEN, Phase.COMMITTING):
                    entry.move(Phase.AGREED, now)
                    entry.patience = self._expiry
                return []
            case Result.REFUSED:
                if not entry.refused:
                    self._hold(entry, now)
                entry.refused, entry.why = True, found.message
                if entry.phase in _ENDING:
                    return []
                decision = entry.decision
                partly = decision.begins and decision.gang not in self._gangs
                # Another binder may still have the decision in its hands: the room is free only after a touch.
                return [*([StartFailed(decision.namespace, decision.group)] if partly else ()), *self._give_up(entry)]
            case Result.STALE | Result.GONE:
                self._hold(entry, now)
                entry.why = found.message
                return self._close(found.uid)

    def _hold(self, entry: Entry, now: float) -> None:
        """The pod is held back once the decision is closed, longer each time."""
        uid = entry.decision.uid
        if entry.decision.verb is Verb.EVICT:
            # What runs is seen all the time: only a long while without a refusal makes the pause short again.
            pause, since = self._backoffs.get(uid, (FIRST_HOLD, now))
            entry.hold = pause if now - since < FORGIVEN else FIRST_HOLD
            self._backoffs[uid] = (min(LONGEST_HOLD, entry.hold * 2), now)
            return
        entry.hold = self._holds.get(uid, FIRST_HOLD)
        self._holds[uid] = min(LONGEST_HOLD, entry.hold * 2)

    def _prepared(self, decision: Decision, now: float) -> list[Instruction]:
        members = self._gangs.get(decision.gang)
        if members is None:
            return []
        members[decision.uid] = True
        if not all(members.values()):
            return []
        del self._gangs[decision.gang]
        for uid in members:
            entry = self.entries[uid]
            entry.since, entry.patience = now, self._expiry
        return [Go(decision.gang, tuple(members))]

    def _give_up(self, entry: Entry) -> list[Instruction]:
        entry.move(Phase.GIVING_UP)
        return [Touch(entry.decision), *self._break(entry.decision)]

    def _break(self, decision: Decision) -> list[Instruction]:
        """A member of a staged gang can't start: neither can the others, if they have not gone yet."""
        members = self._gangs.pop(decision.gang, {}) if decision.gang else {}
        others = [self.entries[uid] for uid in members if uid != decision.uid]
        return [i for entry in others if entry.phase not in _ENDING for i in self._give_up(entry)]

    def seen(self, uid: str, node: str, deleted: bool = False) -> list[Instruction]:
        """The API shows the pod on ``node`` ("": on none), being ``deleted`` or not."""
        entry = self.entries.get(uid)
        if entry is not None and entry.decision.verb is Verb.EVICT:
            return self._close(uid) if deleted else []
        if not node:
            return []
        self._holds.pop(uid, None)
        return self._close(uid) if uid in self.entries else []

    def gone(self, uid: str) -> list[Instruction]:
        """The API shows that the pod is deleted."""
        self._holds.pop(uid, None)
        self._backoffs.pop(uid, None)
        found = self._close(uid) if uid in self.entries else []
        self.last.pop(uid, None)
        return found

    def tick(self, now: float) -> list[Instruction]:
        """Give up what has been open for too long, and forget markers that have vanished."""
        while self._markers and self._markers[0][0] < now:
            _, uid, seq = self._markers.popleft()
            if self.last.get(uid) == seq:
                del self.last[uid]
        found: list[Instruction] = []
        for entry in self.entries.values():
            waits = {Phase.OPEN: entry.patience, Phase.AGREED: entry.patience, Phase.RETRY_TOUCH: TOUCH_AGAIN}.get(entry.phase)
            if waits is not None and now - entry.since > waits:
                found += self._give_up(entry)
        return found

    def touched(self, decision: Decision, node: str | None, now: float) -> list[Instruction]:
        """The pod was touched and had ``node`` then ("": none); None: it is gone, or another pod now."""
        entry = self.entries.get(decision.uid)
        if entry is None or entry.decision.id != decision.id or entry.phase is not Phase.GIVING_UP:
            return []
        if node == entry.decision.node and entry.decision.verb is Verb.BIND:
            # It was bound after all: the API will show it.
            entry.move(Phase.AGREED, now)
            entry.patience = self._expiry
            return []
        return self._close(decision.uid)

    def not_touched(self, decision: Decision, now: float) -> list[Instruction]:
        """The API did not answer: try again in a second."""
        entry = self.entries.get(decision.uid)
        if entry is not None and entry.decision.id == decision.id and entry.phase is Phase.GIVING_UP:
            entry.move(Phase.RETRY_TOUCH, now)
        return []

    def _close(self, uid: str) -> list[Instruction]:
        entry = self.entries.pop(uid)
        found: list[Instruction] = [Forget(uid)]
        if entry.seq:
            found.append(Close(uid, entry.seq))
        if entry.hold and entry.decision.verb is Verb.EVICT:
            found.append(Backoff(uid, entry.hold, entry.why[:TEXT]))
        elif entry.hold:
            found.append(Hold(uid, entry.hold, entry.refused))
        return found + self._break(entry.decision)

    def closed(self, uid: str, seq: int, now: float) -> None:
        """The record was replaced by a marker with this sequence."""
        if uid in self.last:
            self.marked(uid, seq, now)

    def marked(self, uid: str, seq: int, now: float) -> None:
        """A marker stands in the pod's subject, and vanishes."""
        self.last[uid] = seq
        self._markers.append((now + MARKER_TTL + 1.0, uid, seq))
