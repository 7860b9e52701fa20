"""Any workload without rules of its own: one group, no minimum but one pod."""

from __future__ import annotations

from shoal_grouping.rules import default
from shoal_grouping.wanted import Case, Wanted


def group(case: Case) -> Wanted:
    """The default group; priority and the like are looked for along the whole chain of owners."""
    return default(case, owners=case.owners or [case.itself])
