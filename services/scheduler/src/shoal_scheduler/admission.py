"""Webhooks and policies of the API server's admission that may refuse the binding of one member of a gang. Pure."""

from __future__ import annotations

from shoal_model.admission import KINDS


class BindingAdmission:
    """Webhook configurations and admission policies that match bindings of pods."""

    def __init__(self) -> None:
        self._known: set[tuple[str, ...]] = set()

    def __bool__(self) -> bool:
        return bool(self._known)

    def apply(self, kind: str, names: tuple[str, ...], present: bool) -> bool:
        """Take in news of one; False if the news are of another kind."""
        if kind not in KINDS:
            return False
        if present:
            self._known.add((kind, *names))
        else:
            self._known.discard((kind, *names))
        return True
