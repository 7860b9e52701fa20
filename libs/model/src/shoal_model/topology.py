"""Topologies: what makes the names of their levels ambiguous."""

from __future__ import annotations

from collections import Counter

from shoal_contracts.state import TopologyRecord


def alias_problems(topology: TopologyRecord) -> list[str]:
    """What is wrong with the aliases, in words for the owner; empty if each name means one level (kubernetes.md 1.4)."""
    times = Counter(level.alias for level in topology.levels if level.alias)
    doubled = sorted(alias for alias, count in times.items() if count > 1)
    keys = {level.label for level in topology.levels}
    found: list[str] = []
    if doubled:
        found.append(f"aliases must be unique within the topology; duplicated: [{', '.join(doubled)}]")
    if taken := sorted(keys & times.keys()):
        found.append(f"an alias must not equal a nodeLabel; conflicting: [{', '.join(taken)}]")
    return found
