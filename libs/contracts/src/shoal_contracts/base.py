"""What every message has in common: a tagged Struct whose kind names its major version."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", forbid_unknown_fields=False):
    """A message of the suite. Unknown fields are ignored, so that an older reader accepts a newer writer.

    Every subclass repeats ``frozen=True, kw_only=True, tag="<name>.v<major>"`` (type checkers don't inherit them).
    """


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A piece of a message: no kind of its own."""


def kind_of(message: Message | type[Message]) -> str:
    """The kind tag of a message or message class, e.g. ``pod.v1``."""
    return str(message.__struct_config__.tag)


_ENCODER = msgspec.json.Encoder(order="deterministic")


def encode(message: Message) -> bytes:
    """JSON of one message. The same message gives the same bytes."""
    return _ENCODER.encode(message)
