"""What is wrong with the shared GPUs of a node, and what mends it. Pure: the ledger and the time in, repairs out.

====================  =============================================  ================================================
found                 meaning                                        mended by
====================  =============================================  ================================================
RELEASED              its last user is gone                          its reservation is deleted
UNUSED                a reservation that nobody was seen to use      its reservation is deleted
UNPROTECTED           users without a reservation: the device may    the users are evicted
                      be given to others
SHARED_TWICE          two groups hold one device                     the one without users goes, else the younger one
                                                                     with its users
LOST                  the device, or its node, is gone               users evicted, reservation deleted
SILENT                no device after the time for it                its reservation is deleted; requests are refused
DOUBLE                a second reservation for the same group        the younger one is deleted
====================  =============================================  ================================================

Each state must last for a while before it is acted on (what is told comes in pieces), and whoever acts looks at the API
once more.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass

from shoal_gpu_reservation.ledger import Group, Key, Ledger, Reservation, User


class Found(enum.StrEnum):
    """What was found."""

    RELEASED = "GpuReleased"
    UNUSED = "GpuReservationUnused"
    UNPROTECTED = "GpuReservationMissing"
    SHARED_TWICE = "GpuReservedTwice"
    LOST = "GpuLost"
    SILENT = "GpuReservationSilent"
    DOUBLE = "GpuReservationDouble"


@dataclass(frozen=True)
class Patience:
    """Seconds that a state must last."""

    release: float = 1.0
    grace: float = 5.0
    allocation: float = 40.0
    """For a reservation to learn its device."""


@dataclass(frozen=True)
class Repair:
    """One thing to mend: delete these reservations, evict these users, and say so."""

    found: Found
    key: Key
    message: str
    delete: tuple[Reservation, ...] = ()
    evict: tuple[User, ...] = ()


class Watch:
    """Remembers since when something is wrong."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since: dict[tuple[Found, Key, str], float] = {}
        self._used: set[str] = set()
        """Uids of reservations that somebody was seen to use."""

    def judge(
        self, ledger: Ledger, now: float, mine: Callable[[str], bool], nodes: Collection[str], held: Collection[Key]
    ) -> list[Repair]:
        """What is to be mended now on the nodes that are ``mine``.

        ``nodes``: those that exist; ``held``: groups for which a request is under way.
        """
        found: list[tuple[Repair, float, str]] = []
        by_device: dict[tuple[str, str], list[Group]] = {}
        self._used.intersection_update({uid for g in ledger.groups.values() for uid in g.reservations})
        for key, group in ledger.groups.items():
            if not mine(group.node):
                continue
            if group.users:
                self._used.update(group.reservations)
            found += self._of_group(key, group, key in held, group.node in nodes)
            if (standing := group.reservation) and standing.device:
                by_device.setdefault((group.node, standing.device), []).append(group)
        for (node, device), groups in by_device.items():
            if len(groups) > 1:
                found += self._twice(node, device, groups)
        return self._ripe(found, now)

    def _ripe(self, found: list[tuple[Repair, float, str]], now: float) -> list[Repair]:
        """Those that have lasted for their time; what is no longer so is forgotten."""
        marks = {(r.found, r.key, mark) for r, _, mark in found}
        self._since = {m: at for m, at in self._since.items() if m in marks}
        ripe = []
        for repair, patience, mark in found:
            since = self._since.setdefault((repair.found, repair.key, mark), now)
            if now - since >= patience:
                ripe.append(repair)
        return ripe

    def _of_group(self, key: Key, group: Group, held: bool, exists: bool) -> list[tuple[Repair, float, str]]:
        patience, standing = self._patience, group.reservation
        users = tuple(group.users.values())
        found: list[tuple[Repair, float, str]] = []
        where = f"group {group.name} on node {group.node}"
        if standing is None:
            if users:
                text = f"{where} has {len(users)} users and no reservation: its device may be given to others"
                found.append((Repair(Found.UNPROTECTED, key, text, evict=users), patience.grace, ""))
            return found
        younger = tuple(r for r in group.reservations.values() if not r.leaving and r.uid != standing.uid)
        if younger:
            text = f"{where} has {len(younger) + 1} reservations: {standing.name} stays"
            found.append((Repair(Found.DOUBLE, key, text, delete=younger), patience.grace, younger[0].uid))
        if standing.lost or not exists:
            text = f"{where}: {standing.lost or 'the node is gone'}"
            repair = Repair(Found.LOST, key, text, delete=(standing,), evict=users if exists else ())
            found.append((repair, patience.grace, standing.uid))
        elif not standing.device:
            text = f"{where} got no device in {patience.allocation:g} s: is the device plugin running, and a GPU free?"
            found.append((Repair(Found.SILENT, key, text, delete=(standing,), evict=users), patience.allocation, standing.uid))
        if not group.in_use and not held and not found:
            if standing.uid in self._used:
                text = f"{where}: its last user is gone, device {standing.device} is free"
                found.append((Repair(Found.RELEASED, key, text, delete=(standing,)), patience.release, standing.uid))
            else:
                text = f"{where} is reserved and nobody uses it"
                found.append((Repair(Found.UNUSED, key, text, delete=(standing,)), patience.grace, standing.uid))
        return found

    def _twice(self, node: str, device: str, groups: list[Group]) -> list[tuple[Repair, float, str]]:
        """The group that stays is one with users, and the oldest of those."""
        standing = [(g, r) for g in groups if (r := g.reservation)]
        standing.sort(key=lambda pair: (not pair[0].in_use, pair[1].created, pair[1].name))
        stays = standing[0][0].name
        found = []
        for group, reservation in standing[1:]:
            text = f"device {device} of node {node} is held by group {stays} and by group {group.name}: the latter goes"
            users = tuple(group.users.values())
            repair = Repair(Found.SHARED_TWICE, (node, group.name), text, delete=(reservation,), evict=users)
            found.append((repair, self._patience.grace, reservation.uid))
        return found
