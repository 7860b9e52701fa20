"""The reflector against answers that a real API server gives only by chance."""

from __future__ import annotations

import asyncio
from typing import Any

from shoal_kube import Bad, Deleted, Denied, Kube, KubeConfig, Put, Reflector, Synced
from shoal_kube.reflector import INITIAL_END
from shoal_kube.resources import NODES
from shoal_model.objects import Node
from shoal_testkit.scripted_api import Answer, Script, status_object


def node(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid or f"u-{name}", "resourceVersion": str(version)}}


def event(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": found}


def bookmark(version: int, end: bool = False) -> dict[str, Any]:
    notes = {"annotations": {INITIAL_END: "true"}} if end else {}
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version), **notes}})


async def told(script: Script, count: int, limit: float = 10.0) -> list[str]:
    """The first ``count`` things the reflector tells, short: +name@version, -name, =version, !key."""
    found: list[str] = []
    async with Kube.connect(KubeConfig(str(script.kubeconfig), patience=0.3)) as kube, asyncio.timeout(limit):
        async for news in Reflector(kube, NODES, Node).run():
            match news:
                case Put():
                    found.append(f"+{news.key[1]}@{news.version}")
                case Deleted():
                    found.append(f"-{news.key[1]}")
                case Synced():
                    found.append(f"={news.version}")
                case Bad():
                    found.append(f"!{'/'.join(news.key) if news.key else '?'}@{news.version}")
                case Denied():
                    found.append("denied")
            if len(found) == count:
                return found
    raise AssertionError(found)


async def test_a_streamed_list_then_a_watch(script: Script) -> None:
    script.answers["GET stream"] = [
        Answer(lines=[event("ADDED", node("a", 1)), event("ADDED", node("b", 2)), bookmark(5, end=True)])
    ]
    script.answers["GET watch"] = [
        Answer(lines=[event("MODIFIED", node("a", 6)), event("DELETED", node("b", 7)), bookmark(9)], hang=True)
    ]
    assert await told(script, 6) == ["+a@1", "+b@2", "=5", "+a@6", "-b", "=9"]
    assert "resourceVersion=5" in script.asked[1][1]


async def test_what_is_deleted_while_it_is_listed_is_not_there(script: Script) -> None:
    lines = [event("ADDED", node("a", 1)), event("ADDED", node("b", 2)), event("DELETED", node("a", 3)), bookmark(5, end=True)]
    script.answers["GET stream"] = [Answer(lines=lines)]
    script.answers["GET watch"] = [Answer(lines=[bookmark(9)], hang=True)]
    assert await told(script, 5) == ["+a@1", "+b@2", "-a", "=5", "=9"]


async def test_a_server_without_streamed_lists_gives_pages(script: Script) -> None:
    script.answers["GET stream"] = [Answer(422, status_object(422, "Invalid"))]
    script.answers["GET list"] = [
        Answer(body={"items": [node("a", 1)], "metadata": {"resourceVersion": "3", "continue": "next"}}),
        Answer(body={"items": [node("b", 2)], "metadata": {"resourceVersion": "3"}}),
    ]
    script.answers["GET watch"] = [Answer(hang=True)]
    assert await told(script, 3) == ["+a@1", "+b@2", "=3"]
    assert "continue=next" in script.asked[2][1]


async def test_a_page_that_is_too_old_begins_the_list_again(script: Script) -> None:
    script.answers["GET stream"] = [Answer(400, status_object(400, "BadRequest"))]
    script.answers["GET list"] = [
        Answer(body={"items": [node("a", 1)], "metadata": {"resourceVersion": "3", "continue": "next"}}),
        Answer(410, status_object(410, "Expired")),
        Answer(body={"items": [node("b", 4)], "metadata": {"resourceVersion": "8"}}),
    ]
    assert await told(script, 4) == ["+a@1", "+b@4", "-a", "=8"]


async def test_after_a_410_the_list_tells_only_what_changed_meanwhile(script: Script) -> None:
    script.answers["GET stream"] = [
        Answer(lines=[event("ADDED", node(n, 1)) for n in "abc"] + [bookmark(5, end=True)]),
        Answer(
            lines=[
                event("ADDED", node("a", 1)),
                event("ADDED", node("b", 8)),
                event("ADDED", node("c", 1, "u-2")),
                bookmark(9, end=True),
            ]
        ),
    ]
    script.answers["GET watch"] = [Answer(lines=[event("ERROR", status_object(410, "Expired"))]), Answer(hang=True)]
    assert (await told(script, 7))[4:] == ["+b@8", "+c@1", "=9"]
    script.answers["GET watch"] = [Answer(410, status_object(410, "Expired")), Answer(hang=True)]
    script.answers["GET stream"] = [
        Answer(lines=[event("ADDED", node("a", 1)), bookmark(5, end=True)]), Answer(lines=[bookmark(9, end=True)]),
    ]  # fmt: skip
    assert await told(script, 4) == ["+a@1", "=5", "-a", "=9"]


async def test_a_list_that_is_cut_is_begun_again_and_deletes_nothing(script: Script) -> None:
    whole = [event("ADDED", node("a", 1)), event("ADDED", node("b", 2))]
    script.answers["GET stream"] = [Answer(lines=whole[:1]), Answer(lines=[*whole, bookmark(5, end=True)])]
    assert await told(script, 3) == ["+a@1", "+b@2", "=5"]


async def test_a_watch_that_is_cut_goes_on_where_it_was(script: Script) -> None:
    script.answers["GET stream"] = [Answer(lines=[bookmark(5, end=True)])]
    script.answers["GET watch"] = [
        Answer(lines=[event("ADDED", node("a", 6))]), Answer(500, status_object(500, "InternalError")), Answer(drop=True),
        Answer(429, status_object(429, "TooManyRequests"), headers={"Retry-After": "1"}),
        Answer(lines=[event("ADDED", node("b", 7))], hang=True),
    ]  # fmt: skip
    assert await told(script, 3) == ["=5", "+a@6", "+b@7"]
    watches = [path for what, path, _ in script.asked if what == "GET watch"]
    assert len(watches) == 5
    assert all("resourceVersion=6" in path for path in watches[1:])


async def test_what_does_not_decode_is_told_with_its_name(script: Script) -> None:
    def bad(version: int) -> dict[str, Any]:
        return {"metadata": {"name": "bad", "resourceVersion": str(version)}, "spec": {"taints": 5}}

    script.answers["GET stream"] = [
        Answer(lines=[event("ADDED", bad(6)), b"[1]", event("ADDED", node("a", 1)), bookmark(5, end=True)])
    ]
    changes = [bad(6), bad(8), node("bad", 9), node("b", 10)]
    script.answers["GET watch"] = [Answer(lines=[*(event("MODIFIED", c) for c in changes), b"{no json"], hang=True)]
    found = await told(script, 8)
    assert found == ["!/bad@6", "!?@", "+a@1", "=5", "!/bad@8", "+bad@9", "+b@10", "!?@"]


async def test_nulls_are_fields_that_are_not_there(script: Script) -> None:
    odd = {
        "metadata": {"name": "a", "resourceVersion": "1", "labels": None},
        "spec": {"taints": [{"key": "k", "value": None, "effect": "NoSchedule"}, None], "unschedulable": None},
        "status": None,
    }
    script.answers["GET stream"] = [Answer(lines=[event("ADDED", odd), bookmark(5, end=True)])]
    assert await told(script, 2) == ["+a@1", "=5"]


async def test_a_watch_that_ends_at_once_is_reopened_after_a_growing_pause(script: Script, monkeypatch: Any) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr("shoal_kube.reflector.asyncio.sleep", sleep)
    script.answers["GET stream"] = [Answer(lines=[bookmark(5, end=True)])]
    script.answers["GET watch"] = [Answer(body=b"".decode())] * 5 + [Answer(lines=[event("ADDED", node("a", 6))], hang=True)]
    assert await told(script, 2) == ["=5", "+a@6"]
    waits = [p for p in pauses if p >= 0.1]
    assert len(waits) >= 5
    assert waits[4] > 2 * waits[0]


async def test_a_kind_that_may_not_be_read_is_told_once(script: Script) -> None:
    refused = Answer(403, status_object(403, "Forbidden"))
    script.answers["GET stream"] = [refused, refused, Answer(lines=[bookmark(5, end=True)])]
    assert await told(script, 2) == ["denied", "=5"]
