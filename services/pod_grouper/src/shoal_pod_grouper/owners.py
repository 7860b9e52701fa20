"""The chain of owners above a pod, read from the API and kept for a while."""

from __future__ import annotations

from dataclasses import replace

from shoal_contracts.state import OwnerRef, PodRecord
from shoal_grouping import CantGroup, Owner, decode_owner
from shoal_kube import Forbidden, Kube, NotFound
from shoal_service import Clock

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
KEEP = 30.0
"""Seconds that an owner is believed without asking again."""
MOST = 20_000
DEEPEST = 16

PLURALS = {"Pod": "pods", "ReplicaSet": "replicasets", "Deployment": "deployments", "StatefulSet": "statefulsets",
           "Job": "jobs", "CronJob": "cronjobs"}  # fmt: skip


def plural(kind: str) -> str:
    """The resource name of a kind: as known, else by the rules of English that API authors follow."""
    if kind in PLURALS:
        return PLURALS[kind]
    low = kind.lower()
    if low.endswith(("s", "x", "ch", "sh")):
        return low + "es"
    return low[:-1] + "ies" if low.endswith("y") and low[-2:-1] not in "aeiou" else low + "s"


class Owners:
    """Reads owners; the answers are kept by UID."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube, self._clock = kube, clock
        self._kept: dict[str, tuple[float, Owner | None, list[OwnerRef]]] = {}
        """Owner's uid -> (when, the owner or None where it may not be read, its own owners)."""

    def forget(self, pod: PodRecord) -> None:
        """Ask again for what owns the pod."""
        references = pod.owners[:1]
        while references:
            kept = self._kept.pop(references[0].uid, None)
            references = kept[2][:1] if kept else []

    async def chain(self, pod: PodRecord) -> tuple[list[Owner], OwnerRef | None]:
        """(owners from the direct one to the top, the one above that may not be read); spec: kubernetes.md 3.3.

        Raises CantGroup when the chain is ambiguous or broken, KubeError when the API does not answer.
        """
        found: list[Owner] = []
        references = pod.owners[:1]
        while references:
            if len(references) > 1:
                raise CantGroup(
                    f"{found[-1].kind} {pod.namespace}/{found[-1].name} has several owners: which one groups its pods?"
                )
            if len(found) == DEEPEST:
                raise CantGroup(f"more than {DEEPEST} owners above the pod")
            reference = references[0]
            owner, references = await self._read(pod.namespace, reference)
            if owner is None:
                # What may not be read does not take part: the chain ends below it.
                return found, reference
            found.append(owner)
        return found, None

    async def _read(self, namespace: str, reference: OwnerRef) -> tuple[Owner | None, list[OwnerRef]]:
        now = self._clock.monotonic()
        kept = self._kept.get(reference.uid)
        if kept and now - kept[0] < KEEP:
            return kept[1], kept[2]
        api = "/api/v1" if "/" not in reference.api_version else f"/apis/{reference.api_version}"
        path = f"{api}/namespaces/{namespace}/{plural(reference.type)}/{reference.name}"
        try:
            owner, above = decode_owner(await self._kube.get(path, accept=METADATA))
        except Forbidden:
            self._keep(reference.uid, now, None, [])
            return None, []
        except NotFound as error:
            raise CantGroup(f"owner {reference.type} {namespace}/{reference.name} of the pod is not there") from error
        if owner.uid != reference.uid:
            raise CantGroup(f"owner {reference.type} {namespace}/{reference.name} is another object of that name now")
        # Metadata alone names the kind of the answer, not of the object.
        owner = replace(owner, api_version=reference.api_version, kind=reference.type)
        references = [
            OwnerRef(api_version=o.api_version, type=o.kind, name=o.name, uid=o.uid, controller=bool(o.controller))
            for o in above
        ]
        self._keep(reference.uid, now, owner, references)
        return owner, references

    def _keep(self, uid: str, now: float, owner: Owner | None, references: list[OwnerRef]) -> None:
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[uid] = (now, owner, references)
