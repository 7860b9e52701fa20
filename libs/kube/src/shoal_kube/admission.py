"""AdmissionReview in and out (admission.k8s.io/v1): the request decoded, a verdict encoded."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec

API = "admission.k8s.io/v1"
LONGEST_TEXT = 2000
MOST_WARNINGS = 16
"""The API server shows 4096 characters of warnings in all."""


class BadReview(ValueError):
    """The body is no AdmissionReview of v1; the message says why."""


class Request(msgspec.Struct, rename="camel"):
    """``request`` of a review. ``object`` and ``old_object`` are JSON as it came; ``null`` where there is none."""

    uid: str
    operation: str = ""
    namespace: str = ""
    name: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct, rename="camel"):
    request: Request
    api_version: str = ""
    kind: str = ""


Operation = dict[str, Any]
"""One operation of a JSON patch (RFC 6902)."""


@dataclass(frozen=True)
class Verdict:
    """What is answered. ``message`` says why it is refused; ``warnings`` are shown to the user in either case."""

    allowed: bool = True
    message: str = ""
    warnings: tuple[str, ...] = ()
    patch: tuple[Operation, ...] = ()


_DECODER = msgspec.json.Decoder(_Review)


def decode(body: bytes) -> Request:
    """The request of a review. Raises BadReview."""
    try:
        found = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadReview(f"no AdmissionReview: {error}") from error
    if found.kind != "AdmissionReview" or found.api_version != API:
        raise BadReview(f"want AdmissionReview of {API}, got {found.kind[:64]!r} of {found.api_version[:64]!r}")
    return found.request


def encode(uid: str, verdict: Verdict) -> bytes:
    """The answer to the review of that UID. A refusal is a 403, as from any other admission plugin."""
    response: dict[str, Any] = {"uid": uid, "allowed": verdict.allowed}
    if not verdict.allowed:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": verdict.message[:LONGEST_TEXT]}
    if verdict.warnings:
        response["warnings"] = [w[:LONGEST_TEXT] for w in verdict.warnings[:MOST_WARNINGS]]
    if verdict.allowed and verdict.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(verdict.patch)).decode()
    return msgspec.json.encode({"apiVersion": API, "kind": "AdmissionReview", "response": response})
