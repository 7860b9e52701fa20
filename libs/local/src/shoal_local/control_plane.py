"""A Kubernetes control plane of one machine: etcd, kube-apiserver, controller-manager, KWOK and, if asked, kube-scheduler.

Everything listens on 127.0.0.1. Nodes are KWOK's: a bound pod becomes Running, a deleted one goes.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from shoal_local import binaries
from shoal_local.certs import Authority
from shoal_local.process import Child, NotStarted
from shoal_model import access, crds, labels
from shoal_testkit.nats import free_port, listens

LIMIT = 90.0
"""Seconds that a part may take to come up."""
ISSUER = "https://kubernetes.default.svc"
TOKEN_SECONDS = 86_400


RUNTIME_CLASS = {
    "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia",
}  # fmt: skip
"""Made by NVIDIA's operator in a real cluster; pods with a share of a GPU get it at admission."""


class Refused(Exception):
    """The API server refused a request; ``status`` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:1000]}")
        self.status = status


class ControlPlane:
    """Start with ``start()``, end with ``stop()``; ``kubeconfig`` is the administrator's."""

    def __init__(self, folder: Path, *, workload_api: bool = True, scheduler: bool = False, detached: bool = False) -> None:
        self.folder = folder.resolve()
        self._workload_api, self._with_scheduler, self._detached = workload_api, scheduler, detached
        self.port, self._etcd_port, self._etcd_peer, self._kwok_port = (free_port() for _ in range(4))
        self.url = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = self.folder / "admin.kubeconfig"
        self.children: dict[str, Child] = {}
        self._binaries: dict[str, Path] = {}

    def start(self) -> None:
        """Bring everything up; takes seconds once the binaries are there. Raises BuildFailed, NotStarted."""
        self._binaries = binaries.find()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._certificates()
        self._start("etcd", self._etcd())
        self._start("kube-apiserver", self._apiserver())
        self._wait_for_apiserver()
        self._install()
        self._start("kube-controller-manager", self._controllers())
        self._start_nodes()
        if self._with_scheduler:
            self.start_scheduler()
        self._until(lambda: bool(self.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")), "serving accounts")

    def stop(self) -> None:
        """End everything that was started, the last first. etcd is on scratch: nothing is worth waiting for."""
        for child in reversed(self.children.values()):
            child.kill()

    def restart_apiserver(self, *, workload_api: bool | None = None) -> None:
        """Kill the API server and start it again; ``workload_api`` switches that API on or off."""
        if workload_api is not None:
            self._workload_api = workload_api
        self.children["kube-apiserver"].kill()
        self._start("kube-apiserver", self._apiserver())
        self._wait_for_apiserver()

    def start_scheduler(self) -> None:
        """Start kube-scheduler for the pods of ``default-scheduler``."""
        self._start("kube-scheduler", self._scheduler())

    def stop_scheduler(self) -> None:
        """End kube-scheduler."""
        self.children["kube-scheduler"].kill()

    def kubectl(self) -> Path:
        """The kubectl of the same version."""
        return self._binaries["kubectl"]

    # parts

    def _start_nodes(self) -> None:
        self._start("kwok", self._kwok())
        self._start_gpus()

    def _certificates(self) -> None:
        authority = self._authority = Authority(self.folder / "pki")
        hosts = ("localhost", "127.0.0.1", "kubernetes", "kubernetes.default.svc", "10.96.0.1")
        authority.issue("apiserver", "kube-apiserver", hosts=hosts)
        authority.issue("etcd", "etcd", hosts=("localhost", "127.0.0.1"))
        authority.service_account_key()
        self._ca = authority.ca
        for name, common, group in (
            ("admin", "admin", "system:masters"),
            ("controllers", "system:kube-controller-manager", ""),
            ("scheduler", "system:kube-scheduler", ""),
            ("kwok", "kwok", "system:masters"),
        ):
            certificate, key = authority.issue(name, common, group)
            self._write_kubeconfig(
                self.folder / f"{name}.kubeconfig", {"client-certificate": str(certificate), "client-key": str(key)}
            )

    def _write_kubeconfig(self, path: Path, user: dict[str, Any], url: str | None = None) -> Path:
        cluster = {"server": url or self.url, "certificate-authority": str(self._ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "shoal", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "shoal", "context": {"cluster": "shoal", "user": "user"}}],
            "current-context": "shoal",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _start(self, name: str, arguments: list[str]) -> None:
        child = Child(name, [self._binaries[name], *arguments], self.folder / "logs" / f"{name}.log", detached=self._detached)
        child.start()
        self.children[name] = child

    def _start_gpus(self) -> None:
        """The devices of KWOK's nodes."""
        command = [sys.executable, "-m", "shoal_local.gpus"]
        known = environment(self.folder / "kwok.kubeconfig")
        child = Child("gpus", command, self.folder / "logs" / "gpus.log", environment=known, detached=self._detached)
        child.start()
        self.children["gpus"] = child

    def _pki(self, name: str) -> str:
        return str(self.folder / "pki" / name)

    def _etcd(self) -> list[str]:
        url, peer = f"https://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._etcd_peer}"
        return [
            "--name=shoal", f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=shoal={peer}", f"--cert-file={self._pki('etcd.crt')}",
            f"--key-file={self._pki('etcd.key')}", "--client-cert-auth", f"--trusted-ca-file={self._pki('ca.crt')}",
            "--unsafe-no-fsync", "--log-level=warn", "--quota-backend-bytes=4294967296",
        ]  # fmt: skip

    def _apiserver(self) -> list[str]:
        found = [
            "--bind-address=127.0.0.1", f"--secure-port={self.port}", "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none", f"--etcd-servers=https://127.0.0.1:{self._etcd_port}",
            f"--etcd-cafile={self._pki('ca.crt')}", f"--etcd-certfile={self._pki('etcd.crt')}",
            f"--etcd-keyfile={self._pki('etcd.key')}", "--authorization-mode=RBAC",
            f"--client-ca-file={self._pki('ca.crt')}", f"--tls-cert-file={self._pki('apiserver.crt')}",
            f"--tls-private-key-file={self._pki('apiserver.key')}", f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self._pki('sa.pub')}",
            f"--service-account-signing-key-file={self._pki('sa.key')}", "--service-cluster-ip-range=10.96.0.0/16",
            # New nodes would be tainted until a lifecycle controller has seen their kubelet; KWOK's have none.
            # Pods of a new namespace need not wait for its account: nothing here runs as it.
            "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount", "--profiling=false",
            "--max-requests-inflight=800", "--max-mutating-requests-inflight=400", "--v=1",
        ]  # fmt: skip
        if self._workload_api:
            found += ["--feature-gates=GenericWorkload=true", "--runtime-config=scheduling.k8s.io/v1beta1=true"]
        return found

    def _controllers(self) -> list[str]:
        kubeconfig = self.folder / "controllers.kubeconfig"
        return [
            f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}", "--bind-address=127.0.0.1", f"--secure-port={free_port()}",
            "--leader-elect=false", "--use-service-account-credentials",
            f"--service-account-private-key-file={self._pki('sa.key')}", f"--root-ca-file={self._pki('ca.crt')}",
            "--controllers=*,-node-lifecycle-controller,-node-ipam-controller",
            "--kube-api-qps=200", "--kube-api-burst=400", "--profiling=false", "--v=1",
        ]  # fmt: skip

    def _scheduler(self) -> list[str]:
        kubeconfig = self.folder / "scheduler.kubeconfig"
        settings = self.folder / "scheduler.yaml"
        settings.write_text(yaml.safe_dump({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 5000, "burst": 10000},
        }))  # fmt: skip
        return [
            f"--config={settings}", f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}", "--bind-address=127.0.0.1", f"--secure-port={free_port()}", "--v=1",
        ]  # fmt: skip

    def _kwok(self) -> list[str]:
        # Pods run until they are deleted, Jobs too: what their commands would do is not known here.
        stages = sorted(s for s in self._binaries["stages"].glob("*.yaml") if "complete" not in s.name)
        return [
            f"--kubeconfig={self.folder / 'kwok.kubeconfig'}", "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", f"--node-port={self._kwok_port}",
            f"--server-address=127.0.0.1:{self._kwok_port}",
            "--node-ip=127.0.0.1", "--node-lease-duration-seconds=0", *(f"--config={s}" for s in stages), "--v=warn",
        ]  # fmt: skip

    # the API, for setting up

    def call(self, verb: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """One request as administrator. Raises Refused, OSError."""
        tls = ssl.create_default_context(cafile=str(self._ca))
        tls.load_cert_chain(self._pki("admin.crt"), self._pki("admin.key"))
        request = urllib.request.Request(
            self.url + path, method=verb, data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=15, context=tls) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, error.read().decode("utf-8", "replace")) from error
        return json.loads(text) if text[:1] == b"{" else text.decode()

    def apply(self, found: dict[str, Any]) -> None:
        """Make an object as it stands here, by server-side apply."""
        group = found["apiVersion"]
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        kind = found["kind"].lower()
        plural = kind + ("es" if kind.endswith("s") else "s") if kind != "topology" else "topologies"
        namespace = found["metadata"].get("namespace")
        middle = f"/namespaces/{namespace}" if namespace else ""
        path = f"{root}{middle}/{plural}/{found['metadata']['name']}?fieldManager=shoal-local&force=true"
        self.call("PATCH", path, found, "application/apply-patch+yaml")

    def _until(self, ready: Any, what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                if ready():
                    return
                last = "not yet"
            except (Refused, OSError) as error:
                last = str(error)
            for child in self.children.values():
                if not child.pid:
                    raise NotStarted(f"{child.name} ended:\n{child.tail()}")
            if time.monotonic() > deadline:
                raise NotStarted(f"the API server is not {what}: {last}\n{self.children['kube-apiserver'].tail()}")
            time.sleep(0.1)

    def _wait_for_apiserver(self) -> None:
        self.children["kube-apiserver"].wait_until(lambda: listens(self.port), LIMIT, "listening")
        self._until(lambda: self.call("GET", "/readyz") == "ok", "ready")

    def _install(self) -> None:
        """CRDs, priority classes, and the services' accounts and rights."""
        for definition in crds.DEFINITIONS:
            self.apply({**definition, "kind": "CustomResourceDefinition"})
        for found in (*crds.PRIORITY_CLASSES, RUNTIME_CLASS, *access.objects()):
            self.apply(found)
        for path in (
            "scheduling.run.ai/v2/queues",
            "scheduling.run.ai/v2alpha2/podgroups",
            "kai.scheduler/v1alpha1/topologies",
        ):
            self._until(lambda path=path: bool(self.call("GET", f"/apis/{path}?limit=1")), f"serving {path}")

    def kubeconfig_for(self, service: str, url: str | None = None) -> Path:
        """A kubeconfig with a token of the service's own account (for a day); ``url``: of a proxy before the API."""
        answer = self.call(
            "POST", f"/api/v1/namespaces/{labels.NAMESPACE}/serviceaccounts/shoal-{service}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_SECONDS}},
        )  # fmt: skip
        user = {"token": answer["status"]["token"]}
        return self._write_kubeconfig(self.folder / f"{service}.kubeconfig", user, url)

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the server's."""
        return self._ca

    @property
    def pids(self) -> dict[str, int]:
        """Name -> pid of what runs."""
        return {name: child.pid for name, child in self.children.items() if child.pid}


def environment(kubeconfig: Path) -> dict[str, str]:
    """The environment of a command that speaks to the cluster."""
    return os.environ | {"KUBECONFIG": str(kubeconfig)}
