"""What the core is told: the configured policy, and which pods the binders can't prepare yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from shoal_contracts.state import PodRecord
from shoal_core.configuration import read
from shoal_core.settings import CONSOLIDATION, Settings
from shoal_model import labels, sharing

if TYPE_CHECKING:
    from shoal_scheduler.app import Config

COLLECTION = (100_000, 20, 100)
"""Thresholds of the garbage collector: what a cycle makes is free of circles, looking for some costs a tenth of its time."""


def settings(config: Config) -> Settings:
    """The policy's settings of the service's configuration. Raises BadConfiguration."""
    pools = {"NodePoolLabelKey": labels.NODE_POOL}
    found = read(config.policy, {"schedulerName": config.scheduler_name, "partitionParams": pools, **config.flags})
    # The binders make no claims yet, which devices for extended resources need.
    found = replace(found, extended_by_devices=False)
    return spreading(found) if config.spread and not config.policy else found


def spreading(found: Settings) -> Settings:
    """Emptiest nodes and devices first, and nothing is moved to make room (kubernetes spec 1.5)."""
    plugins = tuple("gpuspread" if p == "gpupack" else p for p in found.plugins if p != "gpusharingorder")
    actions = tuple(a for a in found.actions if a != CONSOLIDATION)
    return replace(found, spread_gpu=True, spread_cpu=True, plugins=plugins, actions=actions)


def prepared(pod: PodRecord) -> PodRecord:
    """The pod, refused with a word if it can't be bound as it is."""
    if pod.node or pod.error:
        return pod
    why = ""
    if pod.claims:
        why = "it asks for resource claims, which the binders do not support yet"
    elif pod.share is not None and not sharing.prefix(pod.annotations):
        why = (
            f"it asks for a part of a GPU but lacks the annotation {labels.SHARED_GPU_CONFIG} and the environment that"
            " admission adds: create it again while the admission service runs"
        )
    return msgspec.structs.replace(pod, error=why) if why else pod
