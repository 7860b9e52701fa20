"""The checkout itself: files that go together, limits of the house, no address of a registry."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")])


def committed() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_has_a_docstring_and_one_job(path: Path) -> None:
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module says what it is for"
    assert len(text.splitlines()) <= 600, "over 600 lines: split it"


def test_no_committed_file_names_a_registry_host() -> None:
    hosts = re.compile(r"(files\.pythonhosted\.org|//pypi\.org|registry\.npmjs\.org|proxy\.golang\.org|resolved \"http)")
    named = [
        str(p.relative_to(ROOT)) for p in committed() if p != Path(__file__) and hosts.search(p.read_text("utf-8", "replace"))
    ]
    assert named == []


def test_no_pickle_and_no_eval() -> None:
    bad = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                bad.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id}")
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                bad += [f"{path.relative_to(ROOT)}:{node.lineno} {n}" for n in names if n in {"pickle", "marshal", "shelve"}]
    assert bad == []


def test_compose_file_names_every_service_and_the_dockerfile_it_builds_from() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    # Without a kubelet nobody would run the Deployments that shard-controller makes.
    folders = {p.parent.name for p in ROOT.glob("services/*/pyproject.toml")} - {"shard_controller"}
    built = {s["build"]["target"] for s in services.values() if "build" in s}
    assert built == {f.replace("_", "-") for f in folders}
    assert set(services) == {f.replace("_", "-") for f in folders} | {"nats"}
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            assert {"SHOAL_NATS_URL", "SHOAL_NATS_PASSWORD", "KUBECONFIG"} <= set(service["environment"])


def test_dockerfile_has_an_image_for_every_service_and_none_runs_as_root() -> None:
    text = (ROOT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ")
    verbs = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert set(verbs) <= {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}
    below = {name: source for source, name in re.findall(r"^FROM (\S+) AS (\S+)", text, re.MULTILINE)}
    folders = {p.parent.name.replace("_", "-") for p in ROOT.glob("services/*/pyproject.toml")}
    assert folders | {"reservation", "nats"} <= set(below)
    for name in folders | {"reservation"}:
        while name in below and name != "runtime":
            name = below[name]
        assert name == "runtime", "every image rests on the stage that is not root"
    runtime = text.partition(" AS runtime\n")[2].partition("FROM ")[0]
    assert "USER 10000:10000" in runtime


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        used = set(re.findall(r"`make ([a-z0-9-]+)", (ROOT / page).read_text()))
        assert used <= targets, page


def test_every_service_has_the_same_anatomy() -> None:
    for folder in sorted(ROOT.glob("services/*")):
        package = folder / "src" / f"shoal_{folder.name}"
        for name in ("__main__.py", "app.py"):
            assert (package / name).is_file(), f"{folder.name} lacks {name}"
        assert (folder / "README.md").is_file()
        assert list(folder.glob("tests/test_*.py")), f"{folder.name} has no tests"
