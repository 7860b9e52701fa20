"""Records come in and go, whatever is odd about them."""

from __future__ import annotations

from abc import abstractmethod

from shoal_contracts import state
from shoal_core.quarantine import Quarantine, attempt
from shoal_core.room import Room
from shoal_core.settings import Settings


class Intake(Room):
    """What raises in the middle of a change is put aside (``quarantine``), and all is counted anew in the next cycle."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.quarantine = Quarantine()
        self.suspect = False
        """Something raised in the middle of a change."""

    def apply(self, record: state.StateMessage) -> None:
        """A record that is new or changed. One that can't be taken in is put aside, see ``quarantine.refused``."""
        try:
            self._apply(record)
        except Exception as error:  # one odd record must not stop the rest
            self.suspect = True
            self.quarantine.refuse(record, error)
            if isinstance(record, state.PodRecord):
                attempt(self.quarantine, f"pod {record.namespace}/{record.name}", lambda: self._forget(record.uid))
        else:
            self.quarantine.taken(record)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """An object that is gone; ``kind`` as in the state plane's subjects."""
        self.quarantine.removed(kind, namespace, name)
        if not attempt(self.quarantine, f"{kind} {namespace}/{name}", lambda: self._remove(kind, namespace, name)):
            self.suspect = True

    @abstractmethod
    def _apply(self, record: state.StateMessage) -> None: ...

    @abstractmethod
    def _remove(self, kind: str, namespace: str, name: str) -> None: ...

    @abstractmethod
    def _forget(self, uid: str) -> None: ...
