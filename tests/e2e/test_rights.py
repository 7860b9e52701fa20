"""Rights by what is used: the suite runs under its own accounts with the API server's audit on, then the log is read.

The accounts have the rules of shoal_model.access; tests/chart holds what the chart renders against the same table.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from shoal_local import binaries, nodes
from shoal_local.control_plane import ControlPlane
from shoal_local.suite import Suite
from shoal_model import access
from shoal_model.labels import NAMESPACE
from shoal_testkit import chart, shares, volumes, waiting, workload
from shoal_testkit.api import Api

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:shoal-"
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2"
SPACE = "rights"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
RARE: dict[tuple[str, str, str], tuple[str, ...]] = {
    # Where the API server can't stream a list, and after a watch that is too old.
    **{("cluster-state", group, kind): ("list",) for group, kind in (
        ("", "pods"), ("", "nodes"), ("", "namespaces"), ("scheduling.run.ai", "queues"), ("scheduling.run.ai", "podgroups"),
        ("kai.scheduler", "topologies"), ("scheduling.k8s.io", "priorityclasses"), ("resource.k8s.io", "resourceclaims"),
        ("resource.k8s.io", "resourceslices"), ("resource.k8s.io", "deviceclasses"), ("", "persistentvolumeclaims"),
        ("", "persistentvolumes"), ("storage.k8s.io", "storageclasses"), ("storage.k8s.io", "csidrivers"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "csistoragecapacities"), ("policy", "poddisruptionbudgets"),
        *(("admissionregistration.k8s.io", kind) for kind in (
            "validatingwebhookconfigurations", "mutatingwebhookconfigurations", "validatingadmissionpolicies",
            "mutatingadmissionpolicies",
        )),
    )},
    # A kind that this cluster is without.
    ("cluster-state", "topology.node.k8s.io", "noderesourcetopologies"): ("list", "watch"),
    # Preparations of shares that fail, or are found half done.
    ("binder", "", "configmaps"): ("get", "update"),
    ("binder", "", "pods"): ("get", "patch", "delete"),
    # Events that come again are counted by a patch; odd objects are told of.
    ("cluster-state", "", "events"): ("create", "patch"),
    ("scheduler", "", "events"): ("patch",),
    ("binder", "", "events"): ("create", "patch"),
    # Reservations that are found wrong, replicas that come and go.
    ("gpu-reservation", "", "pods"): ("get", "patch"),
    ("gpu-reservation", "", "pods/eviction"): ("create",),
    ("gpu-reservation", "", "events"): ("create", "patch"),
    ("gpu-reservation", "coordination.k8s.io", "leases"): ("get", "delete"),
    # Groups that somebody else changes at the same time, pods that can't be grouped.
    ("pod-grouper", "", "events"): ("create", "patch"),
    # Owners whose kinds are not installed here.
    **{("pod-grouper", group, kind): ("get",) for group, kinds in access.OWNERS.items() if "." in group for kind in kinds},
    ("pod-grouper", "", "pods"): ("get", "patch"),
    ("pod-grouper", "scheduling.run.ai", "podgroups"): ("get", "patch"),
    # Decisions that are given up: the pod is looked at, and its version raised.
    ("scheduler", "", "pods"): ("get", "patch"),
    # A queue that is wrong.
    ("queue-controller", "", "events"): ("create", "patch"),
    # Server-side apply makes objects by patch; the right to create is asked for all the same.
    ("shard-controller", "", "configmaps"): ("create",),
    ("shard-controller", "apps", "deployments"): ("create", "list"),
    **{("shard-controller", "kai.scheduler", kind): ("list",) for kind in ("schedulingshards", "configs")},
    # The authority's renewal.
    ("admission", "", "secrets"): ("update",),
}  # fmt: skip
"""Rights that a run without accidents may leave unused, with what they are for."""
Use = tuple[str, str, str, str]
"""service, API group, resource with its subresource, verb."""


class Audited(ControlPlane):
    """A control plane that writes down who asked for what and was answered how."""

    @property
    def log(self) -> Path:
        return self.folder / "audit.jsonl"

    def _apiserver(self) -> list[str]:
        policy = self.folder / "audit.yaml"
        rules = [{"level": "Metadata", "userGroups": [f"system:serviceaccounts:{NAMESPACE}"]}, {"level": "None"}]
        policy.write_text(
            yaml.safe_dump({
                "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
                "rules": rules,
            })
        )  # fmt: skip
        return [*super()._apiserver(), f"--audit-policy-file={policy}", f"--audit-log-path={self.log}"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("rights")
    plane = Audited(folder / "plane")
    suite = Suite(folder / "suite", plane=plane, replicas={"queue-controller": 2}, environment={"SHOAL_RECOUNT": "2"})
    try:
        plane.start()

        async def populate() -> None:
            async with Api.connect(plane.kubeconfig) as api:
                await nodes.create(api, 4)

        asyncio.run(populate())
        suite.start()
        yield suite
    finally:
        suite.stop()
        plane.stop()


@pytest.fixture
async def api(audited: Suite) -> AsyncIterator[Api]:
    async with Api.connect(audited.plane.kubeconfig) as connected:
        yield connected


until = partial(waiting.until, limit=60.0)


async def running(api: Api, *prefixes: str) -> bool:
    pods = await api.items(PODS)
    names = [p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"]
    return all(any(n.startswith(prefix) for n in names) for prefix in prefixes)


async def story(api: Api, suite: Suite) -> None:
    """A bit of everything that the services do."""
    await api.post("/api/v1/namespaces", {"metadata": {"name": SPACE}})
    for queue in (workload.queue(SPACE), workload.queue("small", limit=1), workload.queue("orphan", parent="nowhere")):
        await api.post(QUEUES, queue)
    template = workload.pod("template", SPACE, queue=SPACE)
    body = {"metadata": {"labels": {"a": "b", **template["metadata"]["labels"]}}, "spec": template["spec"]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": body}
    await api.post(f"/apis/apps/v1/namespaces/{SPACE}/deployments", {"metadata": {"name": "deployment"}, "spec": spec})
    spec = spec | {"serviceName": "x"}
    await api.post(f"/apis/apps/v1/namespaces/{SPACE}/statefulsets", {"metadata": {"name": "stateful"}, "spec": spec})
    never = {"metadata": body["metadata"], "spec": template["spec"] | {"restartPolicy": "Never"}}
    await api.post(f"/apis/batch/v1/namespaces/{SPACE}/jobs", {"metadata": {"name": "job"}, "spec": {"template": never}})
    cron = {"schedule": "* * * * *", "suspend": True, "jobTemplate": {"spec": {"template": never}}}
    await api.post(f"/apis/batch/v1/namespaces/{SPACE}/cronjobs", {"metadata": {"name": "cron"}, "spec": cron})
    found = await api.get(f"/apis/batch/v1/namespaces/{SPACE}/cronjobs/cron")
    reference = {
        "apiVersion": "batch/v1", "kind": "CronJob", "name": "cron", "uid": found["metadata"]["uid"], "controller": True,
    }  # fmt: skip
    of_cron = {"metadata": {"name": "of-cron", "ownerReferences": [reference]}, "spec": {"template": never}}
    await api.post(f"/apis/batch/v1/namespaces/{SPACE}/jobs", of_cron)
    group, members = workload.gang("gang", SPACE, queue=SPACE, size=3)
    await api.post(f"{GROUPS}/namespaces/{SPACE}/podgroups", group)
    for member in members:
        await api.post(PODS, member)
    await api.post(PODS, workload.pod("bare", SPACE, queue=SPACE))
    for i in range(2):
        await api.post(PODS, shares.pod(f"shared-{i}", SPACE, queue=SPACE, fraction=0.5))
    await until(
        lambda: running(api, "deployment", "stateful", "job", "of-cron", "gang", "bare", "shared-0", "shared-1"), "pods"
    )
    await _volumes(api)
    # One that has to wait and says so, one that takes another's room, one whose owner is not there.
    await api.post(PODS, workload.pod("waits", SPACE, queue=SPACE, gpus=99))
    await api.post(PODS, workload.pod("low", SPACE, queue="small"))
    await until(lambda: running(api, "low"), "the pod of low priority")
    high = workload.pod("high", SPACE, queue="small")
    high["spec"]["priorityClassName"] = "build-preemptible"
    await api.post(PODS, high)
    await until(lambda: running(api, "high"), "the pod of higher priority")

    async def told() -> bool:
        pod = await api.get(f"{PODS}/waits")
        return any(c["type"] == "PodScheduled" and c["status"] == "False" for c in pod["status"].get("conditions", []))

    await until(told, "a reason on the pod that waits")

    async def counted() -> bool:
        status = (await api.get(f"{GROUPS}/namespaces/{SPACE}/podgroups/gang")).get("status", {})
        return bool(status.get("resourcesStatus", {}).get("allocated"))

    await until(counted, "the status of a group")
    # Takeovers: each leader has to release and take its Lease.
    for service in ("cluster-state-0", "scheduler-0", "queue-controller-0", "gpu-reservation-0", "binder-0"):
        suite.services.signal(service, signal.SIGTERM)
    await asyncio.sleep(3)
    for service in ("cluster-state-0", "scheduler-0", "binder-0", "gpu-reservation-0"):
        await until(lambda service=service: _ready(suite, service), f"{service} back")
    for i in range(2):
        await api.delete(f"{PODS}/shared-{i}")
    await api.post(PODS, workload.pod("after", SPACE, queue=SPACE))
    await until(lambda: running(api, "after"), "a pod after the takeovers")

    async def released() -> bool:
        return not await api.items("/api/v1/namespaces/kai-resource-reservation/pods")

    await until(released, "the shared GPU given back")
    template = chart.render(binaries.tools()["helm"]).one("Deployment", "kai-scheduler-default")
    await api.post(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", template)
    for kind, plural, name in (("Config", "configs", "kai-config"), ("SchedulingShard", "schedulingshards", "blue")):
        spec = {"partitionLabelValue": "blue"} if name == "blue" else {}
        body = {"apiVersion": "kai.scheduler/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        await api.post(f"/apis/kai.scheduler/v1/{plural}", body)

    async def written() -> bool:
        found = [x for kind in ("configs", "schedulingshards") for x in await api.items(f"/apis/kai.scheduler/v1/{kind}")]
        return all(x.get("status", {}).get("conditions") for x in found)

    await until(written, "the status of the shard and of the Config")
    await asyncio.sleep(3)


async def _volumes(api: Api) -> None:
    """One volume is made, one is there."""
    node = (await api.items("/api/v1/nodes"))[0]["metadata"]["name"]
    await api.post(volumes.CLASSES, volumes.storage_class("made", "disks.example.com"))
    await api.post(volumes.CLASSES, volumes.storage_class("local"))
    await volumes.make(api, volumes.volume("local", "local", node))
    claims = f"/api/v1/namespaces/{SPACE}/persistentvolumeclaims"
    for name in ("made", "local"):
        await api.post(claims, volumes.claim(name, name))
        await api.post(PODS, volumes.pod(f"with-{name}", SPACE, queue=SPACE, claim=name))

    async def asked() -> bool:
        notes = (await api.get(f"{claims}/made"))["metadata"].get("annotations") or {}
        return volumes.SELECTED in notes and "claimRef" in (await api.get(f"{volumes.VOLUMES}/local"))["spec"]

    await until(asked, "volumes asked for")
    await api.post(volumes.VOLUMES, volumes.volume("made", "made", node, claim="made", namespace=SPACE))
    for name in ("made", "local"):
        await volumes.bind(api, SPACE, name, name)
    await until(lambda: running(api, "with-made", "with-local"), "pods with volumes")


async def _ready(suite: Suite, name: str) -> bool:
    status, _ = await asyncio.to_thread(suite.services.http, name, "/readyz")
    return status == 200


def read(log: Path) -> tuple[set[Use], list[str]]:
    """What was used, and what was denied."""
    used: set[Use] = set()
    denied = []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        user = event["user"]["username"]
        if not user.startswith(ACCOUNT):
            continue
        about = event.get("objectRef", {})
        resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
        use = (user.removeprefix(ACCOUNT), about.get("apiGroup", ""), resource, event["verb"])
        code = event.get("responseStatus", {}).get("code", 200)
        if code == 403 and "is forbidden: User" in event["responseStatus"].get("message", "is forbidden: User"):
            denied.append(f"{use[0]} may not {use[3]} {use[2]} of {use[1] or 'core'}: {event['requestURI'][:120]}")
        else:
            used.add(use)
    return used, denied


def granted() -> set[Use]:
    """What the table gives."""
    found = set()
    for service, rules in access.RULES.items():
        own = [rule for _, more in access.IN_NAMESPACES.get(service, ()) for rule in more]
        for rule in [*rules, *own]:
            found |= {(service, g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    return found


async def test_nothing_is_denied_and_what_is_not_used_is_told(
    audited: Suite, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    await story(api, audited)
    plane = audited.plane
    assert isinstance(plane, Audited)
    used, denied = read(plane.log)
    assert {u[0] for u in used} == set(access.RULES), "every service is seen"
    assert sorted(set(denied)) == []
    assert used <= granted() | {(s, "", "", "get") for s in access.RULES}
    unused = sorted(granted() - used)
    with capsys.disabled():
        print(f"\nrights: {len(granted())} granted, {len(granted()) - len(unused)} used in this run; not used:")
        for service, group, resource, verb in unused:
            print(f"  {service}: {verb} {resource} of {group or 'core'}")
    reasoned = {(*name, verb) for name, verbs in RARE.items() for verb in verbs}
    assert set(unused) <= reasoned, "give a reason in RARE, or take it away"
