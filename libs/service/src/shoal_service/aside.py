"""Messages that don't decode are put aside: logged, counted, kept for a look, and never fatal."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import msgspec

from shoal_service.metrics import SET_ASIDE

T = TypeVar("T")
KEPT = 64
SHOWN = 2048

ASIDE: deque[dict[str, str]] = deque(maxlen=KEPT)
"""The last messages that were put aside, newest last; shown at /debug/aside."""


def decode(decoder: msgspec.json.Decoder[T], data: bytes, subject: str, log: object) -> T | None:
    """The message, or None after it was put aside."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        parts = subject.split(".")
        SET_ASIDE.labels(parts[2] if len(parts) > 2 else "other").inc()
        ASIDE.append({"subject": subject, "error": str(error), "message": data[:SHOWN].decode("utf-8", "replace")})
        log.warning("message put aside", subject=subject, error=str(error))  # type: ignore[attr-defined]
        return None
