"""A gang of which one member can't start, for whatever reason: on a real API server no other member is bound meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from shoal_local import nodes
from shoal_model import labels
from shoal_testkit import shares, workload
from shoal_testkit.api import Api, ApiError
from shoal_testkit.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
SIZE = 4
"""Pods of the gang, GPUs of the only node that it may run on."""


class Space:
    """A namespace with a queue and a node of its own, and what was ever bound there."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.pods = f"/api/v1/namespaces/{name}/pods"
        self.bound: list[str] = []
        self.given_up: set[str] = set()
        """Marks of decisions on members that were given up."""

    async def make(self) -> None:
        body = nodes.node(0, SIZE)
        body["metadata"]["name"] = self.name
        body["metadata"]["labels"] |= {"kubernetes.io/hostname": self.name, "run": self.name}
        await self.api.post("/api/v1/namespaces", {"metadata": {"name": self.name}})
        await self.api.post("/api/v1/nodes", body)
        await self.api.post(QUEUES, workload.queue(self.name))

    async def end(self) -> None:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            try:
                await self.api.delete(f"{ADMISSION}/{kind}/{self.name}")
            except ApiError as error:
                if error.status != 404:
                    raise
        for pod in await self.api.items(self.pods):
            if pod["metadata"].get("finalizers"):
                await self.api.patch(f"{self.pods}/{pod['metadata']['name']}", {"metadata": {"finalizers": None}})
        await self.api.delete(self.pods)
        await self.api.delete(f"/api/v1/namespaces/{self.name}")
        await self.api.delete_queue(self.name)
        await self.api.delete(f"/api/v1/nodes/{self.name}")

    async def watch(self) -> None:
        """Note each pod of the gang that gets a node, and what is given up, for ever."""
        version = (await self.api.get(self.pods))["metadata"]["resourceVersion"]
        async for event in self.api.watch(self.pods, version):
            meta, spec = event["object"]["metadata"], event["object"]["spec"]
            if mark := (meta.get("annotations") or {}).get(labels.GIVEN_UP):
                self.given_up.add(mark)
            if spec.get("nodeName") and meta["name"].startswith("gang-") and meta["name"] not in self.bound:
                self.bound.append(meta["name"])

    async def gang(self, fraction: float = 0.0) -> None:
        await self.api.post(
            f"{GROUPS}/namespaces/{self.name}/podgroups", workload.group("gang", self.name, queue=self.name, members=SIZE)
        )
        for i in range(SIZE):
            if fraction:
                pod = shares.pod(f"gang-{i}", self.name, queue=self.name, fraction=fraction)
                pod["metadata"]["annotations"]["pod-group-name"] = "gang"
            else:
                pod = workload.pod(f"gang-{i}", self.name, queue=self.name, group="gang")
            pod["spec"]["nodeSelector"] = {"run": self.name}
            await self.api.post(self.pods, pod)

    async def policy(self, expression: str) -> None:
        """Bindings of which ``expression`` is false are refused, from now on, and those of a pod ``refused``."""
        spec = {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.name}},
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods/binding"]}
                ],
            },
            "validations": [
                {"expression": text, "message": "this one stays"} for text in (expression, "object.metadata.name != 'refused'")
            ],
        }
        await self.api.post(f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": self.name}, "spec": spec})
        body = {"metadata": {"name": self.name}, "spec": {"policyName": self.name, "validationActions": ["Deny"]}}
        await self.api.post(f"{ADMISSION}/validatingadmissionpolicybindings", body)
        # The API server takes a while to heed it: until then a pod that is nobody's is tried.
        await self.api.post(self.pods, workload.pod("refused", self.name, queue=self.name, scheduler="nobody"))

        async def heeded() -> bool:
            target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "refused"}, "target": target}
            try:
                await self.api.post(f"{self.pods}/refused/binding?dryRun=All", body)
            except ApiError as error:
                return "this one stays" in str(error)
            return False

        await until(heeded, "the policy is heeded")
        await self.api.delete(f"{self.pods}/refused")

    async def running(self) -> bool:
        found = [p for p in await self.api.items(self.pods) if p["metadata"]["name"].startswith("gang-")]
        return len(found) == SIZE and all(p["status"].get("phase") == "Running" for p in found)

    async def told(self, name: str, text: str) -> None:
        """Waits until an event of the pod says so."""

        async def look() -> bool:
            events = await self.api.items(f"/api/v1/namespaces/{self.name}/events")
            return any(e["involvedObject"]["name"] == name and text in e["message"] for e in events)

        await until(look, f"an event of {name}: {text}")


@pytest.fixture
async def space(api: Api) -> AsyncIterator[Space]:
    made = Space(api, f"h-{uuid.uuid4().hex[:8]}")
    await made.make()
    watching = asyncio.create_task(made.watch())
    yield made
    watching.cancel()
    await asyncio.wait([watching])
    await made.end()


@pytest.mark.parametrize("fraction", [0.0, 0.5], ids=["whole", "shared"])
async def test_a_member_whose_binding_is_refused_holds_the_others(space: Space, fraction: float) -> None:
    await space.policy("object.metadata.name != 'gang-2'")
    await space.gang(fraction)
    await space.told("gang-2", "this one stays")

    async def several() -> bool:
        return len(space.given_up) > 3 * SIZE

    await until(several, "it is tried again and again")
    assert space.bound == []
    await space.api.delete(f"{ADMISSION}/validatingadmissionpolicybindings/{space.name}")
    await until(space.running, "the gang runs once nothing refuses it", 90.0)


async def test_what_no_dry_run_foresees_is_taken_back_at_once(space: Space) -> None:
    await space.policy("request.?dryRun.orValue(false) || object.metadata.name != 'gang-2'")
    await space.gang()
    await space.told("gang-2", "this one stays")

    async def alone() -> bool:
        return [p["metadata"]["name"] for p in await space.api.items(space.pods)] == ["gang-2"]

    await until(alone, "the others are evicted, long before the grace of a stale gang is over")
    assert len(space.bound) == SIZE - 1


async def test_a_victim_that_does_not_go_holds_the_gang(space: Space) -> None:
    victim = workload.pod("victim", space.name, queue=space.name)
    victim["metadata"]["finalizers"] = ["example.com/stays"]
    victim["spec"] |= {"nodeSelector": {"run": space.name}, "priorityClassName": "train"}
    await space.api.post(space.pods, victim)

    async def runs() -> bool:
        return (await space.api.get(f"{space.pods}/victim"))["status"].get("phase") == "Running"

    await until(runs, "the victim runs")
    high = f"{space.name}-high"
    await space.api.post("/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": high}, "value": 90})
    try:
        body = workload.group("gang", space.name, queue=space.name, members=SIZE, priorityClassName=high)
        await space.api.post(f"{GROUPS}/namespaces/{space.name}/podgroups", body)
        for i in range(SIZE):
            pod = workload.pod(f"gang-{i}", space.name, queue=space.name, group="gang")
            pod["spec"]["nodeSelector"] = {"run": space.name}
            await space.api.post(space.pods, pod)

        async def going() -> bool:
            return "deletionTimestamp" in (await space.api.get(f"{space.pods}/victim"))["metadata"]

        await until(going, "the victim is evicted")
        # Something else that starts shows that cycles go on.
        beside = workload.pod("beside", space.name, queue=space.name, gpus=0)
        await space.api.post(space.pods, beside)

        async def started() -> bool:
            return (await space.api.get(f"{space.pods}/beside"))["status"].get("phase") == "Running"

        await until(started, "another pod starts meanwhile")
        assert space.bound == []
        await space.api.patch(f"{space.pods}/victim", {"metadata": {"finalizers": None}})
        await until(space.running, "the gang runs once the victim is gone", 90.0)
    finally:
        await space.api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{high}")


async def test_a_member_that_is_gated_holds_the_others(space: Space) -> None:
    await space.api.post(
        f"{GROUPS}/namespaces/{space.name}/podgroups", workload.group("gang", space.name, queue=space.name, members=SIZE)
    )
    for i in range(SIZE):
        pod = workload.pod(f"gang-{i}", space.name, queue=space.name, group="gang")
        pod["spec"]["nodeSelector"] = {"run": space.name}
        if not i:
            pod["spec"]["schedulingGates"] = [{"name": "example.com/later"}]
        await space.api.post(space.pods, pod)

    async def told() -> bool:
        status = (await space.api.get(f"{GROUPS}/namespaces/{space.name}/podgroups/gang")).get("status", {})
        return bool(status.get("schedulingConditions"))

    await until(told, "the group is told why it waits")
    assert space.bound == []
    await space.api.patch(f"{space.pods}/gang-0", {"spec": {"schedulingGates": []}})
    await until(space.running, "the gang runs once the gate is open", 90.0)
