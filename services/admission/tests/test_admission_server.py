"""The HTTPS server: what it takes, what it refuses, and that nothing hostile ends it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from shoal_admission import app, server, webhooks
from shoal_admission.certificates import Lifetimes, Material, renew
from shoal_admission.keeper import load_chain
from shoal_kube.admission import Request, Verdict
from shoal_service.config import load

HOSTS = ("127.0.0.1",)
LIMIT = 0.5


@pytest.fixture(scope="module")
def material() -> Material:
    return renew(None, HOSTS, time.time(), Lifetimes(), published=True)


def broken(request: Request) -> Verdict:
    raise RuntimeError("a bug")


@pytest.fixture
async def url(material: Material) -> AsyncIterator[str]:
    context = server.tls_context("")
    load_chain(context, material.certificate, material.key)
    reviews = app.reviews(load(app.Config, None, {}), app.Queues()) | {"/broken": broken}
    async with server.serving(
        reviews, context, Log(), host="127.0.0.1", port=0, port_file="", shared=True, limit=LIMIT
    ) as port:
        yield f"https://127.0.0.1:{port}"


class Log(logging.LoggerAdapter[logging.Logger]):
    """Takes structlog's keywords."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("test"))

    def info(self, *_: Any, **__: Any) -> None: ...
    def error(self, *_: Any, **__: Any) -> None: ...


@pytest.fixture
async def client(material: Material) -> AsyncIterator[aiohttp.ClientSession]:
    tls = ssl.create_default_context(cadata=material.bundle.decode())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        yield session


def review(pod: Any, **more: Any) -> dict[str, Any]:
    request = {"uid": "u", "operation": "CREATE", "namespace": "ns", "object": pod, "kind": {"kind": "Pod"}, **more}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


POD = {
    "metadata": {"name": "p", "annotations": {"gpu-fraction": "0.5"}},
    "spec": {"schedulerName": "kai-scheduler", "containers": [{"name": "c"}]},
}


async def test_a_review_is_answered(url: str, client: aiohttp.ClientSession) -> None:
    async with client.post(url + webhooks.MUTATE_POD, json=review(POD)) as answer:
        assert answer.status == 200
        found = await answer.json()
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = found["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u", True, "JSONPatch")
    assert any(op["path"] == "/spec/containers/0/env" for op in json.loads(base64.b64decode(response["patch"])))
    bad = json.loads(json.dumps(POD).replace("0.5", "abc"))
    async with client.post(url + webhooks.VALIDATE_POD, json=review(bad)) as answer:
        response = (await answer.json())["response"]
    assert response["allowed"] is False
    assert response["status"]["code"] == 403
    assert "write a number between 0 and 1" in response["status"]["message"]


@pytest.mark.parametrize("path", [webhooks.MUTATE_POD, webhooks.VALIDATE_GROUP, webhooks.VALIDATE_TOPOLOGY])
async def test_what_is_no_review_is_refused(url: str, client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(url + path) as answer:
        assert answer.status == 405
    async with client.post(url + path, data=b"{}", headers={"Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
    old = {**review(POD), "apiVersion": "admission.k8s.io/v1beta1"}
    deep = b'{"request":' + b"[" * 200_000
    for body in (b"", b"{", b"null", b'{"request": {}}', b"\xff", json.dumps(old).encode(), deep):
        async with client.post(url + path, data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 400, body[:40]
    async with client.post(url + "/else", json=review(POD)) as answer:
        assert answer.status == 404


async def test_an_object_nested_without_end_gets_a_verdict(url: str, client: aiohttp.ClientSession) -> None:
    deep = json.dumps(review(0)).replace('"object": 0', '"object": {"spec": ' + "[" * 5000 + "]" * 5000 + "}")
    async with client.post(url + webhooks.MUTATE_POD, data=deep, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status in (200, 400)


async def test_a_body_that_is_too_large_is_not_read(url: str, client: aiohttp.ClientSession) -> None:
    large = review({**POD, "x": "y" * server.LARGEST})
    async with client.post(url + webhooks.MUTATE_POD, json=large) as answer:
        assert answer.status == 413
    async with client.post(url + webhooks.MUTATE_POD, json=review({**POD, "x": "y" * (2 << 20)})) as answer:
        assert answer.status == 200, "an object of the largest size that the API server takes"


async def test_a_body_that_never_comes_costs_no_more_than_the_limit(url: str, client: aiohttp.ClientSession) -> None:
    async def drops() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    headers = {"Content-Type": "application/json"}
    slow = [asyncio.create_task(client.post(url + webhooks.MUTATE_POD, data=drops(), headers=headers)) for _ in range(8)]
    async with client.post(url + webhooks.MUTATE_POD, json=review(POD)) as answer:
        assert answer.status == 200, "others are served meanwhile"
    for task in slow:
        async with await task as answer:
            assert answer.status == 503


async def test_a_bug_is_an_error_and_no_verdict(url: str, client: aiohttp.ClientSession) -> None:
    async with client.post(url + "/broken", json=review(POD)) as answer:
        assert answer.status == 500
        assert "log of admission" in await answer.text()


async def test_callers_without_the_right_certificate_stay_outside(material: Material, tmp_path: Any) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_bytes(material.bundle)
    context = server.tls_context(str(authority))
    load_chain(context, material.certificate, material.key)
    tls = ssl.create_default_context(cadata=material.bundle.decode())
    async with (
        server.serving({"/x": broken}, context, Log(), host="127.0.0.1", port=0, port_file="", shared=False, limit=1) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
    ):
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"https://127.0.0.1:{port}/x", json={})
