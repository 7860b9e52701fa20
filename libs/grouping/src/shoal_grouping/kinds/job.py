"""Jobs: one group; a gang only if the annotation says how many pods must start together."""

from __future__ import annotations

from shoal_grouping.rules import default
from shoal_grouping.wanted import CantGroup, Case, Wanted
from shoal_model import labels


def group(case: Case) -> Wanted:
    """The Job's group. Raises CantGroup if its minimum is no number."""
    text = case.top.annotations.get(labels.MIN_MEMBER)
    if text is None:
        return default(case)
    try:
        minimum = int(text)
    except ValueError as error:
        raise CantGroup(
            f"annotation {labels.MIN_MEMBER} of Job {case.top.name} is {text[:64]!r}: write a whole number"
        ) from error
    if not 0 <= minimum < 2**31:
        raise CantGroup(f"annotation {labels.MIN_MEMBER} of Job {case.top.name} is {minimum}: write 0 or more")
    return default(case, min_member=minimum)


def of_cron_job(case: Case) -> Wanted:
    """A group per run: that of the Job below the CronJob. Raises CantGroup without one."""
    jobs = [i for i, owner in enumerate(case.owners) if owner.kind == "Job"]
    if not jobs:
        raise CantGroup("the pod of a CronJob has no Job among its owners")
    return default(Case(case.pod, case.owners[: jobs[0] + 1], case.priority_classes))
