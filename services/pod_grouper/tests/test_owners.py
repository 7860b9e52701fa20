"""The chain of owners above a pod, against an API that answers, refuses and has changed meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts.state import OwnerRef, PodRecord
from shoal_grouping import CantGroup
from shoal_kube import Forbidden, NotFound
from shoal_pod_grouper.owners import KEEP, Owners, plural


class Clock:
    at = 0.0

    def monotonic(self) -> float:
        return self.at


class Api:
    """Objects by path; a missing one is not found, None may not be read."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self.objects, self.asked = objects, []

    async def get(self, path: str, *, accept: str) -> bytes:
        assert "PartialObjectMetadata" in accept
        self.asked.append(path)
        if path not in self.objects:
            raise NotFound(404, "NotFound", path)
        if self.objects[path] is None:
            raise Forbidden(403, "Forbidden", path)
        return msgspec.json.encode({"metadata": self.objects[path]})


def reference(kind: str, name: str, api: str = "batch/v1") -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "name": name, "uid": f"u-{name}"}


def pod(*owners: OwnerRef) -> PodRecord:
    return PodRecord(namespace="ns", name="p", uid="u", owners=list(owners))


JOB = OwnerRef(api_version="batch/v1", type="Job", name="job", uid="u-job")
PATH = "/apis/batch/v1/namespaces/ns/jobs/job"


def reader(objects: dict[str, Any]) -> tuple[Owners, Api, Clock]:
    api, clock = Api(objects), Clock()
    return Owners(api, clock), api, clock  # type: ignore[arg-type]


async def test_the_chain_goes_up_to_the_top() -> None:
    cron = {"name": "cron", "uid": "u-cron"}
    job = {"name": "job", "uid": "u-job", "ownerReferences": [reference("CronJob", "cron")]}
    owners, api, clock = reader({PATH: job, "/apis/batch/v1/namespaces/ns/cronjobs/cron": cron})
    assert [o.kind for o in (await owners.chain(pod(JOB)))[0]] == ["Job", "CronJob"]
    await owners.chain(pod(JOB))
    assert len(api.asked) == 2, "kept for a while"
    clock.at = KEEP + 1
    await owners.chain(pod(JOB))
    assert len(api.asked) == 4


async def test_a_bare_pod_has_none() -> None:
    owners, api, _ = reader({})
    assert await owners.chain(pod()) == ([], None)
    assert api.asked == []


async def test_the_chain_ends_below_what_may_not_be_read() -> None:
    job = {"name": "job", "uid": "u-job", "ownerReferences": [reference("Workflow", "w", "argo.io/v1")]}
    owners, api, _ = reader({PATH: job, "/apis/argo.io/v1/namespaces/ns/workflows/w": None})
    for _ in range(2):
        found, unread = await owners.chain(pod(JOB))
        assert [o.kind for o in found] == ["Job"]
        assert unread is not None
        assert (unread.type, unread.name) == ("Workflow", "w")
    assert len(api.asked) == 2, "that it may not be read is kept as well"


async def test_what_is_forgotten_is_asked_for_again() -> None:
    owners, api, _ = reader({PATH: {"name": "job", "uid": "u-job"}})
    await owners.chain(pod(JOB))
    api.objects[PATH]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    owners.forget(pod(JOB))
    (found,), _ = await owners.chain(pod(JOB))
    assert found.deleted


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        ({}, "owner Job ns/job of the pod is not there"),
        ({PATH: {"name": "job", "uid": "another"}}, "is another object of that name now"),
        (
            {PATH: {"name": "job", "uid": "u-job", "ownerReferences": [reference("A", "a"), reference("B", "b")]}},
            "Job ns/job has several owners",
        ),
        ({PATH: {"name": "job", "uid": "u-job", "ownerReferences": [reference("Job", "job")]}}, "more than 16 owners"),
    ],
)
async def test_a_chain_that_is_broken_is_told(objects: dict[str, Any], told: str) -> None:
    owners, _, _ = reader(objects)
    with pytest.raises(CantGroup, match=told):
        await owners.chain(pod(JOB))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Job", "jobs"), ("PyTorchJob", "pytorchjobs"), ("Policy", "policies"), ("Gateway", "gateways"), ("Mesh", "meshes")],
)
def test_plurals(kind: str, expected: str) -> None:
    assert plural(kind) == expected
