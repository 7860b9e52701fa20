"""Kubernetes quantities, durations and times as numbers in base units."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache

_SUFFIX = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d{1,3})|([numkMGTPE]|[KMGTPE]i))?", re.ASCII)
_STEP = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LIMIT = 64
"""Longest text of a quantity or duration that is looked at."""

MOST = Decimal(10) ** 30
"""A larger number of anything is not meant."""


class BadQuantity(ValueError):
    """The text is no quantity (or duration, or time); the message says which text."""


def _parse(text: str) -> Decimal:
    found = _QUANTITY.fullmatch(text) if len(text) <= LIMIT else None
    if not found:
        raise BadQuantity(f"not a quantity: {text[:LIMIT]!r}")
    try:
        value = Decimal(found.group(1) + (found.group(2) or "")) * _SUFFIX[found.group(3) or ""]
    except InvalidOperation as error:
        raise BadQuantity(f"not a quantity: {text!r}") from error
    if abs(value) > MOST:
        raise BadQuantity(f"not a quantity: {text!r} is over {MOST:.0e}")
    return value


@lru_cache(maxsize=8192)
def amount(text: str) -> float:
    """A quantity in units of one (bytes, devices), rounded up to an integer as the API server does for whole units.

    Raises BadQuantity.
    """
    return float(math.ceil(_parse(text)))


@lru_cache(maxsize=8192)
def milli(text: str) -> float:
    """A quantity in thousandths (CPU in millicores), rounded up. Raises BadQuantity."""
    return float(math.ceil(_parse(text) * 1000))


@lru_cache(maxsize=8192)
def exact(text: str) -> float:
    """A quantity as it stands, fractions kept. Raises BadQuantity."""
    return float(_parse(text))


def duration(text: str) -> float:
    """Seconds of a Go duration such as ``1h30m`` or ``-5s``. Raises BadQuantity."""
    body, sign = text.strip(), 1.0
    if body[:1] in ("+", "-"):
        sign, body = (-1.0 if body[0] == "-" else 1.0), body[1:]
    if body == "0":
        return 0.0
    steps = _STEP.findall(body) if len(body) <= LIMIT else []
    if not steps or "".join(a + b for a, b in steps) != body:
        raise BadQuantity(f"not a duration: {text[:LIMIT]!r} (write 30s, 5m or 1h30m)")
    return sign * sum(float(a) * _UNIT[b] for a, b in steps)


@lru_cache(maxsize=65536)
def seconds(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises BadQuantity."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadQuantity(f"not a time: {text[:LIMIT]!r}") from error
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()


def number(text: str, digits: int = 18) -> int | None:
    """The whole number that the text writes in ASCII digits; None where it is none, or has more than so many."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def rfc3339(at: float) -> str:
    """The time as Kubernetes writes it, whole seconds, UTC."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(value: float, resource: str) -> str:
    """``value`` in base units as a quantity of the API: millicores with ``m``, all else as a plain number."""
    if resource == "cpu":
        return f"{value / 1000:g}" if value % 1000 == 0 else f"{value:.0f}m"
    return f"{value:.0f}" if value == int(value) else f"{value * 1000:.0f}m"
