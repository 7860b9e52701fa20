"""A service's settings: defaults, then a YAML file, then ``SHOAL_…`` of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml


class BadConfig(Exception):
    """A setting is wrong; the message names it."""


class Common(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every service can be told. Environment: ``SHOAL_`` and the name in capitals."""

    nats_url: str = "nats://127.0.0.1:4222"
    """Where the bus is."""
    nats_user: str = ""
    nats_password: str = ""
    """Better: a file."""
    nats_password_file: str = ""
    nats_ca_file: str = ""
    """Certificate of the authority that signed the server's: the bus is spoken to by TLS then."""
    nats_tls_first: bool = True
    """TLS before anything else; off only for a server that does not do so (it lacks ``handshake_first``)."""
    nats_replicas: int = 1
    """Servers that keep a copy of each replicated stream: 1, or 3 where NATS is a cluster."""
    http_port: int = 0
    """Port of health and metrics; 0: any free one."""
    http_host: str = "127.0.0.1"
    http_port_file: str = ""
    """Where to write the port that was taken."""
    shard: str = "default"
    scheduler_name: str = "kai-scheduler"
    namespace: str = "kai-scheduler"
    """Of the services' own objects, such as Leases."""
    elect: bool = True
    """Whether replicas elect a leader; off for one process alone."""
    lease_seconds: float = 2.0
    """How long a leader that says nothing stays leader."""
    log_level: str = "info"
    trace_ratio: float = 0.0
    """Share of stories that are traced, 0 to 1."""
    trace_file: str = ""
    """Where finished spans are written as JSON lines; empty: nowhere."""
    qps: float = 1000.0
    """Requests per second to the Kubernetes API."""
    burst: int = 2000


ConfigT = TypeVar("ConfigT", bound=Common)


def _file(path: str) -> dict[str, object]:
    try:
        text = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BadConfig(f"{path}: {error}") from error
    if not isinstance(text, dict | None):
        raise BadConfig(f"{path}: holds no settings (write `name: value` lines)")
    return text or {}


def load(kind: type[ConfigT], path: str | None, environment: Mapping[str, str]) -> ConfigT:
    """The settings. Raises BadConfig with the name of the setting that is wrong.

    A second file, named by ``SHOAL_OVERLAY``, wins where it is there; of settings that are maps its keys do.
    """
    found: dict[str, object] = _file(path) if path else {}
    overlay = environment.get("SHOAL_OVERLAY")
    if overlay and Path(overlay).exists():
        for name, value in _file(overlay).items():
            under = found.get(name)
            found[name] = under | value if isinstance(under, dict) and isinstance(value, dict) else value
    for name in kind.__struct_fields__:
        if (value := environment.get(f"SHOAL_{name.upper()}")) is not None:
            found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadConfig(str(error)) from error
