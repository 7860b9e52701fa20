"""What the state plane should hold, and what of it is still to be published. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A record as bytes, and the headers it goes out with."""

    data: bytes
    headers: dict[str, str]


class Picture:
    """Subject -> record. Changes collect in ``dirty``; a later change of a subject replaces an earlier one."""

    def __init__(self) -> None:
        self.held: dict[str, Entry] = {}
        self.dirty: dict[str, None] = {}
        """Subjects to publish, oldest first."""

    def put(self, subject: str, data: bytes, headers: dict[str, str]) -> bool:
        """A record is so now; False if it was so already."""
        old = self.held.get(subject)
        if old is not None and old.data == data:
            return False
        self.held[subject] = Entry(data, headers)
        self.dirty[subject] = None
        return True

    def drop(self, subject: str) -> bool:
        """A record is gone; False if there was none."""
        if self.held.pop(subject, None) is None:
            return False
        self.dirty[subject] = None
        return True

    def take(self, most: int) -> list[tuple[str, Entry | None]]:
        """Up to ``most`` changes to publish now; None is a deletion."""
        chosen = list(self.dirty)[:most] if len(self.dirty) > most else list(self.dirty)
        for subject in chosen:
            del self.dirty[subject]
        return [(s, self.held.get(s)) for s in chosen]

    def put_back(self, subjects: list[str]) -> None:
        """These could not be published: they come first again."""
        self.dirty = dict.fromkeys(subjects) | self.dirty

    def compare(self, stream: dict[str, bytes]) -> None:
        """Make dirty whatever the stream has otherwise, lacks, or has too much."""
        for subject, entry in self.held.items():
            if stream.get(subject) != entry.data:
                self.dirty[subject] = None
        for subject in stream:
            if subject not in self.held:
                self.dirty[subject] = None
