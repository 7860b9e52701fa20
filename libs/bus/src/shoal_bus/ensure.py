"""Streams and consumers as the contracts have them: made, brought up to date, never destroyed."""

from __future__ import annotations

import time

import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from shoal_bus.connection import Connection
from shoal_bus.errors import NotAllowed, Unavailable
from shoal_contracts.streams import Consumer, Stream

COMPARED = (
    "subjects", "max_msgs_per_subject", "max_age", "max_bytes", "allow_atomic", "allow_msg_ttl", "num_replicas",
)  # fmt: skip


def stream_config(stream: Stream, replicas: int) -> api.StreamConfig:
    """The server's configuration of a stream; ``replicas`` counts for the replicated ones."""
    return api.StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        storage=api.StorageType.MEMORY if stream.storage == "memory" else api.StorageType.FILE,
        max_msgs_per_subject=stream.max_per_subject,
        max_age=stream.max_age,
        max_bytes=stream.max_bytes,
        num_replicas=replicas if stream.replicated else 1,
        duplicate_window=stream.duplicate_window,
        allow_direct=True,
        allow_atomic=stream.atomic,
        allow_msg_ttl=stream.ttl,
        discard=api.DiscardPolicy.OLD,
    )


def consumer_config(consumer: Consumer) -> api.ConsumerConfig:
    """The server's configuration of a durable pull consumer."""
    return api.ConsumerConfig(
        durable_name=consumer.name,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait,
        max_deliver=consumer.max_deliver,
        max_ack_pending=consumer.max_ack_pending,
        filter_subjects=list(consumer.filters),
    )


async def ensure_stream(connection: Connection, stream: Stream) -> None:
    """Make the stream, or bring its limits up to date. Raises NotAllowed if its storage differs, Unavailable."""
    wanted = stream_config(stream, connection.config.replicas)
    try:
        try:
            info = await connection.js_of(stream.name).stream_info(stream.name)
        except js_errors.NotFoundError:
            # Sequences of a stream that is made again never meet those of the one before: a condition on an old sequence
            # (a deposed leader's fence, say) can't hold by chance.
            wanted.first_seq = time.time_ns() // 1_000_000
            await connection.js_of(stream.name).add_stream(wanted)
            return
        have = info.config
        if have.storage != wanted.storage:
            raise NotAllowed(f"stream {stream.name} has storage {have.storage}: remove it by hand to change that")
        same = all(getattr(have, name) == getattr(wanted, name) for name in COMPARED)
        if not same:
            await connection.js_of(stream.name).update_stream(wanted)
    except js_errors.APIError as error:
        raise Unavailable(f"stream {stream.name}: {error.description}") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unavailable(f"stream {stream.name}: {str(error) or type(error).__name__}") from error


async def ensure_consumer(connection: Connection, consumer: Consumer) -> None:
    """Make the durable consumer, or bring it up to date. Raises Unavailable."""
    try:
        await connection.js_of(consumer.stream).add_consumer(consumer.stream, consumer_config(consumer))
    except js_errors.APIError as error:
        raise Unavailable(f"consumer {consumer.name}: {error.description}") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unavailable(f"consumer {consumer.name}: {str(error) or type(error).__name__}") from error
