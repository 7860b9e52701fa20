"""Odd objects, made of sound ones, and what must hold whatever they are: nothing raises, counts are exact, others start."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from shoal_contracts import state
from shoal_core import Cluster, Settings, cycle
from shoal_grouping import CantGroup, Case, Owner, group_of
from shoal_model import labels
from shoal_model.normalise import from_dict

OBJECTS = """
apiVersion: v1
kind: Node
metadata:
  name: n1
  labels: {kubernetes.io/hostname: n1, zone: a, rack: r1, nvidia.com/gpu.count: "8", nvidia.com/gpu.memory: "81920"}
spec: {taints: [{key: k, value: v, effect: PreferNoSchedule}]}
status:
  allocatable: {cpu: "64", memory: 256Gi, pods: "110", nvidia.com/gpu: "8", example.com/x: "4"}
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: scheduling.run.ai/v2
kind: Queue
metadata: {name: team}
spec:
  parentQueue: top
  priority: 1
  preemptMinRuntime: 5m
  resources:
    gpu: {quota: 4, limit: 8, overQuotaWeight: 1}
    cpu: {quota: -1, limit: -1, overQuotaWeight: 1}
    memory: {quota: -1, limit: -1, overQuotaWeight: 1}
---
apiVersion: scheduling.run.ai/v2
kind: Queue
metadata: {name: top}
spec:
  resources:
    gpu: {quota: 8, limit: -1, overQuotaWeight: 2}
    cpu: {quota: -1, limit: -1, overQuotaWeight: 1}
    memory: {quota: -1, limit: -1, overQuotaWeight: 1}
---
apiVersion: kai.scheduler/v1alpha1
kind: Topology
metadata: {name: t}
spec: {levels: [{nodeLabel: zone}, {nodeLabel: rack}]}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 75
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: b, namespace: default, generation: 1}
spec: {minAvailable: 1, selector: {matchLabels: {app: x}}}
status: {observedGeneration: 1, disruptionsAllowed: 1, currentHealthy: 2, desiredHealthy: 1, expectedPods: 2}
---
apiVersion: scheduling.run.ai/v2alpha2
kind: PodGroup
metadata: {name: g, namespace: default, annotations: {kai.scheduler/last-start-timestamp: "2026-01-01T00:00:00Z"}}
spec:
  queue: team
  priorityClassName: high
  minMember: 1
  preemptionDelay: 10s
  topologyConstraint: {topology: t, requiredTopologyLevel: zone, preferredTopologyLevel: rack}
---
apiVersion: scheduling.run.ai/v2alpha2
kind: PodGroup
metadata: {name: tree, namespace: default}
spec:
  queue: team
  minSubGroup: 1
  subGroups:
  - {name: a, minSubGroup: 1}
  - {name: b, parent: a, minMember: 1}
  - {name: c, parent: a, minMember: 1, topologyConstraint: {topology: t, requiredTopologyLevel: rack}}
---
apiVersion: v1
kind: Pod
metadata:
  name: p
  namespace: default
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {kai.scheduler/queue: team, app: x, kai.scheduler/subgroup-name: b}
  annotations: {pod-group-name: tree}
spec:
  schedulerName: kai-scheduler
  priorityClassName: high
  priority: 75
  nodeSelector: {zone: a}
  tolerations: [{key: k, operator: Equal, value: v, effect: NoSchedule, tolerationSeconds: 5}]
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: x}}}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: rack, operator: In, values: [r1]}]}]
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 5, preference: {matchExpressions: [{key: zone, operator: Exists}]}}
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: y}}, namespaces: [default]}
  containers:
  - name: m
    resources: {requests: {cpu: "1", memory: 1Gi, nvidia.com/gpu: "1", example.com/x: "1"}, limits: {nvidia.com/gpu: "1"}}
    ports: [{containerPort: 80, hostPort: 8080, protocol: TCP}]
  initContainers: [{name: i, restartPolicy: Always, resources: {requests: {cpu: 100m}}}]
  overhead: {cpu: 10m}
status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", lastTransitionTime: "2026-01-01T00:00:00Z"}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: half
  namespace: default
  labels: {kai.scheduler/queue: team, app: y}
  annotations: {pod-group-name: g, gpu-fraction: "0.5"}
spec:
  schedulerName: kai-scheduler
  containers: [{name: m, resources: {requests: {cpu: "1"}}}]
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: runs, namespace: default, labels: {app: x}, annotations: {pod-group-name: g}}
spec:
  schedulerName: kai-scheduler
  nodeName: n1
  containers: [{name: m, resources: {requests: {cpu: "1", nvidia.com/gpu: "1"}}}]
status: {phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: default}
spec:
  schedulerName: default-scheduler
  nodeName: n1
  containers: [{name: m, resources: {requests: {cpu: "1"}}}]
status: {phase: Running}
"""
TEXTS = (
    "", " ", "-1", "0", "1e18", "1e400", "NaN", "inf", "-inf", "0.0000001", "10E", "999999999999999999999", "ünïcödé ✓",
    "a.b/c", "true", "None", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "[]", "{}", "null", "n1",
    "team", "top", "g", "tree", "a", "x" * 300, "x" * 20_000, "\u202e", "default", "Never", "In", "Gt", "NotIn", "DoesNotExist",
    "1h", "-5m", "0.5", "1.5", "Running", "Failed",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 3, 110, 10**9, 2**31 - 1, -(2**31), 10**18, 2**63 - 1, -(10**18))
NOTES = (
    labels.GPU_FRACTION, labels.GPU_MEMORY, labels.GPU_DEVICES, labels.GPU_CONTAINER, labels.GROUP, labels.MIN_MEMBER,
    labels.PREEMPTION_DELAY, labels.STALENESS_GRACE, labels.TOPOLOGY, labels.TOPOLOGY_REQUIRED, labels.TOPOLOGY_PREFERRED,
    labels.TOP_OWNER, labels.STALE_SINCE, labels.LAST_START, labels.LAST_EVICTION, labels.NUMA_PREDICTED, labels.NUMA_OBSERVED,
    labels.GIVEN_UP, labels.DEVICE, labels.RECEIVED_TYPE, "nvidia.com/mig-1g.5gb", labels.IGNORE_BUDGETS, labels.MPS,
)  # fmt: skip
TAGS = (
    labels.QUEUE, labels.SUBGROUP, labels.NODE_POOL, labels.PRIORITY_CLASS, labels.PREEMPTIBILITY, labels.GPU_GROUP,
    labels.TASK_PRIORITY, labels.KUBEFLOW_ROLE, labels.RAY_NODE_TYPE, labels.GPU_COUNT_LABEL, labels.GPU_MEMORY_LABEL,
    labels.MIG_STRATEGY, labels.MIG_ENABLED, labels.APP, labels.GPU_GROUP_PREFIX + "g", "zone", "rack",
)  # fmt: skip
RESOURCES = ("cpu", "memory", "nvidia.com/gpu", "amd.com/gpu", "pods", "nvidia.com/mig-1g.5gb", "example.com/x",
             "example.com/new", "ephemeral-storage", "hugepages-2Mi", "vgpu", "gpu")  # fmt: skip


def _places(at: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every part of an object but its kind and name."""
    pairs = list(at.items()) if isinstance(at, dict) else list(enumerate(at)) if isinstance(at, list) else []
    for key, value in pairs:
        if key in ("kind", "apiVersion"):
            continue
        # Every object has its metadata, with a name.
        if key != "metadata" and not (key in ("name", "uid") and isinstance(at, dict) and "uid" in at):
            yield at, key
        yield from _places(value)


class Fuzzer:
    """Objects by a seed; the same seed makes the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._sound = [x for x in yaml.safe_load_all(OBJECTS) if x]
        self.made = 0

    def objects(self, count: int) -> Iterator[dict[str, Any]]:
        """``count`` of them."""
        for _ in range(count):
            yield self._object()

    def _object(self) -> dict[str, Any]:
        chance = self._random
        raw = copy.deepcopy(chance.choice(self._sound))
        meta = raw["metadata"]
        self.made += 1
        if raw["kind"] in ("Pod", "PodGroup") and chance.random() < 0.7:
            meta["name"] = f"{meta['name']}-{self.made % 50}"
        meta["uid"] = f"{raw['kind']}-{meta['name']}-{chance.randrange(2)}"
        for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
            self._change(raw)
        return raw

    def _change(self, raw: dict[str, Any]) -> None:
        chance = self._random
        match chance.randrange(6):
            case 0:
                notes = raw["metadata"].setdefault("annotations", {})
                if isinstance(notes, dict):
                    notes[chance.choice(NOTES)] = chance.choice(TEXTS)
            case 1:
                tags = raw["metadata"].setdefault("labels", {})
                if isinstance(tags, dict):
                    tags[chance.choice(TAGS)] = chance.choice(TEXTS)
            case 2:
                found = [at[key] for at, key in _places(raw) if key in ("requests", "limits", "allocatable", "overhead")]
                for amounts in found[:1] or ():
                    if isinstance(amounts, dict):
                        amounts[chance.choice(RESOURCES)] = chance.choice((*TEXTS, *NUMBERS))
            case _:
                self._replace(raw)

    def _replace(self, raw: dict[str, Any]) -> None:
        chance = self._random
        places = list(_places(raw))
        at, key = chance.choice(places)
        if not isinstance(at[key], dict | list) and key == "uid":
            return
        match at[key]:
            case bool():
                at[key] = not at[key]
            case int() | float():
                at[key] = chance.choice(NUMBERS)
            case str():
                at[key] = chance.choice(TEXTS)
            case list() as items:
                at[key] = chance.choice((items * 2, items * 40, [], None))
            case _:
                at[key] = None


def anchor() -> list[state.StateMessage]:
    """A node, a queue and nothing odd: what asks for them by name starts, whatever else there is."""
    free = state.QueueResource(quota=-1, limit=-1, weight=1)
    return [
        state.NodeRecord(
            name="anchor", uid="anchor", allocatable={"cpu": 1000.0, "memory": 2.0**30, "pods": 10.0},
            labels={"anchor": "yes"}, taints=[state.Taint(key="anchor", value="yes", effect="NoSchedule")],
        ),
        state.QueueRecord(name="anchor", uid="anchor", gpu=free, cpu=free, memory=free),
    ]  # fmt: skip


def witness(number: int) -> list[state.StateMessage]:
    """A pod that has to start on the anchor."""
    name = f"witness-{number}"
    return [
        state.GroupRecord(namespace="sound", name=name, uid=name, queue="anchor", min_member=1),
        state.PodRecord(
            namespace="sound", name=name, uid=name, scheduler_name=labels.SCHEDULER_NAME, group=name, phase="Pending",
            requests={"cpu": 500.0}, node_selector={"anchor": "yes"},
            tolerations=[state.Toleration(key="anchor", value="yes", effect="NoSchedule")],
        ),
    ]  # fmt: skip


BATCH = 24
"""Odd objects in one cluster."""


class Failed(AssertionError):
    """What must hold does not; the message says of which object and seed."""


def batch(seed: int, count: int) -> int:
    """One cluster of ``count`` odd objects: three cycles, some objects go, one cycle more. Raises Failed. The number of
    objects that don't decode is returned: those never reach the core."""
    fuzzer, cluster, undecodable = Fuzzer(seed), Cluster(Settings()), 0
    for record in anchor():
        cluster.apply(record)
    records: list[state.StateMessage] = []
    for raw in fuzzer.objects(count):
        try:
            record = from_dict(raw)
        except msgspec.ValidationError:
            undecodable += 1
            continue
        except Exception as error:
            raise Failed(f"seed {seed}: {error!r} from normalising {raw}") from error
        # It comes as it is sent.
        records.append(msgspec.json.decode(msgspec.json.encode(record), type=state.StateMessage))
    for number in range(4):
        for record in records[number::4]:
            cluster.apply(record)
            if isinstance(record, state.PodRecord):
                _group(seed, record)
        _raised(seed, cluster)
        for record in witness(number):
            cluster.apply(record)
        try:
            result = cycle(cluster, now=1_800_000_000.0 + 60 * number)
        except Exception as error:
            raise Failed(f"seed {seed}: the cycle raised {error!r}") from error
        _raised(seed, cluster)
        if f"witness-{number}" not in {m.pod for g in result.gangs for m in g.members}:
            waits = [w.message for w in result.waiting if w.namespace == "sound"]
            raise Failed(f"seed {seed}: a sound pod does not start: {waits}")
        msgspec.json.encode(result)
        _exact(seed, cluster)
        cluster.remove("pod", "sound", f"witness-{number}")
        cluster.forget(f"witness-{number}")
        cluster.remove("group", "sound", f"witness-{number}")
        for record in records[: number * 5]:
            kind = type(record).__name__.removesuffix("Record").lower()
            cluster.remove(kind, getattr(record, "namespace", ""), getattr(record, "name", ""))
        _raised(seed, cluster)
        _exact(seed, cluster)
    return undecodable


def _exact(seed: int, cluster: Cluster) -> None:
    try:
        cluster.check()
    except AssertionError as error:
        raise Failed(f"seed {seed}: counts are not what the pods come to: {error}") from error


def _raised(seed: int, cluster: Cluster) -> None:
    for what, error in cluster.quarantine.errors:
        raise Failed(f"seed {seed}: {what} raised {error!r}") from error


def _group(seed: int, pod: state.PodRecord) -> None:
    job = Owner("batch/v1", "Job", "j", "j", pod.labels, pod.annotations)
    for chain in ([], [job]):
        try:
            if (wanted := group_of(Case(pod, chain, {}))) is not None:
                from_dict(wanted.object())
        except CantGroup:
            continue
        except Exception as error:
            raise Failed(f"seed {seed}: grouping {pod} raised {error!r}") from error


def run(first: int, objects: int) -> None:
    """Batches of odd objects, seed by seed from ``first`` on. Raises Failed."""
    for seed in range(first, first + -(-objects // BATCH)):
        batch(seed, BATCH)


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{sys.argv[2]} odd objects: nothing raised, every count is exact, sound pods start")
