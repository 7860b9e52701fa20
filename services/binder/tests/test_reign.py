"""A decision is stale by the epoch of its own shard, and by no other's."""

from __future__ import annotations

import pytest

from shoal_binder.reign import Order, Reigns
from shoal_contracts.decision import Decision, Verb


def order(epoch: int, seq: int, shard: str = "default") -> Order:
    decision = Decision(
        id="d", verb=Verb.BIND, uid="u", namespace="ns", pod="p", node="n", resource_version="1", epoch=epoch, at=0.0
    )
    return Order(decision, seq, shard)


@pytest.mark.parametrize(
    ("epoch", "seq", "lease", "stale"),
    [
        (3, 11, 0, False),  # of the reigning leader
        (2, 11, 0, True),  # stored after it was replaced
        (2, 9, 0, False),  # stored while it led: adopted by the next
        (3, 11, 4, True),  # the Lease knows of a newer one than the stream
    ],
)
def test_a_shard(epoch: int, seq: int, lease: int, stale: bool) -> None:
    reigns = Reigns()
    reign = reigns.of("default")
    reign.epoch, reign.seq, reign.lease = 3, 10, lease
    assert reigns.deposed(order(epoch, seq)) is stale


def test_epochs_of_shards_do_not_mix() -> None:
    reigns = Reigns()
    old = reigns.of("default")
    old.epoch, old.seq = 40, 10
    assert not reigns.deposed(order(1, 12, "blue"))
    young = reigns.of("blue")
    young.epoch, young.seq = 2, 11
    assert reigns.deposed(order(1, 12, "blue"))
    assert not reigns.deposed(order(40, 12))
