"""Who may do what on the bus: accounts and users of the NATS server, as data.

Each user has an account of its own; a stream lives in the account of the service that owns it. What a user may do in
another account is imported there, subject by subject. The server sends an answer to the account of who asked, whatever
reply subject was given, so that nobody can have an answer stored in a stream into which it may not write.

The local bus and the Helm chart are made of this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal_contracts.streams import CONSUMERS, DECISION, EVENT, LOG, STATE, STREAMS, Stream

API = "$JS.API"
"""Where the JetStream API of one's own account is."""
IMPORTED_API = "$JS.SHOAL.API"
"""Where the API of streams in other accounts is: clients take ``SHOAL`` for their JetStream domain."""
CONSUMERS_EACH = 8
"""Consumers that a user of events may have at a time."""

_READ = ("STREAM.INFO.{}", "CONSUMER.CREATE.{}.>", "CONSUMER.MSG.NEXT.{}.*")
_LAST = ("STREAM.MSG.GET.{}",)
_OWN = ("STREAM.CREATE.{}", "STREAM.UPDATE.{}", *_LAST, *_READ)
_CONSUMER = ("CONSUMER.INFO.{}.*", "CONSUMER.DELETE.{}.*")

WRITES: dict[str, list[str]] = {
    "cluster-state": ["shoal.v1.state.>"],
    "pod-grouper": [],
    "queue-controller": [],
    "scheduler": ["shoal.v1.decision.>", "shoal.v1.outcome.>", "shoal.v1.event.>", "shoal.v1.log.>"],
    "binder": ["shoal.v1.outcome.>", "shoal.v1.event.>"],
    "gpu-reservation": ["shoal.v1.state.*.gpu.>"],
    "admission": [],
    "shard-controller": [],
    "auditor": [],
    "user": [],
}
"""User -> subjects of streams that it writes."""

READS: dict[str, list[Stream]] = {
    "pod-grouper": [STATE],
    "queue-controller": [STATE],
    "scheduler": [STATE],
    "binder": [DECISION],
    "gpu-reservation": [STATE, DECISION],
    "admission": [STATE],
    "auditor": [LOG],
    "user": [EVENT],
}
"""User -> streams of others that it reads."""

LOOKS_UP: dict[str, list[Stream]] = {"binder": [DECISION]}
"""User -> streams of others of which it asks for single messages."""

PURGED = (DECISION,)
"""Streams from which their owner removes single subjects."""

QUERIES: dict[str, list[str]] = {"gpu-reservation": ["binder"]}
"""Service -> users whose requests (``shoal.v1.q.<service>.reserve.*``) it answers, besides ``user``, who may ask for its
health."""

USERS = tuple(WRITES)
"""All users that the suite itself has."""
PEOPLE = frozenset({"auditor", "user"})
"""Users that are no service: they answer nothing."""
SERVICES = tuple(user for user in USERS if user not in PEOPLE)


def account(user: str) -> str:
    """The account of a user."""
    return f"SHOAL_{user.replace('-', '_').upper()}"


def api_prefix(user: str, stream: str) -> str:
    """Where a user finds the JetStream API of a stream; that of its own account for users that are not in the table."""
    for known in STREAMS:
        if known.name == stream and user in WRITES and user != known.owner:
            return IMPORTED_API
    return API


def _here(verbs: Iterable[str], stream: str) -> list[str]:
    return [f"{API}.{verb.replace('{}', stream)}" for verb in verbs]


def _local(subject: str) -> str:
    """An imported subject as its user sees it."""
    return f"{IMPORTED_API}{subject.removeprefix(API)}" if subject.startswith(f"{API}.") else subject


def _streams(owner: str) -> list[Stream]:
    return [stream for stream in STREAMS if stream.owner == owner]


def _owner(subject: str) -> str:
    """The owner of the stream into which a subject goes."""
    return next(s.owner for s in STREAMS if any(subject.startswith(name.removesuffix(">")) for name in s.subjects))


def _foreign(user: str) -> list[tuple[str, str]]:
    """(account, subject there) of what a user of the suite imports."""
    found = [(account(_owner(subject)), subject) for subject in WRITES[user] if _owner(subject) != user]
    for stream in READS.get(user, []):
        verbs = _READ + (_LAST if stream in LOOKS_UP.get(user, []) else ()) + (_CONSUMER if user in PEOPLE else ())
        found += [(account(stream.owner), subject) for subject in _here(verbs, stream.name)]
    for consumer in CONSUMERS:
        if consumer.name == user:
            owner = next(s.owner for s in STREAMS if s.name == consumer.stream)
            found.append((account(owner), f"$JS.ACK.{consumer.stream}.{consumer.name}.>"))
    found += [(account(service), query) for service, query in _asks(user)]
    return found


def _asks(user: str) -> list[tuple[str, str]]:
    if user == "user":
        return [(service, f"shoal.v1.q.{service}.health") for service in SERVICES]
    return [(service, f"shoal.v1.q.{service}.reserve.*") for service, users in QUERIES.items() if user in users]


def _event_user(name: str, queues: Sequence[str]) -> list[tuple[str, str]]:
    """What a user of events imports: consumers of its own names, each with one filter that names one of its queues."""
    found: list[tuple[str, str]] = []
    for consumer in (name, *(f"{name}_{number}" for number in range(1, CONSUMERS_EACH))):
        verbs = [f"CONSUMER.CREATE.{{}}.{consumer}.shoal.v1.event.*.{queue}.>" for queue in queues]
        verbs += [f"CONSUMER.{verb}.{{}}.{consumer}" for verb in ("MSG.NEXT", "INFO", "DELETE")]
        found += [(account(EVENT.owner), subject) for subject in _here(verbs, EVENT.name)]
        found.append((account(EVENT.owner), f"$JS.ACK.{EVENT.name}.{consumer}.>"))
    return found


def _import(source: str, subject: str) -> dict[str, Any]:
    return {"service": {"account": source, "subject": subject}, "to": _local(subject)}


def _export(subject: str) -> dict[str, Any]:
    """The export of a subject; more than one answer comes to a request for messages."""
    return {"service": subject} | ({"response_type": "stream"} if ".MSG.NEXT." in subject else {})


def _exports(user: str) -> list[dict[str, Any]]:
    found = [f"shoal.v1.q.{user}.>"] if user not in PEOPLE else []
    for stream in _streams(user):
        found += [*stream.subjects, *_here((*_READ, *_LAST, *_CONSUMER), stream.name), f"$JS.ACK.{stream.name}.>"]
    return [_export(subject) for subject in found]


def permissions(user: str) -> dict[str, Any]:
    """The ``permissions`` of a user of the suite. Raises KeyError for an unknown one."""
    publish = [s for s in WRITES[user] if _owner(s) == user]
    for stream in _streams(user):
        publish += _here(_OWN, stream.name)
        if stream in PURGED:
            publish += _here(("STREAM.PURGE.{}",), stream.name)
    for consumer in CONSUMERS:
        if consumer.owner == user:
            publish.append(f"{API}.CONSUMER.DURABLE.CREATE.{consumer.stream}.{consumer.name}")
    publish += [_local(subject) for _, subject in _foreign(user)]
    found: dict[str, Any] = {"publish": publish, "subscribe": [f"_INBOX_{user}.>"]}
    if user not in PEOPLE:
        found["subscribe"].append(f"shoal.v1.q.{user}.>")
        found["allow_responses"] = {"max": 1, "expires": "10s"}
    return found


def suite_accounts() -> dict[str, Any]:
    """Account -> its part of the server's configuration, for each user of the suite; passwords are missing."""
    found: dict[str, Any] = {}
    for user in USERS:
        found[account(user)] = {
            **({"jetstream": "enabled"} if _streams(user) else {}),
            "users": [{"user": user, "permissions": permissions(user)}],
            "exports": _exports(user),
            "imports": [_import(source, subject) for source, subject in _foreign(user)],
        }
    return found


def event_user_account(name: str, queues: Sequence[str]) -> dict[str, Any]:
    """The account of one who may read the events of some queues (as tokens of subjects), without its password."""
    imported = _event_user(name, queues)
    return {
        "limits": {"max_connections": 32, "max_subscriptions": 512, "max_payload": 65536},
        "users": [
            {
                "user": name,
                "permissions": {"publish": [_local(s) for _, s in imported], "subscribe": [f"_INBOX_{name}.>"]},
            }
        ],
        "imports": [_import(source, subject) for source, subject in imported],
    }


def configuration(passwords: Mapping[str, str], event_users: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The ``accounts`` of a server: those of the suite, and of users of events (name -> queues' tokens). Raises KeyError for a
    user without a password, ValueError for one that has the name of one of the suite's users."""
    found = suite_accounts()
    for name, queues in sorted((event_users or {}).items()):
        if account(name) in found:
            raise ValueError(f"the name {name!r} of a user of events is taken")
        found[account(name)] = event_user_account(name, queues)
    for part in found.values():
        for user in part["users"]:
            user["password"] = passwords[user["user"]]
    return found
