"""RFC 6902 for tests, as far as our patches go: ``add`` and ``replace``."""

from __future__ import annotations

import copy
from typing import Any


def apply(document: dict[str, Any], operations: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The document after the patch. Raises KeyError, IndexError where a path leads nowhere, as the API server refuses it."""
    found = copy.deepcopy(document)
    for operation in operations:
        *path, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        at: Any = found
        for part in path:
            at = at[int(part)] if isinstance(at, list) else at[part]
        value = copy.deepcopy(operation["value"])
        assert operation["op"] == "add"
        if isinstance(at, list):
            at.insert(len(at) if last == "-" else int(last), value)
        else:
            at[last] = value
    return found
