"""From a pod and its owners to the pod group that it should be in. Pure."""

from shoal_grouping.group import changes, concerns, decode_owner, given_by_user, group_of
from shoal_grouping.wanted import CantGroup, Case, Owner, Wanted

__all__ = ["CantGroup", "Case", "Owner", "Wanted", "changes", "concerns", "decode_owner", "given_by_user", "group_of"]
