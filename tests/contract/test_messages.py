"""Every message: round trip, an older reader, a newer writer; the documents in proto/ are up to date."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts import decision, export, journal, queries, state, subjects
from shoal_contracts.base import Message, encode, kind_of

ROOT = Path(__file__).resolve().parents[2]

SAMPLES: list[Message] = [
    state.PodRecord(
        namespace="ns",
        name="p",
        uid="u",
        requests={"cpu": 1000.0},
        share=state.GpuShare(fraction=0.5),
        affinity=state.Affinity(
            node_required=[state.NodeTerm(expressions=[state.Requirement(key="a", operator="In", values=["b"])])]
        ),
        tolerations=[state.Toleration(key="t", operator="Exists")],
        owners=[state.OwnerRef(api_version="v1", type="Job", name="j", uid="o")],
    ),
    state.NodeRecord(name="n", allocatable={"nvidia.com/gpu": 8.0}, taints=[state.Taint(key="k", effect="NoSchedule")]),
    state.QueueRecord(name="q", gpu=state.QueueResource(quota=-1.0, limit=4.0, weight=1.0), priority=3),
    state.GroupRecord(namespace="ns", name="g", queue="q", subgroups=[state.SubGroup(name="s", min_member=2)]),
    state.PriorityClassRecord(name="train", value=50),
    state.NamespaceRecord(name="n", labels={"team": "db"}),
    state.AdmissionRecord(type="ValidatingAdmissionPolicy", name="n"),
    state.TopologyRecord(name="t", levels=[state.TopologyLevel(label="rack")]),
    state.PdbRecord(namespace="ns", name="b", selector=state.Selector(), observed=True, disruptions_allowed=1, disrupted=["p"]),
    state.ObjectRecord(type="ResourceClaim", name="c", body=msgspec.Raw(b'{"a":1}')),
    state.SyncMark(versions={"pod": "12"}),
    decision.Decision(id="1-1-1", verb=decision.Verb.BIND, namespace="ns", pod="p", uid="u", node="n", epoch=1),
    decision.GangGo(gang="g", epoch=1, members=["u"]),
    decision.Epoch(epoch=3, holder="me"),
    decision.Outcome(decision="1-1-1", sequence=4, uid="u", result=decision.Result.BOUND),
    journal.Input(
        epoch=1,
        cycle=2,
        steps=[
            journal.Applied(record=state.PriorityClassRecord(name="train", value=50)),
            journal.Removed(what="pod", namespace="ns", name="p"),
            journal.Assumed(uid="u", node="n"),
            journal.AssumedGone(uid="u"),
            journal.Forgotten(uid="u"),
            journal.Barred(uid="u", barred=True),
            journal.EvictionBackoff(uid="u", on=True, why="no"),
        ],
        last=True,
        now=1.5,
        settings={"actions": ["allocate"]},
    ),
    journal.Decided(epoch=1, cycle=2, digest="0" * 64, starts=3),
    queries.HealthRequest(),
    queries.HealthReply(service="s", instance="i", ready=False, waiting_for=["bus"]),
    queries.Problem(error="no"),
    queries.ReserveRequest(node="n", group="g", namespace="ns", pod="p", tolerations=[state.Toleration(key="k")]),
    queries.ReserveReply(state=queries.Reserved.READY, device="GPU-1"),
    state.GpuGroupRecord(node="n", group="g", device="GPU-1", reservation="r", used=0.5, users=["ns/p"]),
]


@pytest.mark.parametrize("message", SAMPLES, ids=kind_of)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    data = encode(message)
    assert json.loads(data)["kind"] == kind_of(message)
    assert encode(msgspec.json.decode(data, type=type(message))) == data


@pytest.mark.parametrize("message", SAMPLES, ids=kind_of)
def test_an_older_reader_takes_what_a_newer_writer_adds(message: Message) -> None:
    newer = json.loads(encode(message)) | {"added_later": {"a": [1]}}
    read = msgspec.json.decode(msgspec.json.encode(newer), type=type(message))
    assert json.loads(encode(read)) == json.loads(encode(message))


@pytest.mark.parametrize("message", SAMPLES, ids=kind_of)
def test_what_is_sent_fits_its_schema(message: Message) -> None:
    schema = export.schemas().get(kind_of(message))
    if schema is None:
        schema = msgspec.json.schema(type(message))
    jsonschema.Draft202012Validator(schema).validate(json.loads(encode(message)))


def test_state_records_are_told_apart_by_kind() -> None:
    for message in SAMPLES[:9]:
        assert type(msgspec.json.decode(encode(message), type=state.StateMessage)) is type(message)


def test_every_sent_message_is_sampled_here() -> None:
    sent = {c.message for c in export.CHANNELS if issubclass(c.message, Message)}
    assert sent <= {type(s) for s in SAMPLES}


def test_proto_is_what_the_code_says() -> None:
    version = (ROOT / "VERSION").read_text().strip()
    wanted = export.documents(version)
    have = {
        str(p.relative_to(ROOT / "proto")): p.read_text() for p in (ROOT / "proto").rglob("*") if p.suffix in (".yaml", ".json")
    }
    assert have == wanted, "stale: run `make proto`"


def test_asyncapi_refers_only_to_what_it_defines() -> None:
    document = export.asyncapi("1")
    text = json.dumps(document)
    for ref in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        at: object = document
        for step in ref.removeprefix("#/").split("/"):
            assert isinstance(at, dict)
            at = at[step]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=4))
def test_a_subject_holds_any_names(names: list[str]) -> None:
    built = subjects.subject("state", "default", *(n if n not in ("*", ">") else n + "x" for n in names))
    assert len(built.split(".")) == 4 + len(names)
    assert not set(" \t\r\n*>") & set(built)
    assert subjects.parse(built)[2] == [n if n not in ("*", ">") else n + "x" for n in names]


@pytest.mark.parametrize("text", ["", "shoal.v1", "shoal.v2.state.default.pod", "other.v1.state.default.x"])
def test_a_foreign_subject_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a subject"):
        subjects.parse(text)
