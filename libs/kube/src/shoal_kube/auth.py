"""Who we are to the API server: a kubeconfig with certificate or token, or the pod's service account."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class BadKubeconfig(Exception):
    """The kubeconfig can't be used; the message says what is missing."""


@dataclass(frozen=True)
class Access:
    """Where the API server is and how to speak to it."""

    url: str
    tls: ssl.SSLContext | None
    token: Callable[[], str]
    """The bearer token, read anew each time (it is rotated); empty: none."""


def _data(entry: dict[str, Any], key: str, base: Path) -> bytes | None:
    if text := entry.get(f"{key}-data"):
        return base64.b64decode(text)
    if name := entry.get(key):
        return (base / name).read_bytes()
    return None


def _named(items: list[dict[str, Any]] | None, name: str, what: str) -> dict[str, Any]:
    for item in items or ():
        if item.get("name") == name:
            return item.get(what) or {}
    raise BadKubeconfig(f"no {what} named {name!r}")


def from_kubeconfig(path: str) -> Access:
    """The current context of a kubeconfig. Raises BadKubeconfig, OSError."""
    file = Path(path)
    config = yaml.safe_load(file.read_text()) or {}
    context = _named(config.get("contexts"), config.get("current-context", ""), "context")
    cluster = _named(config.get("clusters"), context.get("cluster", ""), "cluster")
    user = _named(config.get("users"), context.get("user", ""), "user")
    if "exec" in user or "auth-provider" in user:
        raise BadKubeconfig("the user logs in by a plugin: give the service a token or a certificate instead")
    url = str(cluster.get("server", "")).rstrip("/")
    tls = None
    if url.startswith("https"):
        ca = _data(cluster, "certificate-authority", file.parent)
        tls = ssl.create_default_context(cadata=ca.decode() if ca else None)
        certificate, key = _data(user, "client-certificate", file.parent), _data(user, "client-key", file.parent)
        if certificate and key:
            with tempfile.NamedTemporaryFile() as pem:  # made with mode 0600
                pem.write(certificate + b"\n" + key)
                pem.flush()
                tls.load_cert_chain(pem.name)
    if name := user.get("tokenFile"):
        return Access(url, tls, lambda: (file.parent / name).read_text().strip())
    token = str(user.get("token") or "")
    return Access(url, tls, lambda: token)


def in_cluster() -> Access:
    """The service account of the pod that we run in. Raises BadKubeconfig outside of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise BadKubeconfig("no KUBECONFIG, and not in a cluster")
    tls = ssl.create_default_context(cafile=str(IN_CLUSTER / "ca.crt"))
    host = f"[{host}]" if ":" in host else host
    return Access(f"https://{host}:{port}", tls, lambda: (IN_CLUSTER / "token").read_text().strip())


def access(kubeconfig: str | None) -> Access:
    """By the kubeconfig, or by the pod's service account when None."""
    return from_kubeconfig(kubeconfig) if kubeconfig else in_cluster()
