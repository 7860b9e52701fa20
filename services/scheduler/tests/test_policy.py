"""The service's settings become the core's; what can't be bound is refused with a word."""

from __future__ import annotations

import msgspec

from shoal_core.settings import CONSOLIDATION
from shoal_model import labels
from shoal_scheduler.app import Config
from shoal_scheduler.policy import prepared, settings
from shoal_testkit.small import work


def test_spreading_opens_empty_devices_and_moves_nothing() -> None:
    packs, spreads = settings(Config()), settings(Config(spread=True))
    assert not packs.spread_gpu
    assert "gpupack" in packs.plugins
    assert CONSOLIDATION in packs.actions
    assert spreads.spread_gpu
    assert spreads.spread_cpu
    assert {"gpuspread"} == {"gpuspread", "gpupack", "gpusharingorder"} & set(spreads.plugins)
    assert CONSOLIDATION not in spreads.actions


def test_the_references_configuration_wins() -> None:
    found = settings(Config(spread=True, policy={"actions": "allocate"}))
    assert found.actions == ("allocate",)
    assert not found.spread_gpu


def test_a_share_that_admission_did_not_see_is_refused_until_it_is_made_again() -> None:
    _, pod = work("w", gpus=0.5)
    assert labels.SHARED_GPU_CONFIG in prepared(pod).error  # type: ignore[arg-type]
    seen = msgspec.structs.replace(pod, annotations={labels.SHARED_GPU_CONFIG: "w-abcdefg-shared-gpu"})
    assert prepared(seen).error == ""  # type: ignore[arg-type]


def test_no_devices_are_given_for_extended_resources_while_binders_make_no_claims() -> None:
    assert not settings(Config()).extended_by_devices
    assert not settings(Config(spread=True, policy={"actions": "allocate"})).extended_by_devices
