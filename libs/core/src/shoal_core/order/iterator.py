"""Jobs in the order in which they are served: best queue first, best job in it, with progress changing the order.

The order of sibling queues is looked at again only along the path of the job that was taken, right before the next one
is taken (policy spec 3.1): what did not change keeps its place.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

from shoal_core.order.queues import OrderKey
from shoal_core.queues import Queue
from shoal_core.rows import Vector

J = TypeVar("J")


class Node(Generic[J]):
    """A queue that has jobs, or has queues that have some."""

    __slots__ = ("children", "flagged", "jobs", "key", "parent", "queue", "seen", "top")

    def __init__(self, queue: Queue | None, parent: Node[J] | None) -> None:
        self.queue, self.parent = queue, parent
        self.children: list[Node[J]] = []
        self.jobs: list[J] = []
        self.top: Node[J] | None = None
        """The child that goes first, as of the last look."""
        self.key: OrderKey | None = None
        self.seen: Vector | None = None
        """What the queue had when ``key`` was made."""
        self.flagged = False

    @property
    def representative(self) -> Node[J]:
        """The leaf at the end of the tops."""
        at = self
        while at.top is not None:
            at = at.top
        return at


State = tuple[Node[J], list[Node[J]], "Node[J] | None", "OrderKey | None", "Vector | None", bool]
Mark = tuple[dict[str, Node[J]], list[State[J]]]


class Iterator(Generic[J]):
    """Takes jobs one by one. Subclasses say how jobs and queues compare; ``reverse`` takes the last queue first."""

    reverse = False

    def __init__(self) -> None:
        self._root: Node[J] = Node(None, None)
        self._nodes: dict[str, Node[J]] = {}
        self._ready = False

    @abstractmethod
    def key(self, node: Node[J]) -> OrderKey:
        """Key of a node that has jobs below."""

    @abstractmethod
    def take(self, leaf: Node[J]) -> J:
        """Take the leaf's first job."""

    @abstractmethod
    def has(self, leaf: Node[J]) -> bool:
        """Whether the leaf has jobs left."""

    def leaf(self, queue: Queue) -> Node[J]:
        """The queue's node, made together with those above if it is not there; flags the path."""
        found = self._nodes.get(queue.name)
        if found is None:
            above = self._root if queue.parent is None else self.leaf(queue.parent)
            found = self._nodes[queue.name] = Node(queue, above)
            above.children.append(found)
        return found

    def touched(self, node: Node[J]) -> None:
        """Something changed for the node: its place is looked at again before it is next taken from."""
        at: Node[J] | None = node
        while at is not None and at.parent is not None:
            above = at.parent
            if at.key is None:
                # New among its siblings: it takes its place at once.
                self._rank(at)
                assert at.key is not None
                if above.top is None or (above.top.key is not None and (at.key < above.top.key) != self.reverse):
                    above.top = at
            at.flagged = True
            at = above

    def start(self) -> None:
        """All jobs are in: settle the first order."""
        self._ready = True
        self._build(self._root)

    def _build(self, node: Node[J]) -> None:
        for child in node.children:
            self._build(child)
            self._rank(child)
        node.top = self._first(node)

    def _rank(self, node: Node[J]) -> None:
        assert node.queue is not None
        node.key, node.seen = self.key(node), node.queue.allocated

    def _first(self, node: Node[J]) -> Node[J] | None:
        best: Node[J] | None = None
        least: OrderKey | None = None
        reverse = self.reverse
        for child in node.children:
            if child.key is None or child.seen is not child.queue.allocated:  # type: ignore[union-attr]
                self._rank(child)
            key = child.key
            if least is None or (key < least) != reverse:  # type: ignore[operator]
                best, least = child, key
        return best

    def mark(self) -> Mark[J]:
        """How things stand, for ``back``."""
        nodes = (self._root, *self._nodes.values())
        return dict(self._nodes), [(n, n.children.copy(), n.top, n.key, n.seen, n.flagged) for n in nodes]

    def back(self, mark: Mark[J], taken: list[J]) -> None:
        """Undo all that happened since the mark: ``taken`` was taken, in this order, and nothing was put back."""
        nodes, states = mark
        self._nodes = dict(nodes)
        for node, children, top, key, seen, flagged in states:
            node.children, node.top, node.key, node.seen, node.flagged = children.copy(), top, key, seen, flagged
        for job in reversed(taken):
            self.give_back(job)

    def give_back(self, job: J) -> None:
        """The job is its queue's first again, as if it had not been taken."""
        raise NotImplementedError

    def pop(self) -> J | None:
        """The next job, None when there is no more."""
        if not self._ready:
            self.start()
        node = self._root
        if not node.children:
            return None
        while node.children:
            while True:
                top = node.top
                assert top is not None
                if not top.flagged:
                    break
                top.flagged = False
                self._rank(top)
                node.top = self._first(node)
            node = top
        job = self.take(node)
        at = node
        while not at.children and at.parent is not None and not self.has(at):
            parent = at.parent
            parent.children.remove(at)
            del self._nodes[at.queue.name]  # type: ignore[union-attr]
            parent.top = self._first(parent) if parent.children else None
            at = parent
            if at.children:
                break
        self.touched(at)
        return job
