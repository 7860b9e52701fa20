"""Who serves which node pool: two schedulers on one would take each other's room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal_shard_controller.objects import DEFAULT, PARTITION, SHARD


def refused(wanted: Mapping[str, tuple[str, str]], served: Mapping[str, str]) -> dict[str, str]:
    """Shards that can't have the node pool they want -> why.

    ``wanted``: shard -> (pool, when it was made); ``served``: shard -> pool that its scheduler serves now. A pool is its
    server's until that one's pods are replaced; of those that want a free one, the oldest's. What is in no pool is left to
    the shard named default: the scheduler that the chart brings serves it, with or without an object.
    """
    holders = {"": DEFAULT} | {pool: shard for shard, pool in served.items() if pool and (shard == DEFAULT or shard in wanted)}
    found = {}
    for shard, (pool, _) in sorted(wanted.items(), key=lambda item: (item[1][1], item[0])):
        if (holder := holders.setdefault(pool, shard)) != shard:
            named = f"node pool {pool!r}" if pool else "what is in no node pool"
            found[shard] = f"spec.partitionLabelValue: {named} is served by shard {holder}: choose another, or remove that one"
    return found


def served(deployments: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Shard -> pool, of the Deployments that stand."""
    found = {}
    for each in deployments.values():
        metadata = each["metadata"]
        if shard := (metadata.get("labels") or {}).get(SHARD):
            found[shard] = (metadata.get("annotations") or {}).get(PARTITION, "")
    return found
