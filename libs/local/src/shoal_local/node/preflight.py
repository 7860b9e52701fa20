"""Whether this machine can hold a real node: what it lacks, in words that say what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from shoal_local.node import place

PROGRAMS = {
    "containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables", "ip": "iproute2",
    "conntrack": "conntrack", "mmdebstrap": "mmdebstrap",
}  # fmt: skip
"""Program -> the Debian package that has it."""
PLUGINS = ("bridge", "host-local", "loopback")
PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
DOCKER = {"dockerd": "docker.io", "docker-compose": "docker-compose", "mmdebstrap": "mmdebstrap"}
"""What building from the Dockerfile, and the compose file, need."""


def plugin_folder() -> Path | None:
    """Where the CNI plugins are."""
    for folder in PLUGIN_FOLDERS:
        if all((folder / name).exists() for name in PLUGINS):
            return folder
    return None


def packages(programs: dict[str, str] = PROGRAMS) -> list[str]:
    """The Debian packages whose programs are not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {package for name, package in programs.items() if not shutil.which(name, path=path)}
    if programs is PROGRAMS and plugin_folder() is None:
        missing.add("containernetworking-plugins")
    return sorted(missing)


def install(wanted: Sequence[str]) -> str:
    """Install Debian packages; gives what went wrong, or nothing. Needs root and apt."""
    if not wanted:
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"these packages are missing, and only root on Debian or Ubuntu can install them: {', '.join(wanted)}"
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *wanted]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
        if done.returncode and command[1] == "install":
            return f"apt-get install {' '.join(wanted)} failed: {done.stderr[-400:].strip()}"
    return ""


def _runs(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()[-200:]


def _bridges() -> str:
    """Whether a bridge can be made here, tried with one that goes again."""
    failed = _runs("ip", "link", "add", "shoal-try", "type", "bridge")
    if not failed:
        _runs("ip", "link", "del", "shoal-try")
    return failed


def _other_kubelet() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(place.DEVICE_PLUGINS / "kubelet.sock")) == 0


def cgroups() -> list[Path]:
    """The hierarchies in which the kubelet makes its groups: one of cgroup v2, or those of v1."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(p for p in root.glob("*") if (p / "tasks").exists()) if root.exists() else []


def lacks() -> list[str]:
    """What is missing for a real node, once the packages are installed; empty: nothing."""
    if os.geteuid() != 0:
        return ["root (containers, mounts and a bridge are made)"]
    found: list[str] = []
    if missing := packages():
        found.append(f"packages: {', '.join(missing)}")
        return found
    if "overlay" not in Path("/proc/filesystems").read_text():
        found.append("the overlay filesystem (modprobe overlay)")
    groups = cgroups()
    names = {p.name for p in groups}
    if not groups or (len(groups) > 1 and not {"cpu", "memory", "pids", "devices"} <= {n for g in names for n in g.split(",")}):
        found.append("mounted cgroups with cpu, memory, pids and devices")
    if failed := _bridges():
        found.append(f"bridges ({failed})")
    if failed := _runs("iptables", "-w", "5", "-t", "nat", "-S"):
        found.append(f"iptables ({failed})")
    if _other_kubelet():
        found.append("a machine without another kubelet: one answers in " + str(place.DEVICE_PLUGINS))
    return found
