"""What the grouping rules work on, and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal_contracts.state import PodRecord, PriorityClassRecord
from shoal_model import labels


class CantGroup(Exception):
    """The workload can't be grouped as it is; the message is for its owner."""


@dataclass(frozen=True)
class Owner:
    """An object above the pod: metadata only."""

    api_version: str
    kind: str
    name: str
    uid: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    deleted: bool = False
    """It is being deleted."""

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """API version without the group."""
        return self.api_version.rpartition("/")[2]


@dataclass(frozen=True)
class Wanted:
    """The pod group that a pod should be in."""

    name: str
    namespace: str
    owner: Owner
    labels: dict[str, str]
    annotations: dict[str, str]
    queue: str
    priority_class: str
    preemptibility: str = ""
    preemption_delay: str = ""
    staleness_grace: str = ""
    min_member: int = 1
    topology: dict[str, str] = field(default_factory=dict)
    missing_class: str = ""
    """A priority class that a label names and that does not exist: ``priority_class`` stands in for it."""

    def spec(self) -> dict[str, Any]:
        """spec of the PodGroup object."""
        found: dict[str, Any] = {
            "queue": self.queue,
            "priorityClassName": self.priority_class,
            "minMember": self.min_member,
            "subGroups": [],
        }
        if self.preemptibility:
            found["preemptibility"] = self.preemptibility
        if self.preemption_delay:
            found["preemptionDelay"] = self.preemption_delay
        if self.staleness_grace:
            found["stalenessGracePeriod"] = self.staleness_grace
        if self.topology:
            found["topologyConstraint"] = self.topology
        return found

    def object(self) -> dict[str, Any]:
        """The PodGroup as it is created."""
        return {
            "apiVersion": "scheduling.run.ai/v2alpha2",
            "kind": "PodGroup",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": self.labels,
                "annotations": self.annotations,
                "ownerReferences": [
                    {
                        "apiVersion": self.owner.api_version,
                        "kind": self.owner.kind,
                        "name": self.owner.name,
                        "uid": self.owner.uid,
                    }
                ],
            },
            "spec": self.spec(),
        }


@dataclass(frozen=True)
class Case:
    """A pod to be grouped: ``owners`` from the direct one to the top one, empty for a bare pod."""

    pod: PodRecord
    owners: list[Owner]
    priority_classes: Mapping[str, PriorityClassRecord]
    queue_label: str = labels.QUEUE
    pool_label: str = labels.NODE_POOL

    @property
    def itself(self) -> Owner:
        """The pod as an owner."""
        pod = self.pod
        return Owner("v1", "Pod", pod.name, pod.uid, pod.labels, pod.annotations)

    @property
    def top(self) -> Owner:
        """The owner on top; the pod itself if it has none."""
        return self.owners[-1] if self.owners else self.itself
