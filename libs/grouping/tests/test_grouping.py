"""From a pod and its owners to its group: the rules of the spec, kind by kind."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.state import GroupRecord, OwnerRef, PodRecord, PriorityClassRecord
from shoal_grouping import CantGroup, Case, Owner, changes, concerns, decode_owner, given_by_user, group_of
from shoal_model import labels

CLASSES = {name: PriorityClassRecord(name=name, value=1) for name in ("train", "build", "inference", "vip")}
JOB = Owner("batch/v1", "Job", "job", "u-job")


def pod(**fields: object) -> PodRecord:
    found = PodRecord(namespace="ns", name="p", uid="u-p", scheduler_name="kai-scheduler")
    return msgspec.structs.replace(found, **fields)


def case(owners: list[Owner] | None = None, **fields: object) -> Case:
    return Case(pod(**fields), owners or [], CLASSES)


def wanted(of: Case):
    found = group_of(of)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"scheduler_name": "default-scheduler"}, False),
        ({"annotations": {labels.SKIP_GROUPER: "true"}}, False),
        ({"group": "made-by-hand"}, False),
        ({"group": "pg-p-u-p"}, True),
        ({"group": "g", "owners": [OwnerRef(api_version="batch/v1", type="Job", name="j", uid="u")]}, True),
    ],
)
def test_which_pods_are_ours_to_group(fields: dict[str, object], expected: bool) -> None:
    assert concerns(pod(**fields), "kai-scheduler") is expected


MADE = GroupRecord(
    namespace="ns", name="x", annotations={labels.TOP_OWNER: "name: j\n"},
    owners=[OwnerRef(api_version="batch/v1", type="Job", name="j", uid="u")],
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("", None, False),
        ("mine", GroupRecord(namespace="ns", name="mine"), True),
        ("pg-copied-0f0e0d0c-0b0a-0908-0706-050403020100", GroupRecord(namespace="ns", name="mine"), True),
        ("mine", None, True),
        ("mine", MADE, False),
        ("mine", msgspec.structs.replace(MADE, owners=[]), True),
        ("pg-job-0f0e0d0c-0b0a-0908-0706-050403020100", None, False),
        ("pg-job-0f0e0d0c-0b0a-0908-0706-050403020100-group-1", None, False),
    ],
)
def test_a_group_that_no_grouper_has_made_is_the_users(name: str, group: GroupRecord | None, expected: bool) -> None:
    assert given_by_user(pod(group=name), group) is expected


@pytest.mark.parametrize(
    ("owner", "own", "expected"),
    [
        ({}, {}, ("train", "")),
        ({labels.PRIORITY_CLASS: "superhigh"}, {}, ("train", "superhigh")),
        ({labels.PRIORITY_CLASS: "superhigh"}, {labels.PRIORITY_CLASS: "vip"}, ("vip", "superhigh")),
        ({labels.PRIORITY_CLASS: "vip"}, {labels.PRIORITY_CLASS: "superhigh"}, ("vip", "")),
    ],
)
def test_a_priority_class_that_does_not_exist_is_noted(
    owner: dict[str, str], own: dict[str, str], expected: tuple[str, str]
) -> None:
    found = wanted(case([replace(JOB, labels=owner)], labels=own))
    assert (found.priority_class, found.missing_class) == expected


def test_an_owner_that_only_passes_on_what_it_says_is_not_the_group() -> None:
    flow = Owner("argoproj.io/v1alpha1", "Workflow", "w", "u-w", {labels.QUEUE: "a"}, {labels.MIN_MEMBER: "3"})
    assert (wanted(case([flow])).name, wanted(case([flow])).queue) == ("pg-p-u-p", "a")
    found = wanted(case([replace(JOB, labels={labels.QUEUE: "b"}), flow]))
    assert (found.name, found.queue, found.min_member) == ("pg-job-u-job", "b", 3)
    assert group_of(case([replace(flow, annotations={labels.SKIP_GROUPER: "true"})])) is None


def test_a_kind_without_rules_of_its_own_is_grouped_by_its_labels() -> None:
    tags = {labels.QUEUE: "team-a", labels.PRIORITY_CLASS: "build", labels.PREEMPTIBILITY: "non-preemptible"}
    found = wanted(case([Owner("example.com/v1", "Widget", "w", "u-w", tags)], labels={labels.QUEUE: "other"}))
    assert (found.name, found.queue, found.priority_class, found.preemptibility) == (
        "pg-w-u-w", "team-a", "build", "non-preemptible",
    )  # fmt: skip


def test_a_bare_pod_is_a_group_of_its_own() -> None:
    found = wanted(case())
    assert (found.name, found.owner.kind, found.min_member, found.priority_class) == ("pg-p-u-p", "Pod", 1, "train")
    assert found.object()["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-p"}]


@pytest.mark.parametrize(
    ("owner", "own", "expected"),
    [
        ({labels.QUEUE: "a"}, {labels.QUEUE: "b"}, "a"),
        ({}, {labels.QUEUE: "b"}, "b"),
        ({labels.PROJECT: "p"}, {}, "p"),
        ({}, {labels.PROJECT: "p", labels.NODE_POOL: "x"}, "p-x"),
        ({}, {}, "default-queue"),
    ],
)
def test_the_queue_comes_from_the_owner_then_the_pod_then_the_project(
    owner: dict[str, str], own: dict[str, str], expected: str
) -> None:
    assert wanted(case([replace(JOB, labels=owner)], labels=own)).queue == expected


def test_queue_and_node_pool_by_labels_of_another_name() -> None:
    of = replace(case(labels={"q": "blue", "pool": "a", labels.QUEUE: "red"}), queue_label="q", pool_label="pool")
    found = wanted(of)
    assert (found.queue, found.labels["pool"], labels.NODE_POOL in found.labels) == ("blue", "a", False)
    have = GroupRecord(namespace="ns", name=found.name, uid="u", labels={"pool": "moved"}, owners=[])
    assert "pool" not in changes(found, have, {"q", "pool"}).get("metadata", {}).get("labels", {})


def test_a_priority_class_that_does_not_exist_is_passed_over() -> None:
    job = replace(JOB, labels={labels.PRIORITY_CLASS: "nobody"})
    assert wanted(case([job], priority_class="vip")).priority_class == "vip"
    assert wanted(case([job])).priority_class == "train"


def test_each_pod_of_a_deployment_is_a_group_that_looks_like_the_deployment() -> None:
    deployment = Owner("apps/v1", "Deployment", "web", "u-web", {labels.QUEUE: "q"})
    found = wanted(case([Owner("apps/v1", "ReplicaSet", "web-1", "u-rs"), deployment]))
    assert (found.name, found.owner.kind, found.queue, found.priority_class) == ("pg-p-u-p", "Pod", "q", "inference")


def test_the_pods_of_a_stateful_set_share_a_group() -> None:
    found = wanted(case([Owner("apps/v1", "StatefulSet", "db", "u-db")]))
    assert (found.name, found.owner.kind, found.min_member) == ("pg-db-u-db", "StatefulSet", 1)


def test_a_job_is_a_gang_only_if_it_says_so() -> None:
    assert wanted(case([JOB])).min_member == 1
    assert wanted(case([replace(JOB, annotations={labels.MIN_MEMBER: "4"})])).min_member == 4


@pytest.mark.parametrize("text", ["many", "-1", "2.5", "99999999999"])
def test_a_minimum_that_is_none_is_told_with_its_place(text: str) -> None:
    with pytest.raises(CantGroup, match=rf"annotation {labels.MIN_MEMBER} of Job job is .*write"):
        group_of(case([replace(JOB, annotations={labels.MIN_MEMBER: text})]))


def test_each_run_of_a_cron_job_is_a_group() -> None:
    cron = Owner("batch/v1", "CronJob", "nightly", "u-cron")
    assert wanted(case([JOB, cron])).owner == JOB
    with pytest.raises(CantGroup, match="no Job"):
        group_of(case([cron]))


def test_an_owner_can_keep_its_pods_out() -> None:
    assert group_of(case([replace(JOB, annotations={labels.SKIP_GROUPER: "true"})])) is None


def test_delays_that_are_none_are_ignored() -> None:
    job = replace(JOB, annotations={labels.PREEMPTION_DELAY: "soon", labels.STALENESS_GRACE: "-5s"})
    found = wanted(case([job], annotations={labels.PREEMPTION_DELAY: "90s"}))
    assert (found.preemption_delay, found.staleness_grace) == ("90s", "-5s")


def test_topology_annotations_become_a_constraint() -> None:
    job = replace(JOB, annotations={labels.TOPOLOGY: "dc", labels.TOPOLOGY_REQUIRED: "rack"})
    assert wanted(case([job])).spec()["topologyConstraint"] == {"topology": "dc", "requiredTopologyLevel": "rack"}


def test_what_kubectl_keeps_for_itself_is_not_copied() -> None:
    job = replace(JOB, annotations={"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "a"})
    assert "team" in wanted(case([job])).annotations
    assert "kubectl.kubernetes.io/last-applied-configuration" not in wanted(case([job])).annotations


def stored(of: Case) -> GroupRecord:
    """The group as the API shows it once it was made."""
    found = wanted(of)
    owner = OwnerRef(api_version=found.owner.api_version, type=found.owner.kind, name=found.owner.name, uid=found.owner.uid)
    return GroupRecord(
        namespace="ns", name=found.name, uid="u-g", queue=found.queue, labels=dict(found.labels),
        annotations=dict(found.annotations), priority_class=found.priority_class, min_member=found.min_member,
        preemptibility=found.preemptibility, owners=[owner],
    )  # fmt: skip


text = st.text("abc", max_size=3)


@given(st.dictionaries(text, text, max_size=3), st.sampled_from(["", "2", "7"]), st.sampled_from(["", "vip", "build"]))
def test_a_group_as_it_was_made_needs_no_change(tags: dict[str, str], minimum: str, name: str) -> None:
    notes = {labels.MIN_MEMBER: minimum} if minimum else {}
    of = case([replace(JOB, labels=tags, annotations=notes)], priority_class=name)
    assert changes(wanted(of), stored(of)) == {}


def test_only_what_differs_is_patched_and_an_administrators_queue_stays() -> None:
    of = case([replace(JOB, labels={labels.QUEUE: "q", "team": "a"}, annotations={labels.MIN_MEMBER: "4"})])
    have = msgspec.structs.replace(stored(of), queue="moved", min_member=2, labels={labels.QUEUE: "moved"})
    assert changes(wanted(of), have) == {"spec": {"minMember": 4}, "metadata": {"labels": {"team": "a"}}}


def test_an_owner_is_read_from_its_metadata() -> None:
    owner, above = decode_owner(
        b'{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j","uid":"u","labels":{"a":"b"},'
        b'"ownerReferences":[{"apiVersion":"batch/v1","kind":"CronJob","name":"c","uid":"v"}]}}'
    )
    assert (owner.group, owner.version, owner.labels) == ("batch", "v1", {"a": "b"})
    assert [o.name for o in above] == ["c"]
