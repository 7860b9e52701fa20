"""Gives a pod's claims their volumes before it is bound: one that is there is kept for the claim, or one is asked for on the
node; then both are waited for. What was written stays where the pod is not bound after all, as with kube-scheduler: the next
decision goes by it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from shoal_contracts.decision import Decision
from shoal_kube import Conflict, Kube, NotFound
from shoal_kube.resources import VOLUME_CLAIMS, VOLUMES
from shoal_model.storage import BOUND_BY_CONTROLLER, SELECTED_NODE, Claim, Volume, suits
from shoal_service.clock import Clock

SHORTEST, LONGEST = 0.1, 2.0
"""Seconds between two looks at a claim."""
_CLAIM = msgspec.json.Decoder(Claim)
_VOLUME = msgspec.json.Decoder(Volume)


class VolumeBinding:
    """Carries out what decisions say of volumes. Each step can be done again."""

    def __init__(self, kube: Kube, clock: Clock, timeout: float) -> None:
        self._kube, self._clock, self._timeout = kube, clock, timeout

    async def bind(self, decision: Decision) -> str:
        """Why a claim can't have its volume; empty when all have theirs. Raises KubeError."""
        deadline = self._clock.monotonic() + self._timeout
        each = (self._one(decision, *pair, deadline) for pair in sorted(decision.volumes.items()))
        found = await asyncio.gather(*each, return_exceptions=True)
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return next((answer for answer in found if isinstance(answer, str) and answer), "")

    async def _one(self, decision: Decision, name: str, volume: str, deadline: float) -> str:
        path = VOLUME_CLAIMS.path(name, decision.namespace)
        asked, pause = False, SHORTEST
        while True:
            try:
                claim = _CLAIM.decode(await self._kube.get(path))
            except NotFound:
                return f"persistentvolumeclaim {name!r} is gone"
            if claim.spec.volume_name:
                if claim.status.phase == "Bound":
                    return ""
            elif volume:
                if why := await self._keep(volume, claim):
                    return why
            elif claim.selected_node == "" and asked:
                return f"no volume could be made for claim {name!r} on {decision.node}: its events say why"
            elif claim.selected_node not in ("", decision.node):
                return f"the volume of claim {name!r} is being made for node {claim.selected_node}"
            elif not asked:
                asked = claim.selected_node == decision.node or await self._ask(path, claim, decision.node)
                if not asked:
                    continue
            if self._clock.monotonic() > deadline:
                return f"claim {name!r} got no volume within {self._timeout:.0f} s: its events may say why"
            await asyncio.sleep(pause)
            pause = min(LONGEST, pause * 1.5)

    async def _ask(self, path: str, claim: Claim, node: str) -> bool:
        """Let the provisioner make a volume for the node; False if the claim changed meanwhile."""
        metadata = {"resourceVersion": claim.metadata.resource_version, "annotations": {SELECTED_NODE: node}}
        try:
            await self._kube.merge_patch(path, {"metadata": metadata})
        except Conflict:
            return False
        return True

    async def _keep(self, name: str, claim: Claim) -> str:
        """Keep the volume for the claim; says why that can't be."""
        path, mine = VOLUMES.path(name), claim.metadata
        try:
            volume = _VOLUME.decode(await self._kube.get(path))
        except NotFound:
            return f"volume {name} is gone"
        if not suits(volume, claim):
            return f"volume {name} went to another claim"
        if volume.spec.claim_ref is not None and volume.spec.claim_ref.uid == mine.uid:
            return ""
        ref = {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": mine.namespace, "name": mine.name,
            "uid": mine.uid, "resourceVersion": mine.resource_version,
        }  # fmt: skip
        metadata: dict[str, Any] = {"resourceVersion": volume.metadata.resource_version}
        if volume.spec.claim_ref is None:
            metadata["annotations"] = {BOUND_BY_CONTROLLER: "yes"}
        # After a conflict it is looked at again in a moment.
        with suppress(Conflict):
            await self._kube.merge_patch(path, {"metadata": metadata, "spec": {"claimRef": ref}})
        return ""
