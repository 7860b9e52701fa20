"""Every part of the nodes has one owner, a living one, and few parts move when replicas come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.subjects import GPU_PARTITIONS, partition
from shoal_gpu_reservation.ownership import Owners, Part, moves, wanted

REPLICAS = st.sets(st.sampled_from("abcde"), min_size=1)


def settle(owners: Owners, alive: set[str]) -> Owners:
    """All living replicas write what they have to, one after the other, until nobody has to."""
    for _ in range(5):
        for replica in sorted(alive):
            owners = owners | moves(owners, alive, replica)
    return owners


@given(REPLICAS, REPLICAS)
def test_all_parts_come_to_the_living(before: set[str], after: set[str]) -> None:
    owners = settle(settle({}, before), after)
    assert {p: o.owner for p, o in owners.items()} == {p: wanted(p, after) for p in range(GPU_PARTITIONS)}


@given(REPLICAS, REPLICAS)
def test_a_part_of_a_living_owner_is_changed_by_that_owner_alone(before: set[str], after: set[str]) -> None:
    owners = settle({}, before)
    for replica in after:
        for part in moves(owners, after, replica):
            assert owners[part].owner == replica or owners[part].owner not in after


@given(REPLICAS, st.sampled_from("abcde"))
def test_only_parts_of_who_goes_move(alive: set[str], gone: str) -> None:
    if alive == {gone}:
        return
    before = settle({}, alive)
    after = settle(before, alive - {gone})
    assert all(after[p] == before[p] for p in before if before[p].owner != gone)
    assert all(after[p].term > before[p].term for p in before if before[p].owner == gone)


def test_the_first_replica_takes_everything() -> None:
    assert moves({}, {"a"}, "a") == {p: Part("a", 1) for p in range(GPU_PARTITIONS)}


def test_nodes_spread_over_all_parts() -> None:
    assert {partition(f"node-{i:05d}") for i in range(1000)} == set(range(GPU_PARTITIONS))
