"""What in the API server is asked about bindings, and may refuse some of a gang. Pure."""

from __future__ import annotations

KINDS = ("validatingwebhook", "mutatingwebhook", "validatingpolicy", "mutatingpolicy")
"""Kinds of the state plane that hold it."""


class Asked:
    """Webhook configurations and admission policies that match bindings of pods."""

    def __init__(self) -> None:
        self._known: set[tuple[str, ...]] = set()

    def __bool__(self) -> bool:
        return bool(self._known)

    def heard(self, kind: str, names: tuple[str, ...], there: bool) -> bool:
        """Take in news of one; False if the news are of another kind."""
        if kind not in KINDS:
            return False
        if there:
            self._known.add((kind, *names))
        else:
            self._known.discard((kind, *names))
        return True
