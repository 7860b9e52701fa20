"""Evictions: judged before they are carried out, by a binder that may come late."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_binder.app import Config, Service
from shoal_binder.bind import (
    Evict,
    Finish,
    IllegalStep,
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
from shoal_contracts import subjects
from shoal_contracts.base import encode
from shoal_contracts.decision import Decision, GangGo, Outcome, Result, Verb
from shoal_kube.errors import from_response
from shoal_model import labels

EVICTION = Decision(
    id="d-2", epoch=2, verb=Verb.EVICT, uid="u", namespace="ns", pod="p", node="n1", group="g", queue="q", resource_version="7"
)
BINDING = msgspec.structs.replace(EVICTION, verb=Verb.BIND)
STAGED = msgspec.structs.replace(EVICTION, staged=True, gang="gang", gang_size=1)
RUNNING = World(exists=True, uid="u", node="n1", version="9")
BUDGET = "The disruption budget b needs 2 healthy pods and has 2 currently"


@pytest.mark.parametrize(
    ("world", "result"),
    [
        (World(exists=False), Result.GONE),
        (World(exists=True, uid="another", node="n1"), Result.GONE),
        (World(exists=True, uid="u", node="n2"), Result.STALE),
        (World(exists=True, uid="u", node="n1", deleting=True), Result.EVICTED),
        (World(exists=True, uid="u", node="n1", deleting=True, current=False), Result.EVICTED),
        (World(exists=True, uid="u", node="n1", ended=True), Result.GONE),
        (World(exists=True, uid="u", node="n1", given_up="d-2"), Result.STALE),
        (World(exists=True, uid="u", node="n1", given_up="before-3"), Result.STALE),
        (World(exists=True, uid="u", node="n1", current=False), Result.STALE),
    ],
)
def test_what_ends_an_eviction_before_it_is_asked_for(world: World, result: Result) -> None:
    step = judge(EVICTION, world)
    assert isinstance(step, Finish)
    assert step.result is result


def test_an_eviction_is_asked_for_the_version_that_was_judged() -> None:
    assert judge(EVICTION, RUNNING) == Evict("9")
    assert judge(EVICTION, World(exists=True, uid="u", version="9", given_up="d-1")) == Evict("9")


@pytest.mark.parametrize("answer", Posted)
@pytest.mark.parametrize("dry_run", [True, False])
def test_every_answer_to_an_eviction_is_legal_and_none_binds(answer: Posted, dry_run: bool) -> None:
    follow(STAGED, Evict("1"), after_eviction(answer, "why", dry_run=dry_run))
    with pytest.raises(IllegalStep):
        follow(STAGED, Evict("1"), Finish(Result.BOUND))


@pytest.mark.parametrize(
    ("decision", "before", "after"),
    [
        (EVICTION, None, Evict("1")),
        (EVICTION, None, Post("1")),
        (EVICTION, Look(), Post("1")),
        (EVICTION, Evict("1"), Evict("1")),
        (EVICTION, Evict("1"), Finish(Result.PREPARED)),
        (EVICTION, Finish(Result.STALE), Look()),
        (BINDING, Look(), Evict("1")),
        (BINDING, Post("1"), Post("1")),
        (BINDING, Post("1"), Finish(Result.EVICTED)),
        (BINDING, Finish(Result.BOUND), Post("1")),
    ],
)
def test_illegal_steps_raise(decision: Decision, before: Step | None, after: Step) -> None:
    with pytest.raises(IllegalStep, match="d-2"):
        follow(decision, before, after)


def test_bindings_go_through_their_own_table() -> None:
    for answer in Posted:
        follow(BINDING, Post("1"), after_post(answer))


class Api:
    """The pod that the API holds, and what it is asked; answers to evictions can be put in its way."""

    def __init__(self) -> None:
        self.pod: dict[str, Any] | None = pod()
        self.asked: list[tuple[str, str, bool]] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.meanwhile: Callable[[], None] | None = None

    async def get(self, path: str) -> bytes:
        if self.pod is None:
            raise from_response(404, b"{}", None)
        return msgspec.json.encode(self.pod)

    async def evict(self, namespace: str, name: str, uid: str, version: str = "", *, dry_run: bool = False) -> None:
        if self.meanwhile is not None:
            then, self.meanwhile = self.meanwhile, None
            then()
        self.asked.append((uid, version, dry_run))
        if self.answers:
            status, body = self.answers.pop(0)
            raise from_response(status, msgspec.json.encode(body), None)
        if self.pod is None:
            raise from_response(404, b"{}", None)
        meta = self.pod["metadata"]
        if meta["uid"] != uid or (version and meta["resourceVersion"] != version):
            raise from_response(409, b'{"reason": "Conflict"}', None)
        if not dry_run:
            self.pod = None


class Shelf:
    """The stream: the last decision of the pod, and the outcomes written."""

    def __init__(self) -> None:
        self.stored: Decision | None = EVICTION
        self.seq = 5
        self.outcomes: list[Outcome] = []

    async def last(self, stream: str, subject: str) -> Any:
        return self.stored and SimpleNamespace(seq=self.seq, data=encode(self.stored), subject=subject)

    async def publish(self, subject: str, message: Outcome, **_: Any) -> None:
        self.outcomes.append(message)


class Handed:
    """A delivery, and how it ended."""

    def __init__(self, message: Decision | GangGo, delivered: int) -> None:
        self.subject = subjects.gang(message.gang) if isinstance(message, GangGo) else subjects.decision(message.uid)
        self.data, self.seq, self.delivered = encode(message), 5, delivered
        self.headers: dict[str, str] = {}
        self.ends: list[str] = []

    async def ack(self) -> None:
        self.ends.append("ack")

    async def nak(self, delay: float) -> None:
        self.ends.append("nak")

    async def term(self) -> None:
        self.ends.append("term")

    async def in_progress(self) -> None:
        pass


def pod(uid: str = "u", version: str = "9", **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": uid, "resourceVersion": version, **meta},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running"},
    }


class Binder:
    """A binder on such an API and stream."""

    def __init__(self) -> None:
        self.api, self.shelf = Api(), Shelf()
        quiet = SimpleNamespace(**dict.fromkeys(("info", "debug", "warning", "error"), lambda *a, **k: None))
        context = SimpleNamespace(
            config=Config(), bus=self.shelf, log=quiet, identity="b",
            clock=SimpleNamespace(monotonic=lambda: 0.0, now=lambda: 0.0),
        )  # fmt: skip
        mute: Any = SimpleNamespace(event=lambda *a: None, say=lambda *a: None)
        self.service = Service(context, self.api, mute, mute)  # type: ignore[arg-type]

    async def takes(self, message: Decision | GangGo = EVICTION, delivered: int = 1) -> list[Result]:
        handed = Handed(message, delivered)
        await self.service._guarded(handed)  # type: ignore[arg-type]
        assert handed.ends == ["ack"], "a decision that ended is not delivered again"
        return [o.result for o in self.shelf.outcomes]

    @property
    def evictions(self) -> int:
        """Evictions that the API carried out or refused, dry runs aside."""
        return sum(not dry_run for *_, dry_run in self.api.asked)


async def test_a_victim_goes_on_condition_of_uid_and_version() -> None:
    binder = Binder()
    assert await binder.takes() == [Result.EVICTED]
    assert binder.api.asked == [("u", "9", False)]


@pytest.mark.parametrize(
    "late", ["closed", "replaced", "deposed", "given up", "older reign", "made again", "deleting", "gone", "ended", "moved"]
)
@pytest.mark.parametrize("delivered", [1, 3])
@pytest.mark.parametrize("went", [False, True])
async def test_a_late_binder_evicts_nobody(late: str, delivered: int, went: bool) -> None:
    binder = Binder()
    if went:
        binder.shelf.stored = STAGED
    match late:
        case "closed":
            binder.shelf.stored = None
        case "replaced":
            binder.shelf.seq = 6
            binder.shelf.stored = msgspec.structs.replace(binder.shelf.stored or EVICTION, id="d-3", gang="another")
        case "deposed":
            reign = binder.service._reigns.of("default")
            reign.epoch, reign.seq = 9, 1
        case "given up":
            binder.api.pod = pod(annotations={labels.GIVEN_UP: "d-2"})
        case "older reign":
            binder.api.pod = pod(annotations={labels.GIVEN_UP: "before-3"})
        case "made again":
            binder.api.pod = pod(uid="another")
        case "deleting":
            binder.api.pod = pod(deletionTimestamp="2026-01-01T00:00:00Z")
        case "gone":
            binder.api.pod = None
        case "ended":
            binder.api.pod = pod() | {"status": {"phase": "Succeeded"}}
        case _:
            binder.api.pod = pod() | {"spec": {"nodeName": "n2", "containers": []}}
    await binder.takes(GangGo(gang="gang", epoch=2, members=["u"]) if went else EVICTION, delivered)
    assert binder.evictions == 0


async def test_a_mark_that_comes_between_look_and_eviction_wins() -> None:
    binder = Binder()

    def mark() -> None:
        binder.api.pod = pod(version="10", annotations={labels.GIVEN_UP: "d-2"})

    binder.api.meanwhile = mark
    assert await binder.takes() == [Result.STALE]
    assert binder.api.pod is not None


async def test_another_change_between_look_and_eviction_does_not_stop_it() -> None:
    binder = Binder()

    def change() -> None:
        binder.api.pod = pod(version="10")

    binder.api.meanwhile = change
    assert await binder.takes() == [Result.EVICTED]
    assert binder.api.asked == [("u", "9", False), ("u", "10", False)]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, {"message": "no", "details": {"causes": [{"reason": "DisruptionBudget", "message": BUDGET}]}}, BUDGET),
        (429, {"message": "Cannot evict pod as it would violate the pod's disruption budget."}, "disruption budget"),
        (500, {"message": "This pod has more than one PodDisruptionBudget"}, "more than one PodDisruptionBudget"),
        (500, {"message": "Internal error occurred"}, "Internal error"),
        (403, {"reason": "Forbidden", "message": "not allowed"}, "not allowed"),
        (422, {"reason": "Invalid", "message": "odd"}, "odd"),
        (400, {"message": "bad"}, "bad"),
        (405, {"message": "method"}, "method"),
    ],
)
async def test_what_the_api_refuses_ends_the_decision(status: int, body: dict[str, Any], message: str) -> None:
    binder = Binder()
    binder.api.answers = [(status, body)]
    assert await binder.takes() == [Result.REFUSED]
    assert message in binder.shelf.outcomes[0].message
    assert len(binder.api.asked) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_pass_is_tried_again_but_not_for_ever(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        pass

    monkeypatch.setattr("shoal_binder.app.asyncio.sleep", at_once)
    binder = Binder()
    binder.api.answers = [(status, {"message": "later"})] * 3
    assert await binder.takes() == [Result.EVICTED]
    binder = Binder()
    binder.api.answers = [(status, {"message": "later"})] * 100
    assert await binder.takes() == [Result.REFUSED]
    assert len(binder.api.asked) == Config().attempts


async def test_a_staged_victim_is_tried_by_dry_run_and_goes_when_all_may() -> None:
    binder = Binder()
    binder.shelf.stored = STAGED
    assert await binder.takes(STAGED) == [Result.PREPARED]
    assert (binder.evictions, binder.api.pod is None) == (0, False)
    assert await binder.takes(GangGo(gang="gang", epoch=2, members=["u"])) == [Result.PREPARED, Result.EVICTED]
    assert binder.api.asked == [("u", "9", True), ("u", "9", False)]


class Bindings(Api):
    """Bindings are asked for as evictions are, of a pod that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.pod = pod() | {"spec": {"containers": []}, "status": {"phase": "Pending"}}

    async def bind(self, namespace: str, name: str, uid: str, version: str, *_: Any, dry_run: bool = False) -> None:
        await self.evict(namespace, name, uid, version, dry_run=dry_run)


def binding(**more: Any) -> tuple[Binder, Decision]:
    binder = Binder()
    binder.api = Bindings()
    binder.service._kube = binder.api  # type: ignore[assignment]
    decision = msgspec.structs.replace(STAGED, verb=Verb.BIND, resource_version="9", **more)
    binder.shelf.stored = decision
    return binder, decision


async def test_a_member_of_a_staged_gang_is_tried_and_bound_when_all_can_be() -> None:
    binder, decision = binding()
    assert await binder.takes(decision) == [Result.PREPARED]
    assert binder.api.pod is not None
    assert await binder.takes(GangGo(gang="gang", epoch=2, members=["u"])) == [Result.PREPARED, Result.BOUND]
    assert binder.api.asked == [("u", "9", True), ("u", "9", False)]


async def test_a_member_whose_binding_would_be_refused_is_not_prepared() -> None:
    binder, decision = binding()
    binder.api.answers = [(422, {"reason": "Invalid", "message": "a policy says no"})]
    assert await binder.takes(decision) == [Result.REFUSED]
    assert "a policy says no" in binder.shelf.outcomes[0].message


@pytest.mark.parametrize("verb", Verb)
async def test_what_no_dry_run_can_ask_is_done_to_know_it(verb: Verb) -> None:
    binder, decision = binding() if verb is Verb.BIND else (Binder(), STAGED)
    binder.shelf.stored = decision
    why = 'admission webhook "w.example.com" does not support dry run'
    binder.api.answers = [(400, {"reason": "BadRequest", "message": why})]
    assert await binder.takes(decision) == [Result.PREPARED]
    binder.api.answers = [(400, {"reason": "BadRequest", "message": why})]
    assert (await binder.takes(GangGo(gang="gang", epoch=2, members=["u"])))[-1] is Result.REFUSED


class Many(Api):
    """Several pods; those of ``guarded`` can't go."""

    def __init__(self, names: list[str], guarded: set[str]) -> None:
        super().__init__()
        self.pods, self.guarded, self.order = set(names), guarded, list[str]()

    async def get(self, path: str) -> bytes:
        name = path.rpartition("/")[2]
        found = pod(uid=name)
        found["metadata"]["name"] = name
        return msgspec.json.encode(found)

    async def evict(self, namespace: str, name: str, uid: str, version: str = "", *, dry_run: bool = False) -> None:
        assert not dry_run
        self.order.append(name)
        if name in self.guarded:
            body = {"message": "no", "details": {"causes": [{"reason": "DisruptionBudget", "message": BUDGET}]}}
            raise from_response(429, msgspec.json.encode(body), None)


@pytest.mark.parametrize(
    ("guarded", "asked", "refused"),
    [
        (set(), ["b1", "b2", "a", "c"], []),
        ({"b1"}, ["b1"], ["a", "b1", "b2", "c"]),
        ({"b2"}, ["b1", "b2"], ["a", "b2", "c"]),
    ],
)
async def test_victims_under_budgets_go_first_one_by_one_and_a_refusal_spares_the_rest(
    guarded: set[str], asked: list[str], refused: list[str]
) -> None:
    names = ["a", "b2", "c", "b1"]
    stored = {
        subjects.decision(n): msgspec.structs.replace(
            STAGED, id=n, uid=n, pod=n, gang_size=4, budget=f"ns/{n}" if n.startswith("b") else ""
        )
        for n in names
    }
    binder = Binder()
    api = Many(names, guarded)
    binder.service._kube = api  # type: ignore[assignment]

    async def last(_: str, subject: str) -> Any:
        return SimpleNamespace(seq=5, data=encode(stored[subject]), subject=subject)

    binder.shelf.last = last  # type: ignore[method-assign]
    await binder.takes(GangGo(gang="gang", epoch=2, members=names))
    assert api.order == asked
    outcomes = {o.uid: o for o in binder.shelf.outcomes}
    assert sorted(uid for uid, o in outcomes.items() if o.result is Result.REFUSED) == refused
    assert all(BUDGET in outcomes[uid].message for uid in refused)
    assert len(binder.shelf.outcomes) == len(names)
