"""containerd with the node's own root, socket and pod network, and the images that it is given."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from shoal_local.node import network, place, preflight
from shoal_local.process import Child
from shoal_testkit.nats import free_port

SOCKET = place.ROOT / "containerd.sock"
SPACE = "k8s.io"
"""The namespace in which the kubelet's images and containers are."""
OFF = ("aufs", "btrfs", "zfs", "devmapper")


def _settings() -> str:
    off = ", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in OFF)
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE every sandbox fails, with an error that does not say why.
    return f"""\
version = 2
root = "{place.ROOT}/containerd"
state = "{place.ROOT}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", {off}]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{place.image("pause")}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "{free_port()}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{preflight.plugin_folder()}"
    conf_dir = "{place.ROOT}/cni"
"""


def ctr(*arguments: str, check: bool = True, limit: float = 120.0) -> str:
    """Run containerd's command on the node's containerd. Raises OSError."""
    command = ["ctr", "-a", str(SOCKET), "-n", SPACE, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{' '.join(command)} took over {limit:.0f} s") from error
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _answers() -> bool:
    try:
        ctr("version", limit=5)
    except OSError:
        return False
    return True


def start(log: Path, *, detached: bool) -> Child:
    """Start containerd and wait until it answers. Raises NotStarted."""
    network.configure_cni(place.ROOT / "cni")
    settings = place.ROOT / "containerd.toml"
    settings.write_text(_settings())
    child = Child("containerd", ["containerd", "-c", settings], log, detached=detached)
    child.start()
    child.wait_until(_answers, 30, "answering")
    return child


def load(archives: Sequence[Path]) -> None:
    """Import images. Raises OSError."""
    for archive in archives:
        ctr("images", "import", "--snapshotter", "overlayfs", str(archive), limit=300)


def images() -> list[str]:
    """Names of the images that are there."""
    return ctr("images", "ls", "-q").split()


def end_containers() -> None:
    """End every container of the node; containerd must still run."""
    for task in ctr("task", "ls", "-q", check=False).split():
        ctr("task", "kill", "-s", "9", task, check=False, limit=10)
    for task in ctr("task", "ls", "-q", check=False).split():
        ctr("task", "rm", "-f", task, check=False, limit=10)
