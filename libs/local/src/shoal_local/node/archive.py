"""Container images without a daemon or a registry: layers and settings in, an archive that containerd and Docker load out."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"
SEARCH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def layer(out: Path, files: dict[str, Path]) -> Path:
    """Write a layer of programs: path in the image -> a file. The same files give the same bytes."""
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, source in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = source.stat().st_size, 0o755
            with source.open("rb") as data:
                tar.addfile(entry, data)
    return out


def write(out: Path, name: str, layers: Sequence[Path], config: dict[str, Any]) -> Path:
    """Write an image of uncompressed layers, the lowest first, as an archive. ``config``: Entrypoint, Cmd, User, Env …"""
    sums = []
    for path in layers:
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    settings = json.dumps({
        "architecture": MACHINES.get(platform.machine(), platform.machine()), "os": "linux", "created": EPOCH,
        "config": {"Env": [SEARCH], **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{s}" for s in sums]},
        "history": [{"created": EPOCH, "created_by": "shoal_local"} for _ in sums],
    }).encode()  # fmt: skip
    digest = hashlib.sha256(settings).hexdigest()
    names = [f"{s}.tar" for s in sums]
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [name], "Layers": names}]).encode()
    part = out.with_name(out.name + ".part")
    with tarfile.open(part, "w") as tar:
        for entry_name, data in ((f"{digest}.json", settings), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(entry_name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for entry_name, path in dict(zip(names, layers, strict=True)).items():
            tar.add(path, arcname=entry_name)
    part.rename(out)
    return out
