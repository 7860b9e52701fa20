"""Ask the API to evict a pod, and say in one word what it answered."""

from __future__ import annotations

from shoal_binder.bind import Posted
from shoal_binder.insist import insist, may_insist
from shoal_contracts.decision import Decision
from shoal_kube import Conflict, Kube, KubeError, NotFound, Recorder, Throttled, Unreachable

_BAD_REQUEST = 400
_NO_ANSWER = (0, 502, 503, 504)
"""Statuses (0: none came) after which the eviction may or may not have been done, and may be tried again."""


def dry_run_unsupported(error: KubeError) -> bool:
    """A webhook stands in the way that is never called by dry run: only doing it will tell."""
    return error.status == _BAD_REQUEST and "does not support dry run" in error.message


async def evict(kube: Kube, recorder: Recorder, decision: Decision, version: str, *, dry_run: bool) -> tuple[Posted, str]:
    """The answer and its text. What the API refuses is refused; only what may pass by itself counts as no answer."""
    try:
        try:
            await kube.evict(decision.namespace, decision.pod, decision.uid, version, dry_run=dry_run)
        except KubeError as error:
            if dry_run and dry_run_unsupported(error):
                return Posted.DONE, ""
            if not may_insist(decision, error):
                raise
            if not dry_run:
                await insist(kube, recorder, decision, version)
    except NotFound as error:
        return Posted.NOT_FOUND, error.message
    except Conflict as error:
        return Posted.CONFLICT, error.message
    except Throttled as error:
        return (Posted.REFUSED, error.budget) if error.budget else (Posted.NO_ANSWER, error.message)
    except Unreachable as error:
        return Posted.NO_ANSWER if error.status in _NO_ANSWER else Posted.REFUSED, f"{error.reason}: {error.message}"
    except KubeError as error:
        return Posted.REFUSED, f"{error.reason}: {error.message}"
    return Posted.DONE, ""
