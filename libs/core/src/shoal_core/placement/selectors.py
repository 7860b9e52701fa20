"""CEL selectors of devices: which devices a class or a request means (placement spec 7.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import cel

from shoal_model.quantity import BadQuantity, exact

Device = tuple[str, str, str]
"""Driver, pool, name."""
LONGEST = 10 * 1024
"""The API's bound of an expression."""
_SEMVER = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII)
Number = int | float


class BadSelector(Exception):
    """An expression does not compile, or fails on a device; the message says which and why."""


def _quantity(text: str) -> Number:
    try:
        return exact(text)
    except BadQuantity as error:
        raise ValueError(str(error)) from error


def _is_quantity(text: str) -> bool:
    try:
        exact(text)
    except BadQuantity:
        return False
    return True


def _version(text: str) -> tuple[tuple[int, ...], list[str]]:
    found = _SEMVER.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no semantic version")
    return tuple(int(found[i]) for i in (1, 2, 3)), found[4].split(".") if found[4] else []


def _semver(text: str) -> str:
    _version(text)
    return text


def _compare(a: Number | str, b: Number | str) -> int:
    """-1, 0 or 1: numbers, or semantic versions (semver.org, 11)."""
    if not isinstance(a, str) and not isinstance(b, str):
        return (a > b) - (a < b)
    (mine, before), (other, after) = _version(str(a)), _version(str(b))
    if mine != other:
        return 1 if mine > other else -1
    if not before or not after:
        return bool(after) - bool(before)
    for x, y in zip_longest(before, after):
        if x == y:
            continue
        if x is None or y is None:
            return -1 if x is None else 1
        if x.isdigit() and y.isdigit():
            return 1 if int(x) > int(y) else -1
        if x.isdigit() != y.isdigit():
            return -1 if x.isdigit() else 1
        return 1 if x > y else -1
    return 0


FUNCTIONS = {
    "quantity": _quantity,
    "isQuantity": _is_quantity,
    "semver": _semver,
    "isSemver": lambda text: _SEMVER.fullmatch(text) is not None,
    "compareTo": _compare,
    "isGreaterThan": lambda a, b: _compare(a, b) > 0,
    "isLessThan": lambda a, b: _compare(a, b) < 0,
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
}
"""What the API offers beside CEL's own functions, for quantities, versions and text."""


def _by_domain(found: Mapping[str, Any], driver: str, value: Any) -> dict[str, dict[str, Any]]:
    """Names without a domain are those of the driver."""
    domains: dict[str, dict[str, Any]] = {driver: {}}
    for name, given in found.items():
        domain, _, own = name.rpartition("/")
        domains.setdefault(domain or driver, {})[own] = value(given)
    return domains


def _attribute(given: Any) -> Any:
    """One of int, bool, string and version is set."""
    return next(iter(given.values()), None) if isinstance(given, dict) else None


def _capacity(given: Any) -> Number:
    return _quantity(str(given.get("value", "0") if isinstance(given, dict) else given))


class Selectors:
    """Compiled expressions, and what they said of devices."""

    def __init__(self) -> None:
        self._programs: dict[str, cel.Program] = {}
        self._verdicts: dict[tuple[str, Device], bool] = {}

    def forget(self) -> None:
        """Devices changed."""
        self._verdicts.clear()

    def compiled(self, expression: str) -> cel.Program:
        """The program of an expression. Raises BadSelector."""
        found = self._programs.get(expression)
        if found is None:
            if len(expression) > LONGEST:
                raise BadSelector(f"a selector is longer than {LONGEST} characters")
            try:
                found = self._programs[expression] = cel.compile(expression)
            except ValueError as error:
                raise BadSelector(f"selector {expression!r}: {str(error).splitlines()[0]}") from error
        return found

    def match(self, expression: str, device: Device, body: Mapping[str, Any]) -> bool:
        """Whether the expression is true of a device (``attributes`` and ``capacity`` of ``body``). Raises BadSelector."""
        found = self._verdicts.get((expression, device))
        if found is None:
            found = self._verdicts[expression, device] = self._evaluate(expression, device, body)
        return found

    def _evaluate(self, expression: str, device: Device, body: Mapping[str, Any]) -> bool:
        program, driver = self.compiled(expression), device[0]
        try:
            context = cel.Context()
            for name, function in FUNCTIONS.items():
                context.add_function(name, function)
            attributes = _by_domain(body.get("attributes") or {}, driver, _attribute)
            capacity = _by_domain(body.get("capacity") or {}, driver, _capacity)
            context.add_variable("device", {"driver": driver, "attributes": attributes, "capacity": capacity})
            verdict = program.execute(context)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise BadSelector(f"selector {expression!r} fails on device {'/'.join(device)}: {error}") from error
        if not isinstance(verdict, bool):
            raise BadSelector(f"selector {expression!r} is not true or false")
        return verdict
