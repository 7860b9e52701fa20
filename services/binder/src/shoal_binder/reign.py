"""Who leads each shard, and whether a decision is one of a leader that was replaced. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_contracts.decision import Decision


@dataclass
class Reign:
    """The leader of a shard: its epoch, the sequence of the record that says so, and the epoch that its Lease told."""

    epoch: int = 0
    seq: int = 0
    lease: int = 0


@dataclass(frozen=True)
class Order:
    """A decision, its sequence in the stream, and the shard that decided it."""

    decision: Decision
    seq: int
    shard: str


class Reigns:
    """By shard."""

    def __init__(self) -> None:
        self._reigns: dict[str, Reign] = {}

    def of(self, shard: str) -> Reign:
        """What is known of the shard's leader, to be changed in place."""
        return self._reigns.setdefault(shard, Reign())

    def deposed(self, order: Order) -> bool:
        """Whether the decision was stored under a leader of its shard that another had replaced before."""
        reign = self.of(order.shard)
        return order.decision.epoch < max(reign.epoch, reign.lease) and 0 < reign.seq < order.seq
