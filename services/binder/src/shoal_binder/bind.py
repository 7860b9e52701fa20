"""Carry out a decision: what to do next, from what is known. Pure.

========================  ==================================================================
known                     next
========================  ==================================================================
delivered                 post, with the version that the leader saw
posted: done              bound
posted: conflict          look (at the pod, then at the decision), then judge
posted: no answer         look, then judge: it may be bound
posted: not found         gone
posted: refused           refused
looked, judged            bound, stale, gone, or post again with the version that was read
========================  ==================================================================
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shoal_contracts.decision import Decision, Result
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


class Posted(enum.Enum):
    """The answer to a Binding."""

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
class Look:
    """Read the pod, then the decision's subject."""


@dataclass(frozen=True)
class Finish:
    """It is over."""

    result: Result
    message: str = ""


Step = Post | Look | Finish


def given_up(decision: Decision, mark: str) -> bool:
    """Whether the mark on the pod says that this decision must no longer take effect."""
    if mark == decision.id:
        return True
    kind, _, digits = mark.partition("-")
    before = number(digits) if kind == "before" else None
    return before is not None and decision.epoch < before


def after_post(answer: Posted, message: str = "") -> Step:
    """What follows the answer to a Binding."""
    match answer:
        case Posted.DONE:
            return Finish(Result.BOUND)
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
