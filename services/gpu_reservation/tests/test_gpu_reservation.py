"""Settings of gpu-reservation, and the pods that it makes."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_contracts.state import Toleration
from shoal_gpu_reservation.app import Config
from shoal_gpu_reservation.manifest import PodSettings, pod, pod_name
from shoal_service.config import BadConfig, load


def test_a_setting_that_does_not_exist_is_named(tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("shares: 4\n")
    with pytest.raises(BadConfig, match="shares"):
        load(Config, str(file), {})


def test_the_name_depends_on_node_and_group_alone() -> None:
    assert pod_name("n", "g") == pod_name("n", "g") != pod_name("m", "g") != pod_name("n", "h")
    assert pod_name("a/b", "c") != pod_name("a", "b")
    assert len(pod_name("n", "g")) == len("gpu-reservation-") + 16


def test_a_reservation_holds_one_whole_gpu_of_its_node_and_bears_what_its_users_bear() -> None:
    bears = [Toleration(key="gpu", operator="Exists", effect="NoSchedule")]
    found = pod("n", "g", "7", bears, PodSettings(image="i", runtime_class="nvidia"))
    spec, (container,) = found["spec"], found["spec"]["containers"]
    assert (spec["nodeName"], spec["runtimeClassName"]) == ("n", "nvidia")
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert found["metadata"]["labels"] == {"app": "kai-resource-reservation", "runai-gpu-group": "g"}
    assert found["metadata"]["annotations"]["shoal.dev/owner-term"] == "7"
