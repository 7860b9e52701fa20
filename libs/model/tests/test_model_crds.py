"""The CRDs: the files are what the code says, and hold the fields that the reference's hold."""

from __future__ import annotations

from pathlib import Path

from shoal_model import crds

FILES = Path(__file__).resolve().parents[3] / "deploy/helm/shoal/files/crds"


def test_the_files_are_up_to_date(tmp_path: Path) -> None:
    crds.write(tmp_path / "crds")
    want = {p.name: p.read_text() for p in (tmp_path / "crds").iterdir()}
    assert {p.name: p.read_text() for p in FILES.iterdir()} == want, "stale: run `make crds`"
    classes = "priorityclasses.yaml"
    assert (FILES.parent / classes).read_text() == (tmp_path / classes).read_text(), "stale: run `make crds`"


def test_names_and_versions_are_the_references() -> None:
    found = {(d["metadata"]["name"], d["spec"]["versions"][0]["name"], d["spec"]["scope"]) for d in crds.DEFINITIONS}
    assert found == {
        ("queues.scheduling.run.ai", "v2", "Cluster"),
        ("podgroups.scheduling.run.ai", "v2alpha2", "Namespaced"),
        ("topologies.kai.scheduler", "v1alpha1", "Cluster"),
        ("schedulingshards.kai.scheduler", "v1", "Cluster"),
        ("configs.kai.scheduler", "v1", "Cluster"),
    }


def test_priority_classes() -> None:
    assert {c["metadata"]["name"]: c["value"] for c in crds.PRIORITY_CLASSES} == {
        "train": 50,
        "build-preemptible": 75,
        "build": 100,
        "inference": 125,
    }
