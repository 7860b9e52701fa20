"""Pods that may run on one node alone, as those of DaemonSets."""

from __future__ import annotations

from shoal_contracts.state import NodeTerm, PodRecord

NAME = "metadata.name"


def _named(term: NodeTerm) -> str:
    return next((f.values[0] for f in term.fields if f.key == NAME and f.operator == "In" and len(f.values) == 1), "")


def pinned_node(pod: PodRecord) -> str:
    """The only node that a waiting pod may run on, by a required node affinity on the node's name in each of its terms; empty
    where there is no such node, and for pods that wait for something else: with scheduling gates, or being deleted."""
    if pod.node or pod.gated or pod.deleted or pod.affinity is None:
        return ""
    names = {_named(term) for term in pod.affinity.node_required or ()}
    return names.pop() if len(names) == 1 else ""
