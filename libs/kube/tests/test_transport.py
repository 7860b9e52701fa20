"""Requests: what is tried again, what is not, and what the caller learns."""

from __future__ import annotations

import pytest

from shoal_kube import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Kube,
    KubeConfig,
    KubeError,
    NotFound,
    NotLeading,
    Throttled,
    Unreachable,
)  # fmt: skip
from shoal_kube.errors import Gone, Invalid, from_response
from shoal_testkit.scripted_api import Answer, Script, status_object

BIND = "POST /api/v1/namespaces/ns/pods/p/binding"


def connect(script: Script):
    return Kube.connect(KubeConfig(str(script.kubeconfig), "test", patience=1.0))


async def test_what_may_be_repeated_is_tried_again(script: Script) -> None:
    script.answers["GET /x"] = [Answer(500, status_object(500, "InternalError")), Answer(drop=True), Answer(body={"ok": 1})]
    async with connect(script) as kube:
        assert await kube.get("/x") == b'{"ok": 1}'


async def test_patience_ends(script: Script) -> None:
    script.answers["GET /x"] = [Answer(503, status_object(503, "Unavailable"))]
    async with connect(script) as kube:
        with pytest.raises(Unreachable):
            await kube.get("/x")
    assert len(script.asked) >= 2


async def test_a_post_without_an_answer_is_not_repeated(script: Script) -> None:
    script.answers["POST /x"] = [Answer(drop=True), Answer(body={})]
    async with connect(script) as kube:
        with pytest.raises(Unreachable):
            await kube.post("/x", {})
    # aiohttp itself does not repeat it either.
    assert len(script.asked) == 1


async def test_a_throttled_post_is_repeated_after_the_time_that_was_told(script: Script) -> None:
    throttled = status_object(429, "TooManyRequests") | {"details": {"retryAfterSeconds": 0.2}}
    script.answers["POST /x"] = [Answer(429, throttled), Answer(body={"done": True})]
    async with connect(script) as kube:
        assert b"done" in await kube.post("/x", {})


async def test_a_binding_has_its_preconditions_and_annotations(script: Script) -> None:
    script.answers[BIND] = [Answer(201, {})]
    async with connect(script) as kube:
        await kube.bind("ns", "p", "u", "7", "n", {"a": "b"})
    body = script.asked[0][2]
    assert body["metadata"] == {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", "annotations": {"a": "b"}}
    assert body["target"]["name"] == "n"


async def test_an_eviction_is_asked_for_by_uid(script: Script) -> None:
    script.answers["POST /api/v1/namespaces/ns/pods/p/eviction"] = [
        Answer(429, status_object(429, "TooManyRequests", "budget"))
    ]
    async with connect(script) as kube:
        with pytest.raises(Throttled, match="budget"):
            await kube.evict("ns", "p", "u", dry_run=True)
    assert script.asked[0][2]["deleteOptions"] == {"preconditions": {"uid": "u"}, "dryRun": ["All"]}


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (409, "Conflict", Conflict), (409, "AlreadyExists", AlreadyExists), (404, "NotFound", NotFound), (410, "Gone", Gone),
        (400, "Expired", Gone), (403, "Forbidden", Forbidden), (401, "Unauthorized", Forbidden), (422, "Invalid", Invalid),
        (500, "InternalError", Unreachable), (418, "Teapot", KubeError),
    ],
)  # fmt: skip
def test_errors_are_classes_by_what_the_caller_can_do(status: int, reason: str, kind: type[KubeError]) -> None:
    error = from_response(status, f'{{"reason": "{reason}", "message": "m"}}'.encode(), None)
    assert type(error) is kind
    assert error.message == "m"


def test_an_answer_that_is_no_status_is_kept_as_text() -> None:
    assert from_response(502, b"<html>bad gateway", None).message == "<html>bad gateway"


async def test_who_may_not_lead_any_more_writes_nothing_and_still_reads(script: Script) -> None:
    throttled = status_object(429, "TooManyRequests") | {"details": {"retryAfterSeconds": 0.1}}
    script.answers |= {
        "GET /x": [Answer(body={}), Answer(body={})], "PATCH /x": [Answer(429, throttled), Answer(body={})],
        "POST /x": [Answer(201, {})],
    }  # fmt: skip
    left = 2
    async with connect(script) as kube:

        def valid() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        guarded = kube.guarded(valid)
        await guarded.get("/x")
        await guarded.post("/x", {})
        # The Lease ends between two tries of one write.
        with pytest.raises(NotLeading):
            await guarded.merge_patch("/x", {})
        assert [what[0] for what in script.asked] == ["GET /x", "POST /x", "PATCH /x"]
        await guarded.get("/x")
        with pytest.raises(NotLeading):
            await guarded.post("/x", {})
        # Others of the process are not bound by it: elections, say.
        await kube.merge_patch("/x", {})
