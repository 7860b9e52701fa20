"""What can go wrong on the bus, by what the caller can do about it."""

from __future__ import annotations


class BusError(Exception):
    """Any failure of the bus."""


class Conflict(BusError):
    """The condition of a write did not hold; nothing was stored. Read again and decide anew.

    ``code`` is the server's error code (10071: wrong last sequence).
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Unavailable(BusError):
    """The server can't be reached or has no such stream; nothing is known to be stored. Try again later."""


class Unknown(BusError):
    """The answer was lost: it may or may not have been stored. Read back before concluding."""


class NotAllowed(BusError):
    """The change would destroy data, or the user may not do it. Final."""
