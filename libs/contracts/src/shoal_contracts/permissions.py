"""Who may do what on the bus: one NATS user per service, each with the subjects that its work needs and no others.

The local bus and the Helm chart are made of this table.
"""

from __future__ import annotations

from typing import Any


def _owner(stream: str) -> list[str]:
    return [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "CREATE", "UPDATE")]


def _reader(stream: str) -> list[str]:
    return [
        f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.>", f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", f"$JS.API.STREAM.MSG.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
    ]  # fmt: skip


PUBLISH: dict[str, list[str]] = {
    "cluster-state": ["shoal.v1.state.>", *_owner("SHOAL_STATE"), *_reader("SHOAL_STATE")],
    "pod-grouper": [*_reader("SHOAL_STATE")],
    "queue-controller": [*_reader("SHOAL_STATE")],
    "scheduler": [
        "shoal.v1.decision.>", "shoal.v1.outcome.>", "shoal.v1.event.>", "shoal.v1.log.>", *_reader("SHOAL_STATE"),
        *_reader("SHOAL_DECISION"), *_owner("SHOAL_DECISION"), *_owner("SHOAL_EVENT"), *_owner("SHOAL_LOG"),
        "$JS.API.STREAM.PURGE.SHOAL_DECISION", "$JS.API.CONSUMER.DURABLE.CREATE.SHOAL_DECISION.binder",
    ],
    "binder": [
        "shoal.v1.outcome.>", "shoal.v1.event.>", "$JS.ACK.SHOAL_DECISION.>", *_reader("SHOAL_DECISION"),
        "shoal.v1.q.gpu-reservation.reserve.*",
    ],
    "gpu-reservation": ["shoal.v1.state.*.gpu.>", *_reader("SHOAL_STATE"), *_reader("SHOAL_DECISION")],
    "admission": [*_reader("SHOAL_STATE")],
    "shard-controller": [],
    "auditor": [*_reader("SHOAL_LOG")],
    "user": [*_reader("SHOAL_EVENT"), "shoal.v1.q.*.health"],
}  # fmt: skip
"""User -> subjects that it may publish to; all may answer requests and use their own inbox."""

PEOPLE = frozenset({"auditor", "user"})
"""Users that are no service: they answer nothing."""


def permissions(user: str) -> dict[str, Any]:
    """The ``permissions`` of a user in the server's configuration. Raises KeyError for an unknown one."""
    subscribe = [f"_INBOX_{user}.>"] + ([] if user in PEOPLE else [f"shoal.v1.q.{user}.>"])
    return {"publish": PUBLISH[user], "subscribe": subscribe, "allow_responses": True}
