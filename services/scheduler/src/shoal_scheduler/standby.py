"""What a standby keeps of the state plane: the last word on each object, decoded, to be applied when it leads."""

from __future__ import annotations

from collections.abc import Iterable

from shoal_service.mirror import News


class Standby:
    """News by object. Groups and queues come before the pods that name them only by chance: the core does not mind."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, tuple[str, ...]], News] = {}

    def take(self, news: News) -> None:
        """The object is so now, or gone."""
        key = (news.kind, news.names)
        if news.record is None:
            self._held.pop(key, None)
        else:
            self._held[key] = news

    def held(self) -> Iterable[News]:
        """All that is there, in the order in which it was first told."""
        return self._held.values()
