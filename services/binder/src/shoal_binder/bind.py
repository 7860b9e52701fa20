"""Carry out a decision: what to do next, from what is known. Pure.

Of a binding:

========================  ==================================================================
known                     next
========================  ==================================================================
delivered                 post, with the version that the leader saw
posted: done              bound; prepared, where it was asked by dry run for a staged gang
posted: conflict          look (at the pod, then at the decision), then judge
posted: no answer         look, then judge: it may be bound
posted: not found         gone
posted: refused           refused
looked, judged            bound, stale, gone, or post again with the version that was read
========================  ==================================================================

Of an eviction:

========================  ==================================================================
known                     next
========================  ==================================================================
delivered                 look (at the pod, then at the decision), then judge
looked, judged            evicted (it is being deleted), stale, gone, or evict the pod of the version that was read
asked: done               evicted; prepared, where it was asked by dry run for a staged gang
asked: conflict           look, then judge: a mark may stand on the pod by now
asked: no answer          look, then judge: it may be evicted
asked: not found          gone
asked: refused            refused
========================  ==================================================================

A leader gives a decision up by a mark on the pod, which changes its version: of the mark and what the binder does,
the API takes the one that comes first.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shoal_contracts.decision import Decision, Result, Verb
from shoal_model.quantity import number


@dataclass(frozen=True)
class World:
    """The pod as it was read, and whether the decision was still its subject's last message afterwards."""

    exists: bool
    uid: str = ""
    node: str = ""
    version: str = ""
    deleting: bool = False
    given_up: str = ""
    """The annotation by which a leader gives up decisions."""
    current: bool = True
    ended: bool = False
    """Its containers have ended for good: Succeeded or Failed."""


class Posted(enum.Enum):
    """The answer to a Binding, or to an eviction."""

    DONE = enum.auto()
    CONFLICT = enum.auto()
    NOT_FOUND = enum.auto()
    REFUSED = enum.auto()
    NO_ANSWER = enum.auto()


@dataclass(frozen=True)
class Post:
    """Post the Binding on condition of this version."""

    version: str


@dataclass(frozen=True)
class Evict:
    """Evict the pod on condition of this version."""

    version: str


@dataclass(frozen=True)
class Look:
    """Read the pod, then the decision's subject."""


@dataclass(frozen=True)
class Finish:
    """It is over."""

    result: Result
    message: str = ""


Step = Post | Evict | Look | Finish

NEXT: dict[Verb, dict[type[Step] | None, tuple[type[Step], ...]]] = {
    Verb.BIND: {None: (Post, Look, Finish), Look: (Post, Look, Finish), Post: (Look, Finish)},
    Verb.EVICT: {None: (Look, Finish), Look: (Evict, Finish), Evict: (Look, Finish)},
}
"""By what a decision is about: which step may follow which; None: what may come first."""
RESULTS = {
    Verb.BIND: frozenset(Result) - {Result.EVICTED},
    Verb.EVICT: frozenset(Result) - {Result.BOUND},
}
"""How a decision may end."""


class IllegalStep(Exception):
    """A step that must never follow the one before: a mistake of ours, not of the world."""


def follow(decision: Decision, before: Step | None, after: Step) -> Step:
    """``after``, if it may follow ``before`` (None: nothing was done yet). Raises IllegalStep."""
    allowed = NEXT[decision.verb].get(type(before) if before is not None else None, ())
    if not isinstance(after, allowed):
        raise IllegalStep(f"{decision.verb} {decision.id}: {after} after {before}")
    if isinstance(after, Finish):
        staged = after.result is not Result.PREPARED or decision.staged
        if after.result not in RESULTS[decision.verb] or not staged:
            raise IllegalStep(f"{decision.verb} {decision.id} can't end as {after.result}")
    return after


def given_up(decision: Decision, mark: str) -> bool:
    """Whether the mark on the pod says that this decision must no longer take effect."""
    if mark == decision.id:
        return True
    kind, _, digits = mark.partition("-")
    before = number(digits) if kind == "before" else None
    return before is not None and decision.epoch < before


def after_post(answer: Posted, message: str = "", *, dry_run: bool = False) -> Step:
    """What follows the answer to a Binding; ``dry_run``: it was only asked whether the pod can be bound."""
    match answer:
        case Posted.DONE:
            return Finish(Result.PREPARED if dry_run else Result.BOUND)
        case Posted.NOT_FOUND:
            return Finish(Result.GONE, "the pod is gone")
        case Posted.REFUSED:
            return Finish(Result.REFUSED, message)
        case Posted.CONFLICT | Posted.NO_ANSWER:
            return Look()


def after_eviction(answer: Posted, message: str = "", *, dry_run: bool = False) -> Step:
    """What follows the answer to an eviction; ``dry_run``: it was only asked whether the pod may go."""
    match answer:
        case Posted.DONE:
            return Finish(Result.PREPARED if dry_run else Result.EVICTED)
        case Posted.NOT_FOUND:
            return Finish(Result.GONE, "the pod is gone")
        case Posted.REFUSED:
            return Finish(Result.REFUSED, message)
        case Posted.CONFLICT | Posted.NO_ANSWER:
            return Look()


def judge(decision: Decision, world: World) -> Step:
    """What follows a look at the world. A newer version alone is not stale."""
    if not world.exists:
        return Finish(Result.GONE, "the pod is gone")
    if world.uid != decision.uid:
        return Finish(Result.GONE, "another pod has its name")
    if decision.verb is Verb.EVICT:
        return _judge_eviction(decision, world)
    if world.node:
        if world.node == decision.node:
            return Finish(Result.BOUND)
        return Finish(Result.STALE, f"the pod is bound to {world.node}")
    if world.deleting:
        return Finish(Result.GONE, "the pod is being deleted")
    if given_up(decision, world.given_up):
        return Finish(Result.STALE, "the decision was given up")
    if not world.current:
        return Finish(Result.STALE, "another decision has replaced it")
    return Post(world.version)


def _judge_eviction(decision: Decision, world: World) -> Step:
    if world.deleting:
        return Finish(Result.EVICTED)
    if world.ended:
        return Finish(Result.GONE, "the pod has ended")
    if world.node and decision.node and world.node != decision.node:
        return Finish(Result.STALE, f"the pod runs on {world.node}")
    if given_up(decision, world.given_up):
        return Finish(Result.STALE, "the decision was given up")
    if not world.current:
        return Finish(Result.STALE, "another decision has replaced it")
    return Evict(world.version)
