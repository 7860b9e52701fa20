"""What the core is told: the configured policy, and which pods the binders can't prepare yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from shoal_contracts.state import PodRecord
from shoal_core.configuration import read
from shoal_core.settings import Settings

if TYPE_CHECKING:
    from shoal_scheduler.app import Config

COLLECTION = (100_000, 20, 100)
"""Thresholds of the garbage collector: what a cycle makes is free of circles, looking for some costs a tenth of its time."""


def settings(config: Config) -> Settings:
    """The policy's settings of the service's configuration. Raises BadConfiguration."""
    found = read(config.policy, {"schedulerName": config.scheduler_name, **config.flags})
    if config.spread and not config.policy:
        found = replace(found, spread_gpu=True, spread_cpu=True)
    return found


def prepared(pod: PodRecord) -> PodRecord:
    """The pod, refused with a word if a binding of it needs preparations that no binder makes yet."""
    what = "a share of a GPU" if pod.share is not None else "resource claims" if pod.claims else ""
    if not what or pod.node or pod.error:
        return pod
    return msgspec.structs.replace(pod, error=f"it asks for {what}, which the binders do not support yet")
