"""Deployments: each pod is a group of its own, so that replicas start and stop one by one."""

from __future__ import annotations

from shoal_grouping.rules import default
from shoal_grouping.wanted import Case, Wanted


def group(case: Case) -> Wanted:
    """A group per pod, owned by the pod; queue and labels are the Deployment's."""
    return default(case, fallback="inference", owner=case.itself)
