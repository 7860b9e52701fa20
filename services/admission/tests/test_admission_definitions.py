"""Reviews of PodGroups, Queues and Topologies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_admission.definitions import validate_group, validate_queue, validate_topology
from shoal_contracts.state import QueueRecord
from shoal_kube.admission import Request, Verdict
from shoal_model import normalise, objects


def review(found: object, old: object = None, operation: str = "CREATE") -> Request:
    encoded = [msgspec.Raw(msgspec.json.encode(x)) for x in (found, old)]
    return Request(uid="u", operation=operation, object=encoded[0], old_object=encoded[1])


def of(name: str = "x", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


LEAF = {"name": "b", "parent": "a", "minMember": 1}


@pytest.mark.parametrize(
    ("spec", "told", "create", "update"),
    [
        ({"minMember": 3, "minSubGroup": 1}, "mutually exclusive: set minMember (3) or", "refused", "refused"),
        ({"subGroups": [LEAF, LEAF, {"name": "a"}]}, "duplicate subgroup name b", "refused", "refused"),
        ({"subGroups": [LEAF]}, "parent a of b was not found", "refused", "refused"),
        ({"subGroups": [LEAF, {"name": "a", "parent": "b"}]}, "cycle detected in subgroups", "refused", "refused"),
        ({"subGroups": [{**LEAF, "parent": None, "minSubGroup": 1}]}, "mutually exclusive", "refused", "refused"),
        ({"subGroups": [{"name": "a", "minSubGroup": 1}]}, "cannot be set on a leaf SubGroup", "refused", "refused"),
        ({"subGroups": [{"name": "a"}]}, "subgroup a: minMember is required", "refused", "refused"),
        ({"subGroups": [LEAF, {"name": "a", "minMember": 1}]}, "use minSubGroup instead", "refused", "warned"),
        ({"minSubGroup": 5, "subGroups": [{**LEAF, "parent": ""}]}, "minSubGroup (5) exceeds", "warned", "warned"),
        ({"subGroups": [LEAF, {"name": "a", "minSubGroup": 2}]}, "minSubGroup (2) exceeds", "warned", "warned"),
        ({"preemptionDelay": "soon"}, "spec.preemptionDelay: not a duration", "refused", "refused"),
        ({"minSubGroup": 0}, "", "accepted", "accepted"),
        ({}, "", "accepted", "accepted"),
    ],
)
def test_pod_groups(spec: dict[str, Any], told: str, create: str, update: str) -> None:
    for operation, wanted in (("CREATE", create), ("UPDATE", update)):
        verdict = validate_group(review(of(**spec), of(queue="before"), operation))
        assert verdict.allowed == (wanted != "refused"), operation
        assert told in (verdict.message if wanted == "refused" else " ".join(verdict.warnings))
        assert bool(verdict.warnings) == (wanted == "warned")


def test_errors_and_warnings_are_told_together() -> None:
    verdict = validate_group(review(of(minSubGroup=5, subGroups=[{"name": "a"}])))
    assert not verdict.allowed
    assert "minMember is required" in verdict.message
    assert "exceeds" in verdict.warnings[0]


@pytest.mark.parametrize(
    "review_of", [validate_group, lambda r: validate_queue(r, None, compare_quotas=False), validate_topology]
)
def test_what_is_as_before_or_goes_is_left_alone(review_of: Any) -> None:
    levels = [{"nodeLabel": "a", "alias": "b"}, {"nodeLabel": "b"}]
    bad = of(minMember=1, minSubGroup=1, resources=None, levels=levels)
    assert not review_of(review(bad)).allowed
    relabelled = {**bad, "metadata": {"name": "x", "labels": {"a": "b"}}}
    assert review_of(review(relabelled, bad, "UPDATE")) == Verdict()
    going = {**bad, "metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert review_of(review(going, of(), "UPDATE")) == Verdict()


def test_queues() -> None:
    def told(others: dict[str, QueueRecord] | None, *, compare: bool = False, **spec: Any) -> Verdict:
        return validate_queue(review(of("q", **spec)), others, compare_quotas=compare)

    free = {r: {"quota": -1, "limit": -1} for r in ("gpu", "cpu", "memory")}
    assert told({}, resources=free) == Verdict()
    assert "resources must be specified" in told({}).message
    assert "spec.resources.gpu.quota: -5 is negative" in told({}, resources={"gpu": {"quota": -5}}).message
    assert "overQuotaWeight: -2 is negative" in told({}, resources={"gpu": {"overQuotaWeight": -2}}).message
    assert "not a duration" in told({}, resources=free, preemptMinRuntime="long").message
    assert told({}, resources=free, parentQueue="none") == Verdict(), "it may be the next object of the same apply"
    assert told(None, resources=free, parentQueue="none") == Verdict()
    circle = told({"p": QueueRecord(name="p", parent="q")}, resources=free, parentQueue="p")
    assert circle.allowed
    assert "own ancestor" in circle.warnings[0]
    small = {"p": QueueRecord(name="p")}
    promised = {**free, "gpu": {"quota": 8}}
    assert "promised 8, itself 0" in told(small, compare=True, resources=promised, parentQueue="p").warnings[0]
    assert told(small, resources=promised, parentQueue="p") == Verdict()


def test_a_queue_with_queues_below_it_or_work_in_it_is_not_deleted() -> None:
    def delete(name: str, others: dict[str, QueueRecord] | None, **requested: Any) -> Verdict:
        old = {"metadata": {"name": name}, "spec": {"resources": None}, "status": {"requested": requested or None}}
        return validate_queue(review(None, old, "DELETE"), others, compare_quotas=True)

    tree = {"p": QueueRecord(name="p")} | {f"c{i:02d}": QueueRecord(name=f"c{i:02d}", parent="p") for i in range(12)}
    refused = delete("p", tree)
    assert not refused.allowed
    assert "cannot delete queue p: it has child queues [c00, c01," in refused.message
    assert "c09 …]" in refused.message
    assert delete("c00", tree) == Verdict()
    refused = delete("c00", tree, **{"nvidia.com/gpu": "590", "cpu": "4"})
    assert not refused.allowed
    assert "cannot delete queue c00: its workloads request cpu 4, nvidia.com/gpu 590" in refused.message
    assert delete("c00", tree, cpu="0") == Verdict()
    assert delete("c00", None) == Verdict(), "not known is not in use"
    assert delete("me", {"me": QueueRecord(name="me", parent="me")}) == Verdict(), "its own parent can be got rid of"
    broken = Request(uid="u", operation="DELETE", name="q", old_object=msgspec.Raw(b'{"status": 5}'))
    assert validate_queue(broken, tree, compare_quotas=False) == Verdict()


def test_topologies() -> None:
    assert validate_topology(review(of(levels=[{"nodeLabel": "a", "alias": "x"}, {"nodeLabel": "b"}]))) == Verdict()
    verdict = validate_topology(review(of(levels=[{"nodeLabel": "a", "alias": "b"}, {"nodeLabel": "b", "alias": "b"}])))
    assert verdict.message.startswith("invalid topology aliases: aliases must be unique")
    assert "conflicting: [b]" in verdict.message


AMOUNTS = st.fixed_dictionaries({}, optional={k: st.integers(-3, 3) for k in ("quota", "limit", "overQuotaWeight")})
RESOURCES = st.none() | st.fixed_dictionaries({}, optional={k: AMOUNTS for k in ("gpu", "cpu", "memory")})


@given(resources=RESOURCES, runtime=st.none() | st.sampled_from(["5m", "x", ""]))
def test_queues_that_are_accepted_make_sound_records_and_the_other_way_round(resources: Any, runtime: Any) -> None:
    found = of(resources=resources, preemptMinRuntime=runtime)
    record = normalise.queue(msgspec.convert(found, objects.Queue))
    assert validate_queue(review(found), {}, compare_quotas=True).allowed == (record.error == "")


SUBGROUPS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abc")},
        optional={
            "parent": st.sampled_from([None, "", "a", "b", "x"]), "minMember": st.integers(0, 3),
            "minSubGroup": st.integers(0, 3),
        },
    ),
    max_size=4,
)  # fmt: skip


@given(parts=SUBGROUPS, least=st.none() | st.integers(0, 4))
def test_groups_that_are_accepted_make_sound_records(parts: Any, least: int | None) -> None:
    found = of(subGroups=parts, minSubGroup=least)
    if validate_group(review(found)).allowed:
        assert normalise.group(msgspec.convert(found, objects.PodGroup)).error == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["metadata", "spec", "subGroups", "name", "levels", "nodeLabel", "resources", "gpu", "quota"]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(found=JSON, old=JSON, operation=st.sampled_from(["CREATE", "UPDATE", "DELETE"]))
def test_any_json_gets_a_verdict(found: Any, old: Any, operation: str) -> None:
    asked = review(found, old, operation)
    assert isinstance(validate_group(asked), Verdict)
    assert isinstance(validate_topology(asked), Verdict)
    assert isinstance(validate_queue(asked, {}, compare_quotas=True), Verdict)
