"""What a shared pod's container is told, and which labels the pod gets."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal_binder import sharing
from shoal_contracts.decision import Decision, Verb
from shoal_model import labels

PREFIX = {labels.SHARED_GPU_CONFIG: "p-abcdefg-shared-gpu"}


VALUES = "p-abcdefg-shared-gpu-0"


def from_map(name: str, config_map: str = VALUES) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": config_map, "key": name}}}


def pod(
    notes: dict[str, str] = PREFIX, env: list[dict[str, Any]] | None = None, tags: dict[str, str] | None = None
) -> sharing.Pod:
    containers = [{"name": "main", "env": env}, {"name": "side"}]
    raw = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "annotations": notes},
        "spec": {"containers": containers, "initContainers": [{"name": "first"}]},
    }
    return msgspec.convert(raw, sharing.Pod)


def decision(*groups: str, **more: Any) -> Decision:
    tags = more.pop("labels", {labels.ISOLATION: "none"})
    return Decision(
        id=more.pop("id", "3-2-1"), verb=Verb.BIND, namespace="ns", pod="p", uid="u", node="n", epoch=1,
        gpu_groups=list(groups), portion=0.25,
        memory_mib=20000, labels=tags, **more,
    )  # fmt: skip


def data(found: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {one["metadata"]["name"]: one["data"] for one in found}


def test_the_container_is_told_by_two_config_maps_that_go_with_the_pod() -> None:
    found = sharing.config_maps(pod(), decision("g", "h"), ["GPU-1", "GPU-2"], cdi=False)
    assert data(found) == {
        "p-abcdefg-shared-gpu-0": {"GPU_PORTION": "0.25", "RUNAI_NUM_OF_GPUS": "0.25"},
        "p-abcdefg-shared-gpu-0-evar": {"NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-2"},
    }
    assert all(one["metadata"]["ownerReferences"][0]["uid"] == "u" for one in found)


def test_a_variable_that_the_container_reads_from_a_map_is_in_that_map() -> None:
    env = [from_map("NVIDIA_VISIBLE_DEVICES"), from_map("CUDA_DEVICE_MEMORY_LIMIT")]
    found = data(sharing.config_maps(pod(env=env), decision("g"), ["GPU-1"], cdi=True))
    assert found["p-abcdefg-shared-gpu-0-evar"] == {}
    assert found["p-abcdefg-shared-gpu-0"] == {
        "NVIDIA_VISIBLE_DEVICES": "k8s.device-plugin.nvidia.com/gpu=GPU-1", "GPU_PORTION": "0.25",
        "RUNAI_NUM_OF_GPUS": "0.25", "CUDA_DEVICE_MEMORY_LIMIT": "20000m",
    }  # fmt: skip


def test_a_container_is_chosen_by_name() -> None:
    for name, token in (("side", "1"), ("first", "i0")):
        found = data(sharing.config_maps(pod(PREFIX | {labels.GPU_CONTAINER: name}), decision("g"), ["GPU-1"], cdi=False))
        assert set(found) == {f"p-abcdefg-shared-gpu-{token}", f"p-abcdefg-shared-gpu-{token}-evar"}


def test_what_keeps_a_pod_from_being_told_is_said() -> None:
    assert sharing.problem(pod()) == ""
    assert labels.SHARED_GPU_CONFIG in sharing.problem(pod({}))
    assert "'other'" in sharing.problem(pod(PREFIX | {labels.GPU_CONTAINER: "other"}))


def test_isolation_by_hami_is_seen_in_the_container() -> None:
    plain = sharing.wanted_labels(pod(), decision("g"))
    assert plain[labels.ISOLATION] == "none"
    limited = sharing.wanted_labels(pod(env=[from_map("CUDA_DEVICE_MEMORY_LIMIT")]), decision("g"))
    assert limited[labels.ISOLATION] == "hami-core"
    own = sharing.wanted_labels(pod(env=[from_map("CUDA_DEVICE_MEMORY_LIMIT", "my-own")]), decision("g"))
    assert own[labels.ISOLATION] == "none", "a limit that the user sets is the user's word"
    told = sharing.told(decision("g"), ["GPU-1"], "none")
    assert "0.25 (20000 MiB) of GPU GPU-1" in told
    assert "nothing keeps it" in told


TAGS = st.dictionaries(
    st.sampled_from(["team", labels.GPU_GROUP, labels.ISOLATION, f"{labels.GPU_GROUP_PREFIX}a", f"{labels.GPU_GROUP_PREFIX}b"]),
    st.sampled_from(["x", "y"]),
)


@given(TAGS, TAGS)
def test_label_changes_give_what_is_wanted_and_leave_what_is_not_ours(have: dict[str, str], wanted: dict[str, str]) -> None:
    changes = sharing.label_changes(have, wanted)
    after = {k: v for k, v in (have | changes).items() if v is not None}
    assert after == ({"team": have["team"]} if "team" in have else {}) | wanted
    assert sharing.label_changes(after, wanted) == {}


def there(by: str, uid: str = "u", data: dict[str, str] | None = None) -> sharing.ConfigMap:
    raw = {
        "metadata": {"name": VALUES, "annotations": {sharing.DECISION: by}, "ownerReferences": [{"uid": uid}]},
        "data": data,
    }
    return msgspec.convert(raw, sharing.ConfigMap)


def test_a_config_map_that_is_there_already_is_kept_or_written_anew_or_not_ours() -> None:
    body = sharing.config_maps(pod(), decision("g"), ["GPU-1"], cdi=False)[0]
    assert sharing.stands(there("3-2-1", data=body["data"]), body) is None
    assert sharing.stands(there("3-2-1", data={"GPU_PORTION": "0.9"}), body) == ""
    assert sharing.stands(there("1-1-1", data=body["data"]), body) == ""
    assert "belongs to something else" in (sharing.stands(there("3-2-1", uid="other", data=body["data"]), body) or "")


def test_what_a_later_decision_has_written_is_known() -> None:
    body = sharing.config_maps(pod(), decision("g"), ["GPU-1"], cdi=False)[0]
    assert not any(sharing.is_newer(there(by), body) for by in ("3-2-1", "3-1-9", "2-9-9", "", "x-y-z"))
    assert all(sharing.is_newer(there(by), body) for by in ("3-2-2", "3-10-1", "10-1-1"))
    assert sharing.is_newer(
        there("blue-2-3-2-2"), sharing.config_maps(pod(), decision("g", id="blue-2-3-2-1"), ["GPU-1"], cdi=False)[0]
    )


@given(st.text(max_size=20))
def test_an_odd_mark_on_a_config_map_is_older_than_any_decision(by: str) -> None:
    body = sharing.config_maps(pod(), decision("g", id="0-0-0"), ["GPU-1"], cdi=False)[0]
    assert not sharing.is_newer(there(by), body) or sharing.order(by) > (0, 0, 0)
