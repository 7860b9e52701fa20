"""The images that a node needs before anything is installed on it: made once, and kept by content."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal_local import binaries
from shoal_local.node import archive, place

PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6")
UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
NOBODY = "65532:65532"
Say = Callable[[str], None]


class NoImage(Exception):
    """An image could not be made; the message says which and why."""


def cache() -> Path:
    """Where images are kept."""
    folder = binaries.cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept(name: str, key: bytes, make: Callable[[Path], object]) -> Path:
    """The archive ``name`` for the content that ``key`` stands for; made if need be, once at a time."""
    path = cache() / f"{name}-{hashlib.sha256(key).hexdigest()[:20]}.tar"
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for old in cache().glob(f"{name}-*.tar"):
                old.unlink()
            make(path)
    return path


def _single(name: str, program: Path, config: dict[str, Any]) -> Path:
    """An image of one static program, called like it."""

    def make(out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            layer = archive.layer(Path(folder) / "layer.tar", {program.name: program})
            archive.write(out, place.image(name), [layer], config)

    with program.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").digest()
    return kept(name, key + repr(config).encode(), make)


def _suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise NoImage("base: /etc/os-release names no suite of packages")


def rootfs(say: Say = print) -> Path:
    """A small Debian (or Ubuntu) with Python as a tar, of the host's own suite and package sources. Raises NoImage."""
    suite = _suite()
    sources = [p for p in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.sources")) if p.exists()]
    own = next((p for p in sources if suite in p.read_text("utf-8", "replace")), None)
    if own is None:
        raise NoImage(f"base: no source of packages for {suite} in /etc/apt")

    def make(out: Path) -> None:
        say(f"making a base image of {suite} once: 1 to 2 minutes")
        part = out.with_name("base-part.tar")
        command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNWANTED]
        done = subprocess.run([*command, suite, str(part), str(own)], capture_output=True, text=True, check=False)
        if done.returncode:
            part.unlink(missing_ok=True)
            raise NoImage(f"base: mmdebstrap failed: {done.stderr[-600:]}")
        part.rename(out)

    return kept("rootfs", repr((suite, PACKAGES, UNWANTED)).encode(), make)


def base(say: Say = print) -> Path:
    """The image of ``rootfs``. Raises NoImage."""
    system = rootfs(say)
    return kept(
        "base", system.name.encode(), lambda out: archive.write(out, place.image("base"), [system], {"Cmd": ["python3"]})
    )


def basic(say: Say = print) -> list[Path]:
    """What every node is given: pause, CoreDNS and a base with Python. Raises NoImage, BuildFailed."""
    tools = binaries.tools(say)
    return [
        _single("pause", tools["pause"], {"Entrypoint": ["/pause"], "User": NOBODY}),
        _single("coredns", tools["coredns"], {"Entrypoint": ["/coredns"]}),
        base(say),
    ]
