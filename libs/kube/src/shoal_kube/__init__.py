"""The only door to the Kubernetes API."""

from shoal_kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    NotLeading,
    Throttled,
    Unreachable,
)
from shoal_kube.lease import Election, epoch_of
from shoal_kube.recorder import Recorder, Ref
from shoal_kube.reflector import Bad, Deleted, Denied, Put, Reflector, Synced
from shoal_kube.transport import Kube, KubeConfig

__all__ = [
    "AlreadyExists", "Bad", "Conflict", "Deleted", "Denied", "Election", "Forbidden", "Gone", "Invalid", "Kube", "KubeConfig",
    "KubeError", "NotFound", "NotLeading", "Put", "Recorder", "Ref", "Reflector", "Synced", "Throttled", "Unreachable",
    "epoch_of",
]  # fmt: skip
