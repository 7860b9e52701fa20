"""Subjects: ``shoal.v1.<plane>.<shard>.…``, broad to narrow, every name one token.

A dot in a name is written ``=2e``; so are the other characters that a token can't hold.
"""

from __future__ import annotations

import re
import zlib

ROOT = "shoal.v1"
DEFAULT_SHARD = "default"

_UNSAFE = re.compile(r"[^A-Za-z0-9_\-/]")
_ESCAPED = re.compile(r"=([0-9a-f]{2})")


def token(name: str) -> str:
    """``name`` as one subject token; ``untoken`` is its inverse. An empty name is written ``=``."""
    if not name:
        return "="
    return _UNSAFE.sub(lambda m: "".join(f"={b:02x}" for b in m.group().encode()), name)


def untoken(text: str) -> str:
    """The name that ``token`` wrote. Raises ValueError if the bytes are not UTF-8."""
    if text == "=":
        return ""
    if "=" not in text:
        return text
    raw = bytearray()
    at = 0
    for m in _ESCAPED.finditer(text):
        raw += text[at : m.start()].encode()
        raw.append(int(m.group(1), 16))
        at = m.end()
    raw += text[at:].encode()
    return raw.decode()


def subject(plane: str, shard: str, *names: str) -> str:
    """The subject of ``names`` in a plane of a shard; wildcards ``*`` and a final ``>`` pass unescaped."""
    return ".".join([ROOT, plane, shard, *(n if n in ("*", ">") else token(n) for n in names)])


def state(kind: str, *names: str, shard: str = DEFAULT_SHARD) -> str:
    """Subject of a state record, e.g. ``state("pod", "ns", "name")``."""
    return subject("state", shard, kind, *names)


def decision(uid: str, *, shard: str = DEFAULT_SHARD) -> str:
    """Subject of the decision on a pod."""
    return subject("decision", shard, uid)


def epoch(*, shard: str = DEFAULT_SHARD) -> str:
    """Subject of the epoch record."""
    return subject("decision", shard, "_epoch")


def gang(gang_id: str, *, shard: str = DEFAULT_SHARD) -> str:
    """Subject of a gang's go."""
    return subject("decision", shard, "_gang", gang_id)


def outcome(uid: str, *, shard: str = DEFAULT_SHARD) -> str:
    """Subject of the outcome of the decision on a pod."""
    return subject("outcome", shard, uid)


def event(queue: str, family: str, what: str, namespace: str, name: str, *, shard: str = DEFAULT_SHARD) -> str:
    """Subject of a user-facing event, e.g. queue team-a, family pod, what bound."""
    return subject("event", shard, queue, family, what, namespace, name)


def log(what: str, *, shard: str = DEFAULT_SHARD) -> str:
    """Subject of the scheduler's log: ``input`` or ``decision``."""
    return subject("log", shard, what)


def query(service: str, verb: str) -> str:
    """Subject of a request/reply endpoint."""
    return f"{ROOT}.q.{service}.{verb}"


GPU_PARTITIONS = 16
"""Into so many parts the nodes are divided; each has one owner among the replicas of gpu-reservation."""


def partition(node: str) -> int:
    """The part that a node is in."""
    return zlib.crc32(node.encode()) % GPU_PARTITIONS


def reserve(part: int) -> str:
    """Subject on which the owner of a part of the nodes answers requests for shared GPUs."""
    return query("gpu-reservation", f"reserve.{part}")


def parse(text: str) -> tuple[str, str, list[str]]:
    """(plane, shard, names) of a subject. Raises ValueError if it is not one of ours."""
    parts = text.split(".")
    if len(parts) < 4 or ".".join(parts[:2]) != ROOT:
        raise ValueError(f"not a subject of Shoal: {text!r}")
    return parts[2], parts[3], [untoken(p) for p in parts[4:]]
