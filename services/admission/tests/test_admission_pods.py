"""Reviews of pods: patches as golden files, and the laws of mutation and validation."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal_admission.pods import Rules, mutate, validate
from shoal_kube.admission import Request, Verdict
from shoal_model import labels, normalise, objects, sharing

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("patching", HERE / "patching.py")
assert _spec is not None
assert _spec.loader is not None
patching = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(patching)

ALL = Rules(hami_core=True, block_visible_devices=True)


def raw(found: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(found))


def review(pod: object, old: object = None, operation: str = "CREATE", uid: str = "u1") -> Request:
    return Request(uid=uid, operation=operation, namespace="ns", object=raw(pod), old_object=raw(old))


def container(name: str = "main", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "i", **more}


def pod(notes: dict[str, str] | None = None, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "p", "namespace": "ns"} | ({"annotations": notes} if notes is not None else {})
    return {
        "metadata": metadata,
        "spec": {"schedulerName": "kai-scheduler", "containers": list(containers or (container(),)), **spec},
    }


HALF = {labels.GPU_FRACTION: "0.5"}
GPU_LIMIT = {"resources": {"limits": {labels.GPU: "1"}, "requests": {labels.GPU: "1"}}}
VISIBLE = sharing.VISIBLE_DEVICES

GOLDEN: dict[str, tuple[dict[str, Any], Rules]] = {
    "fraction": (pod(HALF), Rules()),
    "memory-second-container": (
        pod({labels.GPU_MEMORY: "2000", labels.GPU_CONTAINER: "b"}, container("a"), container("b")), Rules(),
    ),
    "init-container-of-owner": (
        pod({**HALF, labels.GPU_CONTAINER: "i"}, initContainers=[container("i")])
        | {"metadata": {
            "generateName": "train-x-", "annotations": {**HALF, labels.GPU_CONTAINER: "i"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "o"}],
        }},
        Rules(),
    ),
    "generated-name-without-owner": (pod() | {"metadata": {"generateName": "burst-", "annotations": HALF}}, Rules()),
    "variables-volumes-and-class-of-its-own": (
        pod(
            HALF,
            container(
                env=[{"name": VISIBLE, "value": "all"}, {"name": "X", "value": "1"}, {"name": VISIBLE, "value": "0"}],
                envFrom=[{"secretRef": {"name": "s"}}],
            ),
            volumes=[{"name": "v", "emptyDir": {}}], runtimeClassName="mine",
        ),
        Rules(),
    ),
    "everything-on": (
        pod(HALF, container(), container("log"), initContainers=[container("setup", env=[{"name": VISIBLE, "value": "all"}])]),
        ALL,
    ),
    "device-access-of-a-plain-pod": (
        pod(
            None, container("gpu", **GPU_LIMIT),
            container("side", env=[{"name": VISIBLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        ),
        ALL,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "env", "refused"),
    [
        ([], [{"name": VISIBLE, "value": "all"}], True),
        ([], [{"name": VISIBLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], True),
        ([], [{"name": VISIBLE, "value": "void"}], False),
        ([], [{"name": "X", "value": "all"}], False),
        (["debug"], [{"name": VISIBLE, "value": "all"}], False),
    ],
)
def test_a_container_for_debugging_may_not_choose_its_devices(before: list[str], env: list[Any], refused: bool) -> None:
    old = pod(ephemeralContainers=[container(name, env=env) for name in before])
    new = pod(ephemeralContainers=[container("debug", env=env)])
    verdict = validate(review(new, old, "UPDATE"), Rules(block_visible_devices=True))
    assert verdict.allowed is not refused
    assert ("container debug sets NVIDIA_VISIBLE_DEVICES" in verdict.message) is refused
    assert validate(review(new, old, "UPDATE"), Rules()) == Verdict()


@pytest.mark.parametrize("name", GOLDEN)
def test_patches_are_those_of_the_golden_files(name: str) -> None:
    found, rules = GOLDEN[name]
    verdict = mutate(review(found), rules)
    assert verdict.allowed, verdict.message
    text = json.dumps(verdict.patch, indent=1) + "\n"
    file = HERE / "golden" / f"{name}.json"
    if os.environ.get("SHOAL_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), "look at the difference; SHOAL_WRITE_GOLDEN=1 writes the files anew"


@pytest.mark.parametrize("name", GOLDEN)
def test_a_patched_pod_gets_no_second_patch_and_is_valid(name: str) -> None:
    found, rules = GOLDEN[name]
    once = patching.apply(found, mutate(review(found), rules).patch)
    assert mutate(review(once, uid="u2"), rules) == Verdict()
    assert validate(review(once), rules) == Verdict()


def test_what_the_binder_writes_is_what_the_container_reads() -> None:
    found, rules = GOLDEN["init-container-of-owner"]
    once = patching.apply(found, mutate(review(found), rules).patch)
    notes = once["metadata"]["annotations"]
    at = sharing.target(["main"], ["i"], notes)
    assert at is not None
    names = sharing.config_names(sharing.prefix(notes), at)
    target = once["spec"]["initContainers"][0]
    assert {e["name"]: e["valueFrom"]["configMapKeyRef"] for e in target["env"]} == {
        key: {"name": names.values, "key": key} for key in sharing.ENVIRONMENT
    }
    assert target["envFrom"] == [{"configMapRef": {"name": names.direct, "optional": False}}]
    assert names.values.startswith("train-")
    assert "env" not in once["spec"]["containers"][0]


REFUSED: list[tuple[dict[str, str], str]] = [
    ({"gpu-fraction": "abc"}, "gpu-fraction is 'abc': write a number between 0 and 1"),
    ({"gpu-fraction": "1.5"}, "between 0 and 1"),
    ({"gpu-fraction": "-1"}, "between 0 and 1"),
    ({"gpu-fraction": "0x1p-2"}, "between 0 and 1"),
    ({"gpu-fraction": "0.5", "gpu-memory": "100"}, "remove one"),
    ({"gpu-fraction": "0.5", "gpu-fraction-num-devices": "0"}, "write a number from 1 to"),
    ({"gpu-memory": "1.5"}, "positive number of MiB"),
    ({"gpu-fraction-num-devices": "2"}, "needs gpu-fraction"),
    ({"mps": "true"}, "is for shared GPUs"),
    ({"gpu-fraction": "0.5", "gpu-fraction-container-name": "x"}, "no container of that name; it has main"),
    ({"gpu-fraction": "0.5", "runai/shared-gpu-configmap": "../other"}, "remove it"),
]


@pytest.mark.parametrize(("notes", "told"), REFUSED)
def test_a_bad_share_is_refused_with_what_to_do(notes: dict[str, str], told: str) -> None:
    for verdict in (mutate(review(pod(notes)), Rules()), validate(review(pod(notes)), Rules())):
        assert not verdict.allowed
        assert told in verdict.message
    other = pod(notes)
    other["spec"]["schedulerName"] = "default-scheduler"
    assert mutate(review(other), ALL) == validate(review(other), ALL) == Verdict(), "not our pod"


def test_whole_gpus_exclude_a_share_by_a_limit_alone_too() -> None:
    found = pod(HALF, container(), container("b", resources={"limits": {labels.GPU: "1"}}))
    assert "whole GPUs and for a share" in validate(review(found), Rules()).message
    none = pod(HALF, container("b", resources={"limits": {labels.GPU: 0}}))
    assert validate(review(none), Rules()).allowed


def test_sharing_that_is_disabled_is_told() -> None:
    verdict = mutate(review(pod(HALF)), Rules(gpu_sharing=False))
    assert not verdict.allowed
    assert "GPU sharing is disabled" in verdict.message
    assert mutate(review(pod()), Rules(gpu_sharing=False)) == Verdict()


def test_a_namespace_that_is_not_the_requests() -> None:
    found = pod(HALF)
    found["metadata"]["namespace"] = "other"
    assert "make them the same" in mutate(review(found), Rules()).message


@pytest.mark.parametrize(
    ("env", "allowed"),
    [
        ({"value": "all"}, False), ({"value": "1,2"}, False), ({"value": "void"}, True), ({"value": "none"}, True),
        ({"value": ""}, True), ({}, True), ({"valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}, False),
    ],
)  # fmt: skip
def test_devices_are_chosen_by_the_plugin_alone(env: dict[str, Any], allowed: bool) -> None:
    found = pod(None, container(env=[{"name": VISIBLE, **env}], **GPU_LIMIT))
    assert mutate(review(found), ALL) == Verdict(), "a container with GPUs is left as it is"
    verdict = validate(review(found), ALL)
    assert verdict.allowed is allowed
    assert allowed or "remove the variable" in verdict.message
    assert validate(review(found), Rules()).allowed, "only where it is switched on"


def changed(found: dict[str, Any], node: str = "", **notes: str) -> dict[str, Any]:
    new = json.loads(json.dumps(found))
    new["metadata"]["annotations"] = (new["metadata"].get("annotations") or {}) | {
        k.replace("_", "-"): v for k, v in notes.items()
    }
    if node:
        new["spec"]["nodeName"] = node
    return new


def test_updates() -> None:
    def update(old: dict[str, Any], new: dict[str, Any]) -> str:
        return validate(review(new, old, "UPDATE"), Rules()).message

    half, bad = pod(HALF), pod({"gpu-fraction": "abc"})
    assert update(half, changed(half, other="x")) == ""
    assert update(half, changed(half, gpu_fraction="0.4")) == "", "it waits still: its owner may ask for less"
    assert "between 0 and 1" in update(half, changed(half, gpu_fraction="abc"))
    assert "can't change" in update(changed(half, "n"), changed(half, "n", gpu_fraction="0.4"))
    assert "can't be added" in update(pod(), changed(pod(), gpu_fraction="0.5"))
    assert "can't be added, removed" in update(half, pod({}))
    assert update(bad, changed(bad, other="x")) == "", "a pod that bypassed admission can be labelled, and its finalizers go"


# Laws.

NAMES = st.sampled_from(["main", "a", "b", "i"])
VALUES = st.sampled_from(["0.5", "0.25", "1", "1.5", "abc", "-1", "", "0", "NaN", "1e-3", "500m", "2000", "4", "²", "0" * 70])
NOTES = st.dictionaries(st.sampled_from([*REFUSED[5][0], "gpu-memory", "mps", "x"]), VALUES | st.just("true"), max_size=4)
ENV = st.lists(
    st.builds(lambda n, v: {"name": n, "value": v}, st.sampled_from([*sharing.ENVIRONMENT, "X"]), st.text(max_size=3)),
    max_size=4,
)


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    def one(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"name": name}
        if draw(st.booleans()):
            found["env"] = draw(ENV)
        if draw(st.booleans()):
            found["resources"] = {"requests": {draw(st.sampled_from([labels.GPU, "nvidia.com/mig-1g.5gb", "cpu"])): "1"}}
        if draw(st.booleans()):
            found["envFrom"] = [{"configMapRef": {"name": "mine"}}]
        return found

    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    split = draw(st.integers(1, len(names)))
    notes = draw(NOTES)
    if draw(st.booleans()):
        notes[labels.GPU_CONTAINER] = draw(NAMES)
    if draw(st.booleans()):
        notes[labels.SHARED_GPU_CONFIG] = draw(st.sampled_from(["kept", "../x", "", "Upper"]))
    found = pod(notes, *(one(n) for n in names[:split]))
    if split < len(names):
        found["spec"]["initContainers"] = [one(n) for n in names[split:]]
    if draw(st.booleans()):
        found["spec"]["volumes"] = []
    found["metadata"] |= draw(st.sampled_from([{}, {"name": ""}, {"name": "", "generateName": "g-"}]))
    return found


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    found=pods(),
    rules=st.builds(Rules, gpu_sharing=st.just(True), hami_core=st.booleans(), block_visible_devices=st.booleans()),
)
def test_mutation_is_idempotent_and_gives_what_validation_accepts(found: dict[str, Any], rules: Rules) -> None:
    first = mutate(review(found), rules)
    assert first.allowed == (not normalise.pod(msgspec.convert(found, objects.Pod)).error)
    if not first.allowed:
        assert first.message == validate(review(found), rules).message
        return
    once = patching.apply(found, first.patch)
    assert mutate(review(once, uid="other"), rules) == Verdict()
    assert validate(review(once), Rules()).allowed


@settings(deadline=None)
@given(found=pods())
def test_what_validation_accepts_records_accept_and_the_other_way_round(found: dict[str, Any]) -> None:
    record = normalise.pod(msgspec.convert(found, objects.Pod))
    verdict = validate(review(found), Rules())
    assert verdict.allowed == (record.error == "")
    assert verdict.message == record.error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "metadata", "spec", "containers", "name", "env", "annotations", "schedulerName", "volumes", "configMapRef", "x",
        ]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(found=JSON, old=JSON, operation=st.sampled_from(["CREATE", "UPDATE", "DELETE", ""]))
def test_any_json_gets_a_verdict(found: Any, old: Any, operation: str) -> None:
    for one in (mutate, validate):
        assert isinstance(one(review(found, old, operation), ALL), Verdict)


@settings(deadline=None)
@given(found=pods(), broken=JSON, where=st.sampled_from(["env", "envFrom", "resources", "name"]))
def test_a_pod_with_anything_inside_gets_a_verdict(found: dict[str, Any], broken: Any, where: str) -> None:
    found["spec"]["containers"][0][where] = broken
    for one in (mutate, validate):
        assert isinstance(one(review(found), ALL), Verdict)


def test_fields_that_are_not_honoured_are_warned_of_when_a_pod_is_made() -> None:
    found = pod(None, container(), workloadRef={"name": "w"})
    verdict = validate(review(found), Rules())
    assert verdict.allowed
    assert "spec.workloadRef" in verdict.warnings[0]
    assert validate(review(found, found, "UPDATE"), Rules()).warnings == ()
    assert validate(review(pod(None, container())), Rules()).warnings == ()
