"""Evictions that a PodDisruptionBudget forbids, of pods whose queue lets them go in spite of it: never without a word."""

from __future__ import annotations

from shoal_binder import metrics
from shoal_contracts.decision import Decision
from shoal_kube import Kube, KubeError, Recorder, Ref
from shoal_kube.resources import PODS

REASON = "BudgetIgnored"
_FORBIDS, _SEVERAL = 429, 500
_WORDS = ("disruption budget", "PodDisruptionBudget")


def may_insist(decision: Decision, error: KubeError) -> bool:
    """Whether a budget forbade the eviction, or two of them did, and the queue of the pod lets it go all the same."""
    forbidden = error.status in (_FORBIDS, _SEVERAL) and any(word in error.message for word in _WORDS)
    return forbidden and bool(decision.ignored_budgets)


async def insist(kube: Kube, recorder: Recorder, decision: Decision, version: str) -> None:
    """Delete the pod on condition of its UID and version, and say so on it and on the budgets. Raises KubeError."""
    await kube.delete(PODS.path(decision.pod, decision.namespace), decision.uid, version)
    metrics.BUDGETS_IGNORED.inc()
    names = ", ".join(sorted(decision.ignored_budgets))
    text = f"Pod {decision.pod} is deleted in spite of PodDisruptionBudget {names}: queue {decision.queue} ignores budgets"
    recorder.event(Ref("v1", "Pod", decision.namespace, decision.pod, decision.uid), "Warning", REASON, text)
    for name, uid in sorted(decision.ignored_budgets.items()):
        recorder.event(Ref("policy/v1", "PodDisruptionBudget", decision.namespace, name, uid), "Warning", REASON, text)
