"""Which of two sibling queues is served first (policy spec 3.3), as a key: the smaller goes first."""

from __future__ import annotations

from shoal_core.fairness.division import UNLIMITED
from shoal_core.queues import Queue, plus
from shoal_core.rows import EXACT, NOTHING, Vector

INFINITE = float("inf")


class Tie:
    """The rules that are no plain number: the smaller allowance goes first if it is smaller in all resources, then age."""

    __slots__ = ("allowance", "queue")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.allowance = tuple(INFINITE if v == UNLIMITED else v for v in queue.allowance)

    def __lt__(self, other: Tie) -> bool:
        mine, others = self.allowance, other.allowance
        if mine != others:
            if all(a <= b for a, b in zip(mine, others, strict=True)):
                return True
            if all(a >= b for a, b in zip(mine, others, strict=True)):
                return False
        return (self.queue.created, self.queue.name) < (other.queue.created, other.queue.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tie) and self.queue is other.queue

    __hash__ = None  # type: ignore[assignment]


OrderKey = tuple[bool, bool, int, bool, float, float, Tie]


class Standing:
    """What of a queue does not change in a cycle, as the key needs it."""

    __slots__ = ("empty", "keys", "last", "quota", "sizes", "tie", "total")

    def __init__(self, queue: Queue, total: Vector) -> None:
        self.total, self.tie, self.last = total, Tie(queue), -queue.priority
        allowance = queue.allowance
        self.sizes = tuple(total[r] if allowance[r] == UNLIMITED else allowance[r] for r in range(3))
        self.quota = tuple(INFINITE if v == UNLIMITED else v for v in queue.quota)
        self.empty = tuple(v == 0 for v in allowance) if 0 in allowance else None
        """Of which resources it may have nothing."""
        self.keys: dict[tuple[Vector, Vector, Vector | None], OrderKey] = {}
        """Keys by what the queue has, and what would start or go: simulations ask for most of them again."""


def dominant_share(cpu: float, memory: float, gpus: float, sizes: tuple[float, ...]) -> float:
    """The largest part that it has of what it may have, ``sizes`` (DRF; policy spec 2.7)."""
    # Unrolled: this is the innermost of all comparisons.
    size = sizes[0]
    most = cpu / size if size else cpu * 1000
    size = sizes[1]
    part = memory / size if size else memory * 1000
    if part > most:
        most = part
    size = sizes[2]
    part = gpus / size if size else gpus * 1000
    if part > most:
        most = part
    return most if most > 0 else 0.0


def order_key(queue: Queue, chunk: Vector, total: Vector, taken: Vector | None = None) -> OrderKey:
    """The queue's place among its siblings, with what would start next in it (``chunk``).

    Victims are looked for from the other end: then ``chunk`` is nothing and ``taken`` what would be gone with the next.
    """
    standing: Standing | None = queue.standing
    if standing is None or standing.total is not total:
        standing = queue.standing = Standing(queue, total)
    have = queue.allocated
    of = (have, chunk, taken)
    found = standing.keys.get(of)
    if found is not None:
        return found
    share, quota, empty, sizes = queue.share, standing.quota, standing.empty, standing.sizes
    cpu, memory, gpus = a, b, c = have
    now = after = dominant_share(a, b, c, sizes)
    if taken is not None:
        after = dominant_share(*plus(queue.allocated, taken, -1.0), sizes)
    elif chunk is not NOTHING:
        cpu, memory, gpus = a + chunk[0], b + chunk[1], c + chunk[2]
        if gpus % EXACT:
            gpus = round(gpus, 6)
        after = dominant_share(cpu, memory, gpus, sizes)
    found = standing.keys[of] = (
        share[0] < a and share[1] < b and share[2] < c,
        # Not below its quota:
        cpu > quota[0] or memory > quota[1] or gpus > quota[2],
        standing.last,
        # It asks for what it may have nothing of:
        empty is not None and ((cpu > 0 and empty[0]) or (memory > 0 and empty[1]) or (gpus > 0 and empty[2])),
        after,
        now,
        standing.tie,
    )
    return found
