"""What a node leaves on the machine besides processes: found, and taken away. Nothing of anyone else is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from shoal_local.node import network, place, preflight
from shoal_local.process import running, started_at

NAMESPACES = Path("/run/netns")
MADE = "made-kubelet-folder"
"""A file of the node that says: the folder of device plugins was not there before."""
NOTED = "pids.json"


def _mounts() -> list[str]:
    """Mount points of the node, the deepest first."""
    points = [line.split()[1].replace("\\040", " ") for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((p for p in points if p.startswith(f"{place.ROOT}/")), key=len, reverse=True)


def note(pids: dict[str, int]) -> None:
    """Note the node's own processes: name -> pid."""
    (place.ROOT / NOTED).write_text(json.dumps({name: [str(pid), started_at(pid)] for name, pid in pids.items()}))


def _processes() -> dict[int, str]:
    """Processes of the node: pid -> name. Those that were noted, the shims of its containers, and what runs in its pods."""
    try:
        found = {pid: name for name, pid in running(json.loads((place.ROOT / NOTED).read_text())).items()}
    except (OSError, ValueError):
        found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name.startswith("containerd-shim") and f"{place.ROOT}/containerd.sock" in words:
            found[int(path.parent.name)] = "containerd-shim"
    for group in _groups():
        for name in ("cgroup.procs", "tasks"):
            try:
                found |= {int(pid): "container" for pid in (group / name).read_text().split()}
                break
            except OSError:
                continue
    found.pop(os.getpid(), None)
    return found


def _groups() -> list[Path]:
    """Control groups of pods, the deepest first."""
    found: list[Path] = []
    for root in preflight.cgroups():
        top = root / "kubepods"
        if top.is_dir():
            found += [top, *(p for p in top.rglob("*") if p.is_dir())]
    return sorted(found, key=lambda p: len(p.parts), reverse=True)


def _namespaces() -> list[Path]:
    """Network namespaces of pods: those that hold an address of the node's own range."""
    prefix = f" {place.ADDRESS.rpartition('.')[0]}."
    found = []
    for path in NAMESPACES.glob("cni-*") if NAMESPACES.exists() else ():
        shown = subprocess.run(["ip", "-n", path.name, "-o", "-4", "addr"], capture_output=True, text=True, check=False)
        if prefix in shown.stdout:
            found.append(path)
    return found


def leftovers() -> list[str]:
    """What is still there of a node, in words; empty: nothing."""
    found = [f"process {pid}: {name}" for pid, name in _processes().items()]
    found += [f"mount {point}" for point in _mounts()]
    found += [f"namespace {path}" for path in _namespaces()]
    found += [f"rule {rule}" for rule in network.rules()]
    found += [f"group {path}" for path in _groups()]
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
    found += [f"link {place.BRIDGE}"] if f" {place.BRIDGE}:" in links else []
    found += [f"files {place.ROOT}"] if place.ROOT.exists() else []
    return found


def prepare() -> None:
    """Make the node's folders; notes what is to go again."""
    place.ROOT.mkdir(parents=True)
    if not place.DEVICE_PLUGINS.parent.exists():
        (place.ROOT / MADE).touch()
    place.DEVICE_PLUGINS.mkdir(parents=True, exist_ok=True)


def end(parts: Callable[[str], bool] = lambda _: True, limit: float = 10.0) -> None:
    """End the node's processes whose name ``parts`` takes. All state is scratch: nothing is worth waiting for."""
    deadline = time.monotonic() + limit
    while (found := [pid for pid, name in _processes().items() if parts(name)]) and time.monotonic() < deadline:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def clean() -> None:
    """Take everything away that a node left. Its API server and bus have ended already, or are ended here."""
    end()
    for point in _mounts():
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)
    for path in _namespaces():
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)
        path.unlink(missing_ok=True)
    network.down()
    for path in _groups():
        try:
            path.rmdir()
        except OSError:
            continue
    if (place.ROOT / MADE).exists():
        shutil.rmtree(place.DEVICE_PLUGINS.parent, ignore_errors=True)
    shutil.rmtree(place.ROOT, ignore_errors=True)
