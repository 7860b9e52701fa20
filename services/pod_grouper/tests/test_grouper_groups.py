"""What pod-grouper does for pods and their groups: whose word stands, what is made again, what it tells."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal_contracts.state import GroupRecord, OwnerRef, PodRecord, PriorityClassRecord
from shoal_kube import AlreadyExists, Forbidden, NotFound
from shoal_model import labels
from shoal_pod_grouper.app import CLASS_AFTER, GONE_AFTER, SEEN_AFTER, Config, Service

UID = "0f0e0d0c-0b0a-0908-0706-050403020100"
JOB = OwnerRef(api_version="batch/v1", type="Job", name="job", uid=UID)
WIDGET = OwnerRef(api_version="example.com/v1", type="Widget", name="w", uid=UID)
PATH = "/apis/batch/v1/namespaces/ns/jobs/job"
OWN = f"pg-job-{UID}"


class Api:
    """Owners by path (None: may not be read); notes what is made and patched."""

    def __init__(self) -> None:
        self.owners: dict[str, dict[str, Any] | None] = {PATH: {"name": "job", "uid": UID}}
        self.made: list[dict[str, Any]] = []
        self.patched: list[tuple[str, Any]] = []
        self.exists = False

    async def get(self, path: str, *, accept: str) -> bytes:
        if path not in self.owners:
            raise NotFound(404, "NotFound", path)
        if self.owners[path] is None:
            raise Forbidden(403, "Forbidden", path)
        return msgspec.json.encode({"metadata": self.owners[path]})

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        await asyncio.sleep(0)
        self.made.append(body)
        if self.exists:
            raise AlreadyExists(409, "AlreadyExists", path)
        return b""

    async def merge_patch(self, path: str, body: Any) -> bytes:
        self.patched.append((path.rsplit("/", 1)[1], body))
        return b""


class Rig:
    """The service on a scripted API, driven by hand."""

    def __init__(self) -> None:
        self.api, self.at, self.events, self.logged = Api(), 1000.0, [], []
        clock = SimpleNamespace(monotonic=lambda: self.at, now=lambda: self.at)
        log = SimpleNamespace(warning=lambda text, **_: self.logged.append(text), error=None)
        context: Any = SimpleNamespace(config=Config(), clock=clock, log=log)
        recorder: Any = SimpleNamespace(event=lambda about, kind, reason, text: self.events.append((about.kind, reason, text)))
        self.it = Service(context, self.api, recorder)  # type: ignore[arg-type]
        self.it._classes = {"train": PriorityClassRecord(name="train", value=50)}

    def pod(self, name: str = "p", **more: Any) -> PodRecord:
        given = {"scheduler_name": "kai-scheduler", "owners": [JOB], "created": self.at} | more
        found = PodRecord(namespace="ns", name=name, uid=f"u-{name}", **given)
        self.it._pods["ns", name] = found
        return found

    def group(self, name: str, *, made: bool = False, **more: Any) -> GroupRecord:
        notes = {labels.TOP_OWNER: "name: job\n"} if made else {}
        found = GroupRecord(namespace="ns", name=name, uid=f"u-{name}", annotations=notes, owners=[JOB] if made else [], **more)
        self.it._groups["ns", name] = found
        self.it._made.pop(("ns", name), None)
        return found

    async def look(self, name: str = "p") -> None:
        self.it._due.pop(("ns", name), None)
        await self.it._look(("ns", name))

    def due(self, name: str = "p") -> float:
        return self.it._due["ns", name] - self.at

    @property
    def names(self) -> list[str]:
        return [body["metadata"]["name"] for body in self.api.made]


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("there", [True, False])
async def test_a_pod_stays_in_the_group_that_its_owner_named(rig: Rig, there: bool) -> None:
    if there:
        rig.group("huge", min_member=120)
    rig.pod(group="huge")
    await rig.look()
    assert (rig.api.made, rig.api.patched) == ([], [])


async def test_a_pod_that_names_the_group_of_another_workload_is_put_right(rig: Rig) -> None:
    rig.group("pg-other-1", made=True)
    rig.pod(group="pg-other-1")
    await rig.look()
    assert rig.names == [OWN]
    assert rig.api.patched[0][1]["metadata"]["annotations"] == {labels.GROUP: OWN}


@pytest.mark.parametrize("where", ["pod", "owner"])
async def test_the_annotation_to_keep_out_is_heeded(rig: Rig, where: str) -> None:
    note = {labels.SKIP_GROUPER: "true"}
    rig.api.owners[PATH] = {"name": "job", "uid": UID, "annotations": note if where == "owner" else {}}
    rig.pod(annotations=note if where == "pod" else {})
    await rig.look()
    assert (rig.api.made, rig.api.patched) == ([], [])


async def test_a_group_is_made_once_by_many_pods_at_a_time(rig: Rig) -> None:
    for i in range(5):
        rig.pod(f"p{i}")
    await asyncio.gather(*(rig.look(f"p{i}") for i in range(5)))
    assert rig.names == [OWN]
    assert rig.it._owner_locks == {}


async def test_two_are_never_at_one_owner_at_a_time(rig: Rig) -> None:
    inside = worst = 0

    async def work(delay: float) -> None:
        nonlocal inside, worst
        for _ in range(int(delay)):
            await asyncio.sleep(0)
        async with rig.it._alone("u"):
            inside += 1
            worst = max(worst, inside)
            for _ in range(5):
                await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(i) for i in range(12)))
    assert worst == 1
    assert rig.it._owner_locks == {}


@pytest.mark.parametrize("kind", ["waits", "runs", "alone, waits", "alone, runs"])
async def test_a_group_that_somebody_deletes_is_made_again(rig: Rig, kind: str) -> None:
    alone = kind.startswith("alone")
    name = "pg-p-u-p" if alone else OWN
    rig.group(name, made=True, priority_class="train", min_member=1, queue="default-queue")
    node = "n" if kind.endswith("runs") else ""
    rig.pod(group="" if kind == "alone, waits" else name, node=node, owners=[] if alone else [JOB])
    await rig.look()
    assert rig.names == []
    rig.it._group_gone(("ns", name))
    assert rig.due() == GONE_AFTER
    await rig.look()
    assert rig.names == [name]


async def test_a_group_that_goes_with_its_owner_is_not_made_again(rig: Rig) -> None:
    rig.group(OWN, made=True, priority_class="train", min_member=1)
    rig.pod(group=OWN)
    await rig.look()
    rig.api.owners[PATH] = {"name": "job", "uid": UID, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    rig.it._group_gone(("ns", OWN))
    await rig.look()
    assert rig.names == []


@pytest.mark.parametrize("exists", [True, False])
async def test_a_group_that_is_never_seen_is_made_once_more(rig: Rig, exists: bool) -> None:
    rig.api.exists = exists
    rig.pod()
    await rig.look()
    assert rig.due() == SEEN_AFTER
    await rig.look()
    assert len(rig.names) == 1
    rig.at += SEEN_AFTER
    await rig.look()
    assert len(rig.names) == 2


async def test_nothing_is_kept_of_pods_and_groups_that_are_gone(rig: Rig) -> None:
    rig.pod(labels={labels.PRIORITY_CLASS: "nowhere"})
    await rig.look()
    rig.it._pod_gone(("ns", "p"))
    it = rig.it
    assert not any((it._members, it._group_of, it._made, it._classless, it._due, it._pods))


async def test_an_owner_that_may_not_be_read_is_told_once(rig: Rig) -> None:
    rig.api.owners["/apis/example.com/v1/namespaces/ns/widgets/w"] = None
    for name in ("p", "q"):
        rig.pod(name, owners=[WIDGET])
        await rig.look(name)
    assert rig.names == ["pg-p-u-p", "pg-q-u-q"]
    assert [(kind, reason) for kind, reason, _ in rig.events] == [("Pod", "OwnerForbidden")] * 2
    assert "Widget ns/w may not be read" in rig.events[0][2]
    assert "get widgets.example.com" in rig.events[0][2]
    assert len(rig.logged) == 1


async def test_a_priority_class_that_does_not_exist_is_told_unless_it_comes(rig: Rig) -> None:
    rig.pod(labels={labels.PRIORITY_CLASS: "superhigh"})
    await rig.look()
    rig.group(OWN, made=True, priority_class="train", min_member=1)
    assert (rig.events, rig.due()) == ([], CLASS_AFTER)
    rig.at += CLASS_AFTER
    await rig.look()
    ((kind, reason, text),) = rig.events
    assert (kind, reason) == ("PodGroup", "PriorityClassNotFound")
    assert "priority class 'superhigh' does not exist: the workload runs with 'train' (priority 50)" in text
    rig.it._classes["superhigh"] = PriorityClassRecord(name="superhigh", value=900)
    await rig.look()
    assert {"priorityClassName": "superhigh"} in [body.get("spec") for name, body in rig.api.patched if name == OWN]
    assert rig.it._classless == {}


async def test_fields_that_are_not_honoured_are_told_once(rig: Rig) -> None:
    rig.pod(unheeded=["spec.x is not honoured"])
    await rig.look()
    await rig.look()
    assert rig.events == [("Pod", "FieldNotHonoured", "spec.x is not honoured")]
    rig.pod("q", unheeded=["spec.x is not honoured"], condition_message="no room")
    await rig.look("q")
    assert len(rig.events) == 1
    rig.it._pod_gone(("ns", "p"))
    assert rig.it._heard == {}
