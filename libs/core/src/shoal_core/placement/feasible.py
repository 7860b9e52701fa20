"""May a pod of this shape run on a node with these labels and taints? In plain Python, once per class and profile."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shoal_contracts.state import NodeTerm, PodRecord, Requirement, Selector, Taint, Toleration

SHUNNING = "PreferNoSchedule"
BLOCKING = frozenset({"NoSchedule", "NoExecute"})
CORDONED = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
"""What ``spec.unschedulable`` of a node amounts to (Kubernetes' NodeUnschedulable)."""
_INTEGER = re.compile(r"[+-]?[0-9]+")
_LEAST, _MOST = -(2**63), 2**63 - 1


def integer(text: str) -> int | None:
    """The number as Go's ParseInt(text, 10, 64) reads it: a sign, ASCII digits, the range of int64; None for all else."""
    if _INTEGER.fullmatch(text) is None:
        return None
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) > 19:
        return None
    found = -int(digits) if text[0] == "-" else int(digits)
    return found if _LEAST <= found <= _MOST else None


def matches(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Whether the labels meet the requirement (Kubernetes' rules for node selectors)."""
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            have = integer(value) if value is not None else None
            bound = integer(requirement.values[0]) if len(requirement.values) == 1 else None
            if have is None or bound is None:
                return False
            return have > bound if requirement.operator == "Gt" else have < bound
        case _:
            return False


def selects(selector: Selector | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector means these labels. None selects nothing; Gt and Lt are no operators of label selectors."""
    if selector is None:
        return False
    return all(r.operator not in ("Gt", "Lt") and matches(r, labels) for r in selector.requirements)


def _names(requirement: Requirement, name: str) -> bool:
    """Whether a node of this name meets a requirement on fields: In or NotIn, one value, metadata.name alone."""
    if requirement.operator not in ("In", "NotIn") or len(requirement.values) != 1:
        return False
    found = name if requirement.key == "metadata.name" else ""
    return (found == requirement.values[0]) == (requirement.operator == "In")


def meets(term: NodeTerm, name: str, labels: Mapping[str, str]) -> bool:
    """Whether the node meets one term of a node selector; an empty term is met by none."""
    if not term.expressions and not term.fields:
        return False
    return all(matches(r, labels) for r in term.expressions) and all(_names(r, name) for r in term.fields)


def selected(pod: PodRecord, name: str, labels: Mapping[str, str]) -> bool:
    """Node selector and required node affinity."""
    if any(labels.get(k) != v for k, v in pod.node_selector.items()):
        return False
    terms = pod.affinity.node_required if pod.affinity else None
    return terms is None or any(meets(t, name, labels) for t in terms)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Kubernetes' rule: an empty effect matches all effects, an empty key with Exists all taints."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator == "Equal" and bool(toleration.key) and toleration.value == taint.value


def tolerated(pod: PodRecord, taints: list[Taint]) -> bool:
    """Whether the pod tolerates every taint that keeps pods away."""
    return all(any(tolerates(t, taint) for t in pod.tolerations) for taint in taints if taint.effect in BLOCKING)


def wished(pod: PodRecord, name: str, labels: Mapping[str, str]) -> int:
    """The weights of the preferred terms of node affinity that the node meets."""
    return sum(t.weight for t in (pod.affinity.node_preferred if pod.affinity else ()) if meets(t, name, labels))


def shunned(pod: PodRecord, taints: list[Taint]) -> int:
    """How many taints would rather have the pod elsewhere (PreferNoSchedule)."""
    return sum(t.effect == SHUNNING and not any(tolerates(o, t) for o in pod.tolerations) for t in taints)


def may_use_cordoned(pod: PodRecord) -> bool:
    """Whether the pod tolerates that a node is cordoned."""
    return any(tolerates(t, CORDONED) for t in pod.tolerations)


def names_nodes(pod: PodRecord) -> bool:
    """Whether the pod's rules look at a node's own name, so that labels alone don't decide."""
    hostname = "kubernetes.io/hostname"
    if hostname in pod.node_selector:
        return True
    terms = (pod.affinity.node_required if pod.affinity else None) or []
    return any(t.fields or any(r.key == hostname for r in t.expressions) for t in terms)
