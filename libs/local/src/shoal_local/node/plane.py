"""The control plane of a real node: accounts, node rights and taints as in production, no KWOK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shoal_local import binaries
from shoal_local.control_plane import ControlPlane
from shoal_local.node import place
from shoal_testkit.nats import free_port


class NodePlane(ControlPlane):
    """A ControlPlane whose nodes are real. CRDs and accounts of the suite are left to whoever installs it."""

    def __init__(self, folder: Path, *, detached: bool = False) -> None:
        super().__init__(folder, scheduler=True, detached=detached)
        self.kubelet_port = free_port()

    def _certificates(self) -> None:
        super()._certificates()
        issue = self._authority.issue
        issue("apiserver-kubelet", "shoal-apiserver", "system:masters")
        issue("kubelet-server", f"system:node:{place.NAME}", hosts=(place.NAME, "127.0.0.1", place.ADDRESS))
        for name, common, group in (
            ("kubelet", f"system:node:{place.NAME}", "system:nodes"),
            ("kube-proxy", "system:kube-proxy", ""),
        ):
            certificate, key = issue(name, common, group)
            user = {"client-certificate": str(certificate), "client-key": str(key)}
            self._write_kubeconfig(self.folder / f"{name}.kubeconfig", user)

    def _apiserver(self) -> list[str]:
        ours = ("--authorization-mode", "--disable-admission-plugins", "--advertise-address")
        return [a for a in super()._apiserver() if not a.startswith(ours)] + [
            # Without the endpoints of the service `kubernetes`, kube-proxy leaves its address to the node's own rule.
            f"--advertise-address={place.ADDRESS}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            f"--kubelet-client-certificate={self._pki('apiserver-kubelet.crt')}",
            f"--kubelet-client-key={self._pki('apiserver-kubelet.key')}",
            f"--kubelet-certificate-authority={self._pki('ca.crt')}", "--kubelet-preferred-address-types=InternalIP",
        ]  # fmt: skip

    def _controllers(self) -> list[str]:
        return [a for a in super()._controllers() if not a.startswith("--controllers")] + [
            "--controllers=*", f"--cluster-signing-cert-file={self._pki('ca.crt')}",
            f"--cluster-signing-key-file={self._pki('ca.key')}",
        ]  # fmt: skip

    def _start_nodes(self) -> None:
        """The kubelet comes later, when containerd is there."""

    def _install(self) -> None:
        """Nothing: the chart brings what it needs."""

    def program(self, name: str) -> Path:
        """A program of the control plane's or the node's kit."""
        if name not in self._binaries:
            self._binaries |= binaries.find_node()
        return self._binaries[name]

    def start_part(self, name: str, arguments: list[str]) -> None:
        """Start kubelet or kube-proxy beside the rest."""
        self.program(name)
        self._start(name, arguments)

    def pki(self, name: str) -> str:
        """A file of the cluster's authority."""
        return self._pki(name)

    def seen(self, path: str) -> Any:
        """An object, or None."""
        try:
            return self.call("GET", path)
        except OSError:
            return None
        except Exception as error:
            if getattr(error, "status", 0) == 404:
                return None
            raise
