"""One real node from nothing to Ready, and back to nothing."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shoal_local import binaries
from shoal_local.node import dns, images, kubelet, network, place, preflight, runtime, teardown
from shoal_local.node.plane import NodePlane
from shoal_local.process import Child, NotStarted

RUNTIME_CLASS = {
    "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia",
}  # fmt: skip
"""Where there are GPUs, NVIDIA's operator makes it: pods with a share of a GPU ask for it."""
LOCK = Path("/run/lock/shoal-node.lock")
Say = Callable[[str], None]


class NotHere(Exception):
    """This machine can't hold a real node; the message says what it lacks."""


def check(say: Say = print) -> None:
    """Install what is missing, if this may be done here. Raises NotHere."""
    wanted = preflight.packages() if os.geteuid() == 0 else []
    if wanted:
        say(f"installing {', '.join(wanted)}")
    problems = [p for p in (preflight.install(wanted),) if p] or preflight.lacks()
    if problems:
        raise NotHere("a real node can't run here; missing: " + "; ".join(problems))


def _lock() -> int:
    """The file that says whose node it is, open and locked. Raises NotHere where another program has it."""
    taken = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(taken)
        raise NotHere("another program runs the real node of this machine") from error
    return taken


class RealNode:
    """Start with ``start()``, end with ``stop()``; ``plane.kubeconfig`` is the administrator's."""

    def __init__(self, *, detached: bool = False) -> None:
        self._detached = detached
        self._lock: int | None = None
        self.plane = NodePlane(place.ROOT / "plane", detached=detached)
        self.children: dict[str, Child] = {}

    def start(self, archives: Sequence[Path] = (), say: Say = lambda _: None) -> None:
        """Bring the node up with the basic images and ``archives``, and wait until it is Ready and names resolve.

        Raises NotHere (another node is up), NoImage, BuildFailed, NotStarted, OSError.
        """
        began = time.monotonic()

        def step(what: str) -> None:
            say(f"[{time.monotonic() - began:5.1f} s] {what}")
            if self.pids:
                teardown.note(self.pids)

        basic = images.basic(step)
        binaries.find_node(step)
        self._take()
        teardown.clean()
        teardown.prepare()
        network.up(self.plane.port, self.plane.kubelet_port)
        step("containerd, etcd, kube-apiserver, controller-manager, kube-scheduler")
        loading = _Aside(lambda: self._runtime([*basic, *archives]))
        self.plane.start()
        for found in (RUNTIME_CLASS, *dns.objects()):
            self.plane.apply(found)
        loading.wait()
        step("kubelet, kube-proxy, GPUs")
        kubelet.start(self.plane)
        command = [sys.executable, "-m", "shoal_local.node.gpus", f"--count={kubelet.GPUS}"]
        self._keep(Child("gpus", command, self._log("gpus"), detached=self._detached))
        teardown.note(self.pids)
        kubelet.wait(self.plane, kubelet.GPUS)
        dns.wait(self.plane)
        step("Ready, and names resolve")

    def _log(self, name: str) -> Path:
        return place.ROOT / "plane" / "logs" / f"{name}.log"

    def _keep(self, child: Child) -> None:
        child.start()
        self.children[child.name] = child

    def _runtime(self, archives: Sequence[Path]) -> None:
        self.children["containerd"] = runtime.start(self._log("containerd"), detached=self._detached)
        runtime.load(archives)

    def _take(self) -> None:
        self._lock = _lock()
        if standing():
            self._give()
            raise NotHere("a real node is up already; `make node-down` ends it")

    def _give(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def pids(self) -> dict[str, int]:
        """Name -> pid of what runs."""
        return dict(self.plane.pids) | {n: c.pid for n, c in self.children.items() if c.pid}

    def stop(self) -> None:
        """End everything and leave nothing behind."""
        if self._lock is None:
            return
        parts = self.plane.children
        for child in (self.children.get("gpus"), parts.get("kubelet"), parts.get("kube-proxy")):
            if child:
                child.stop(3)
        if "containerd" in self.children:
            runtime.end_containers()
            self.children["containerd"].stop(3)
        self.plane.stop()
        teardown.clean()
        self._give()


STANDING = place.ROOT / "stays"


def standing() -> bool:
    """Whether a node that was started to stay is up."""
    return STANDING.exists() and any(p.endswith(": containerd") for p in teardown.leftovers())


def up(say: Say = print) -> None:
    """Start a node that stays. Raises as ``RealNode.start``, NotHere."""
    check(say)
    node = RealNode(detached=True)
    try:
        node.start(say=say)
    except BaseException:
        node.stop()
        raise
    STANDING.touch()
    say(f"\nexport KUBECONFIG={node.plane.kubeconfig}")
    say(f"export PATH={node.plane.kubectl().parent}:{binaries.tools()['helm'].parent}:$PATH   # kubectl and helm")
    say("`make node-down` ends it")


def down(say: Say = print) -> None:
    """End the node that stays, and whatever one that was killed has left."""
    lock = _lock()
    found = teardown.leftovers()
    if any(p.endswith(": containerd") for p in found):
        # The kubelet first: it would start the containers again.
        teardown.end(lambda name: name not in ("containerd", "containerd-shim", "container"))
        runtime.end_containers()
    teardown.clean()
    if left := teardown.leftovers():
        raise NotStarted("still there: " + "; ".join(left))
    os.close(lock)
    say("the real node is gone" if found else "nothing was up")


class _Aside:
    """Work in a thread beside, whose error is raised by ``wait``."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def wait(self, limit: float = 300.0) -> None:
        """Wait for the end. Raises what the work raised, or NotStarted when it is late."""
        self._thread.join(limit)
        if self._thread.is_alive():
            raise NotStarted(f"images were not loaded after {limit:.0f} s")
        if self._error:
            raise self._error
