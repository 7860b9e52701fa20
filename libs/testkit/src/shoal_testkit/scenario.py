"""Scenarios: one situation as Kubernetes objects, with the outcome that is demanded. Loads them into the core and compares."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from shoal_contracts.state import GroupRecord, ObjectRecord, StateMessage
from shoal_core import Cluster, CycleResult, Session, run
from shoal_core.configuration import read
from shoal_core.settings import PLUGINS
from shoal_core.status import NAMES, PENDING, PIPELINED, RELEASING, RUNNING
from shoal_model.normalise import TYPES, from_dict
from shoal_model.quantity import seconds
from shoal_model.shards import KAI_0_17

KINDS = {
    "namespaces": "Namespace",
    "nodes": "Node", "queues": "Queue", "priorityClasses": "PriorityClass", "podGroups": "PodGroup", "pods": "Pod",
    "topologies": "Topology", "nodeResourceTopologies": "NodeResourceTopology", "deviceClasses": "DeviceClass",
    "resourceSlices": "ResourceSlice", "resourceClaims": "ResourceClaim", "persistentVolumeClaims": "PersistentVolumeClaim",
    "persistentVolumes": "PersistentVolume", "storageClasses": "StorageClass",
    "csiDrivers": "CSIDriver", "csiNodes": "CSINode", "csiStorageCapacities": "CSIStorageCapacity",
}  # fmt: skip
STATUS = {name: number for number, name in enumerate(NAMES)}


def records(objects: dict[str, list[dict[str, Any]]]) -> list[StateMessage]:
    """Kubernetes objects by plural name -> records, groups before pods."""
    found: list[StateMessage] = []
    for plural, kind in KINDS.items():
        for raw in objects.get(plural) or ():
            if kind in TYPES:
                found.append(from_dict({**raw, "kind": kind}))
            else:
                meta = raw.get("metadata") or {}
                found.append(
                    ObjectRecord(
                        type=kind, namespace=meta.get("namespace", ""), name=meta["name"], uid=meta.get("uid", ""),
                        body=msgspec.Raw(msgspec.json.encode(raw)),
                    )
                )  # fmt: skip
    return found


@dataclass
class Standing:
    """A pod between cycles."""

    status: int
    node: str = ""
    groups: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What one cycle came to: the status of every pod, and what the nodes have left."""

    pods: dict[str, Standing]
    result: CycleResult
    gpus: dict[str, tuple[float, float]]
    zones: dict[str, dict[int, dict[str, float]]]
    accepted: dict[str, float]
    pod_zones: dict[str, list[int]]
    claims: dict[tuple[str, str], Any] = field(default_factory=dict)


class Replay:
    """Runs the cycles of a scenario; the world moves between them as the scenarios' README says."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.scenario = scenario
        self._run = scenario["run"]
        self.records = records(scenario["objects"])
        plugins = set(self._run.get("withoutPlugins") or ())
        flags = {
            "useSchedulingSignatures": False, "maxNumberConsolidationPreemptees": -1,
            "compatibility": scenario.get("compatibility", KAI_0_17),
        }  # fmt: skip
        settings = read(scenario.get("config") or {}, flags | (scenario.get("flags") or {}))
        chosen = tuple(p for p in settings.plugins if p not in plugins)
        if not scenario.get("config"):
            chosen = tuple(p for p in PLUGINS if p not in plugins)
        if scenario["objects"].get("nodeResourceTopologies"):
            chosen = (*chosen, "numa")
        grace = settings.staleness_grace if "globalDefaultStalenessGracePeriod" in (scenario.get("flags") or {}) else 0.0
        usage = {name: tuple(parts) for name, parts in (scenario.get("usage") or {}).items()}
        self.settings = replace(settings, plugins=chosen, staleness_grace=grace, usage=usage)
        self.state = {
            uid: Standing(STATUS[s["status"]], s.get("node", ""), tuple(s.get("gpuGroups") or ()))
            for uid, s in scenario["state"].items()
        }
        self.now = seconds(scenario["now"])
        self._claims: dict[tuple[str, str], Any] = {}
        self._made: list[ObjectRecord] = []
        """Claims for extended resources that binders make between two cycles."""

    def cycle(self) -> Outcome:
        """One cycle on the world as it stands."""
        cluster = Cluster(self.settings)
        unsynced = set((self.scenario.get("fixture") or {}).get("nodesWithoutGpuMemory") or ())
        for record in self.records:
            if isinstance(record, ObjectRecord) and (record.namespace, record.name) in self._claims:
                record = self._claims[record.namespace, record.name]
            cluster.apply(record)
        for name in unsynced:
            cluster.nodes.synced[cluster.nodes.columns[name]] = 0
        for uid, standing in sorted(self.state.items()):
            if standing.status == PENDING:
                cluster.place(uid, PENDING)
            else:
                cluster.place(uid, standing.status, standing.node, standing.groups)
        session = Session(cluster, self.now, self.settings)
        run(session, self._run["actions"])
        pods = {
            uid: Standing(pod.status, session.nodes.name(pod.node) if pod.node >= 0 else pod.node_name, pod.groups)
            for uid, pod in cluster.pods.items()
        }
        outcome = Outcome(
            pods=pods,
            result=session.result,
            gpus={name: session.free_after(name) for name in cluster.nodes.columns},
            zones={name: cluster.numa.available(name) for name in cluster.nodes.columns},
            accepted={uid: pod.accepted[2] for uid, pod in cluster.pods.items()},
            pod_zones={uid: [z for z, _ in pod.zones] for uid, pod in cluster.pods.items()},
        )
        for record in self.records:
            if isinstance(record, ObjectRecord) and record.type == "ResourceClaim":
                self._claims[record.namespace, record.name] = cluster.claims.record(record)
        self._made = [
            made
            for gang in session.result.gangs
            for member in gang.members
            if (made := cluster.claims.made_for(member.uid, member.namespace)) is not None
        ]
        session.close()
        return outcome

    def move(self, outcome: Outcome) -> None:
        """The world between two cycles."""
        deleted = set(self._run.get("podGroupsDeletedWhenEvicted") or ())
        group = {p["metadata"]["uid"]: p["metadata"]["annotations"]["pod-group-name"] for p in self.scenario["objects"]["pods"]}
        for uid, now in outcome.pods.items():
            before = self.state[uid]
            if now.status == RELEASING:
                if group[uid] not in deleted:
                    self.state[uid] = Standing(PENDING, "", before.groups)
            elif now.status == PIPELINED:
                self.state[uid] = Standing(PENDING, "", before.groups)
            elif NAMES[now.status] == "Binding":
                self.state[uid] = Standing(RUNNING, now.node, now.groups)
        since = {(s.namespace, s.group): s.since for s in outcome.result.stale}
        self.records = [
            msgspec.structs.replace(r, stale_since=since[r.namespace, r.name])
            if isinstance(r, GroupRecord) and (r.namespace, r.name) in since
            else r
            for r in self.records
        ]
        self.records += self._made
        self.now += float(self._run.get("secondsBetweenCycles") or 0)


def differences(
    expect: dict[str, Any], outcome: Outcome, scenario: dict[str, Any], moved: dict[str, Standing] | None
) -> list[str]:
    """Where the outcome is not what is demanded. ``moved``: compare with the world after it moved on."""
    wrong: list[str] = []
    pods = moved if moved is not None else outcome.pods
    members: dict[str, list[str]] = {}
    for pod in scenario["objects"]["pods"]:
        members.setdefault(pod["metadata"]["annotations"].get("pod-group-name", ""), []).append(pod["metadata"]["uid"])
    wanted = [(uid, want) for name, want in (expect.get("podGroups") or {}).items() for uid in members.get(name, ())]
    wanted += [(uid, want) for uid, want in (expect.get("pods") or {}).items() if uid in pods]
    for uid, want in wanted:
        have = pods[uid]
        if NAMES[have.status] != want["status"]:
            wrong.append(f"{uid} is {NAMES[have.status]} on {have.node or 'no node'}, not {want['status']}")
        elif want.get("node") and have.node != want["node"]:
            wrong.append(f"{uid} is on {have.node or 'no node'}, not on {want['node']}")
        if want.get("numaZones") is not None and moved is None and sorted(outcome.pod_zones[uid]) != sorted(want["numaZones"]):
            wrong.append(f"{uid} has NUMA zones {outcome.pod_zones[uid]}, not {want['numaZones']}")
    for name, want in (expect.get("podGroups") or {}).items():
        if want.get("gpusAccepted") and moved is None:
            have = sum(outcome.accepted[uid] for uid in members[name])
            if abs(have - want["gpusAccepted"]) > 1e-9:
                wrong.append(f"{name} was given {have} GPUs, not {want['gpusAccepted']}")
        if want.get("message"):
            wrong += _message(name, want["message"], outcome)
    for name, want in (expect.get("nodes") or {}).items() if moved is None else ():
        idle, releasing = outcome.gpus[name]
        for what, have in (("idleGPUs", idle), ("releasingGPUs", releasing)):
            if what in want and have != want[what]:
                wrong.append(f"{name} has {what} {have}, not {want[what]}")
        for zone, amounts in (want.get("numaZonesAvailable") or {}).items():
            for resource, text in amounts.items():
                have = outcome.zones[name].get(int(zone), {}).get(resource)
                should = float(text) * (1000 if resource == "cpu" else 1)
                if have != should:
                    wrong.append(f"{name} zone {zone} has {resource} {have}, not {should}")
    wrong += _told(expect, outcome)
    most = expect.get("atMostPerCycle") or {}
    have = {
        "binds": sum(len(g.members) for g in outcome.result.gangs),
        "evictions": len(outcome.result.evictions),
        "pipelined": len(outcome.result.reserved),
    }
    wrong += [f"{have[what]} {what}, at most {bound} are allowed" for what, bound in most.items() if have[what] > bound]
    return wrong


def _told(expect: dict[str, Any], outcome: Outcome) -> list[str]:
    """Fair shares, reasons and evictions that are not as demanded; only scenarios written here speak of them."""
    wrong: list[str] = []
    result = outcome.result
    shares = {q.name: q.share[2] for q in result.queues}
    wrong += [
        f"{q} has a share of {shares.get(q)}, not {v}" for q, v in (expect.get("shares") or {}).items() if shares.get(q) != v
    ]
    codes = {w.group: w.code for w in result.waiting}
    wrong += [f"{g} waits for {codes.get(g)}, not {v}" for g, v in (expect.get("waits") or {}).items() if codes.get(g) != v]
    if "goes" in expect:
        gone = {e.pod: e.action for e in result.evictions}
        if gone != (expect["goes"] or {}):
            wrong.append(f"what goes is {gone}, not {expect['goes']}")
    return wrong


def _message(group: str, text: str, outcome: Outcome) -> list[str]:
    """The reason given speaks of the same domains and numbers."""
    told = next((w.message for w in outcome.result.waiting if w.group == group), "")
    lines = [line.strip().rstrip(".") for line in text.split("\n") if line.strip()]
    facts = [line for line in lines if "node-group" in line or "couldn't be satisfied" in line]
    return [f"{group}: the reason lacks {fact!r}: {told!r}" for fact in facts if fact.split(" for job")[0] not in told]


def check(scenario: dict[str, Any]) -> list[str]:
    """Run the scenario; what is wrong, empty if nothing is."""
    replay, expect, run_ = Replay(scenario), scenario["expect"], scenario["run"]
    if "cyclesUntilMatch" not in run_:
        return differences(expect, replay.cycle(), scenario, None)
    outcome = None
    for _ in range(run_["cyclesUntilMatch"]):
        outcome = replay.cycle()
        replay.move(outcome)
    assert outcome is not None
    wrong = differences(expect, outcome, scenario, replay.state)
    for i in range(run_.get("cyclesAfterMatch", 0)):
        outcome = replay.cycle()
        wrong += [f"after {i + 1} more: {w}" for w in differences(expect, outcome, scenario, None)]
        replay.move(outcome)
        if wrong:
            break
    return wrong
