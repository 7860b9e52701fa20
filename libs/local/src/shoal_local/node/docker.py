"""Images by the Dockerfile: a Docker daemon of our own, without a network, and what it builds, kept by content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from shoal_local.node import images, place
from shoal_local.process import Child

ROOT = Path("/var/lib/shoal-docker")
"""Everything of the daemon but its log."""
CHECKOUT = Path(__file__).resolve().parents[5]
DOCKERFILE = CHECKOUT / "deploy" / "docker" / "Dockerfile"
CONTEXT = ("constraints.txt", "VERSION", "libs", "services", ".dockerignore", "deploy/docker/Dockerfile")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
COMMAND = "/usr/bin/docker"
"""Debian's client has BuildKit; a newer one without its plugin has not."""


def targets(text: str) -> list[str]:
    """The stages of a Dockerfile that have an entry point: what is shipped."""
    found = []
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        name = re.match(r"\S+ AS (\S+)", stage)
        if name and re.search(r"^ENTRYPOINT ", stage, re.MULTILINE):
            found.append(name[1])
    return found


def content(checkout: Path = CHECKOUT) -> bytes:
    """A digest of all that goes into the images, but for the base."""
    digest = hashlib.sha256()
    for name in CONTEXT:
        top = checkout / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            inside = path.relative_to(checkout).parts
            unused = {"tests", "__pycache__"} & set(inside) or inside[:2] in (("libs", "local"), ("libs", "testkit"))
            if (
                path.is_file()
                and not unused
                and path.suffix != ".pyc"
                and path.name != "conftest.py"
                and ".egg-info" not in str(path)
            ):
                digest.update(f"{path.relative_to(checkout)}\0".encode() + path.read_bytes())
    return digest.digest()


class Docker:
    """A daemon for the time of a ``with`` block. Containers have the host's network or none."""

    def __init__(self, log: Path) -> None:
        self.socket = ROOT / "docker.sock"
        self.environment = os.environ | {
            "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(ROOT / "client"),
        }  # fmt: skip
        self._child = Child("dockerd", [
            "dockerd", f"--data-root={ROOT / 'data'}", f"--exec-root={ROOT / 'exec'}", f"--pidfile={ROOT / 'pid'}",
            f"--host=unix://{self.socket}", "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
            "--exec-opt=native.cgroupdriver=cgroupfs", "--storage-driver=overlay2",
        ], log)  # fmt: skip

    def __enter__(self) -> Docker:
        clean()
        ROOT.mkdir(parents=True)
        # cgroups: the daemon makes /sys/fs/cgroup/*/docker; they go with it.
        self._child.start()
        self._child.wait_until(lambda: self.run("version", check=False).returncode == 0, 30, "answering")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        left = self.run("ps", "-aq", check=False).stdout.split()
        if left:
            self.run("rm", "-f", *left, check=False)
        self._child.stop(10)
        clean()

    def run(self, *arguments: str, check: bool = True, limit: float = 600.0) -> subprocess.CompletedProcess[str]:
        """One command of the client. Raises NoImage with the end of what it said."""
        done = subprocess.run(
            [COMMAND, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=limit
        )
        if check and done.returncode:
            raise images.NoImage(f"docker {' '.join(arguments[:6])} failed: {(done.stderr or done.stdout)[-2500:]}")
        return done

    def build(self, base: str, names: Sequence[str], checkout: Path = CHECKOUT) -> None:
        """Build the targets of the Dockerfile as ``shoal.local/<target>``. Raises NoImage."""
        secret = ["--secret", f"id=ca,src={CERTIFICATES}"] if CERTIFICATES.exists() else []
        for name in names:
            self.run(
                "build", "--network=host", *secret, f"--build-arg=BASE={base}", f"--target={name}",
                f"--tag={place.image(name)}", f"--file={checkout / 'deploy/docker/Dockerfile'}", str(checkout),
            )  # fmt: skip

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Target -> bytes of its image, all layers counted."""
        shown = self.run("image", "inspect", *(place.image(n) for n in names)).stdout
        return {n: int(i["Size"]) for n, i in zip(names, json.loads(shown), strict=True)}


def _containers() -> list[Path]:
    found = []
    for top in Path("/sys/fs/cgroup").glob("*/docker"):
        found += [*sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)), top]
    return found


def clean() -> None:
    """Take away what a daemon left: mounts and files. It must not run."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{ROOT}/")), key=len, reverse=True):
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)
    for path in _containers():
        try:
            path.rmdir()
        except OSError:
            continue
    shutil.rmtree(ROOT, ignore_errors=True)


def suite(log: Path, say: images.Say = print) -> Path:
    """An archive with the images of all targets, built from the checkout unless it is kept. Raises NoImage, NotStarted."""
    base = images.base(say)
    names = targets(DOCKERFILE.read_text())

    def make(out: Path) -> None:
        began = time.monotonic()
        say(f"building {', '.join(names)} from the Dockerfile")
        with Docker(log) as docker:
            docker.run("load", "--input", str(base))
            docker.build(place.image("base"), names)
            for name, size in docker.sizes(names).items():
                say(f"image {name}: {size / 1e6:.0f} MB")
            part = out.with_name("suite-part.tar")
            docker.run("save", "--output", str(part), *(place.image(n) for n in names))
            part.rename(out)
        say(f"images built in {time.monotonic() - began:.0f} s")

    return images.kept("suite", content() + base.name.encode(), make)
