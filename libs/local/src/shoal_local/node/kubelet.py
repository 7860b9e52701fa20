"""kubelet and kube-proxy: their settings, and the wait for the node to be Ready."""

from __future__ import annotations

import time
from typing import Any

import yaml

from shoal_local.node import place
from shoal_local.node.plane import NodePlane
from shoal_local.node.runtime import SOCKET
from shoal_local.process import NotStarted
from shoal_testkit.nats import free_port

LIMIT = 60.0
GPUS, GPU_MEMORY = 8, 81_920
LABELS = {
    "nvidia.com/gpu.count": str(GPUS), "nvidia.com/gpu.memory": str(GPU_MEMORY), "nvidia.com/gpu.product": "Make-Believe-80GB",
}  # fmt: skip
"""What NVIDIA's feature discovery would say of the node; memory in MiB."""


def _kubelet(plane: NodePlane) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": "127.0.0.1", "port": plane.kubelet_port, "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1", "healthzPort": free_port(),
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": plane.pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": plane.pki("kubelet-server.crt"), "tlsPrivateKeyFile": plane.pki("kubelet-server.key"),
        "containerRuntimeEndpoint": f"unix://{SOCKET}", "imageServiceEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False, "oomScoreAdj": 0,
        "enforceNodeAllocatable": [], "makeIPTablesUtilChains": False,
        "clusterDNS": [place.DNS_SERVICE], "clusterDomain": "cluster.local", "resolvConf": str(place.ROOT / "resolv.conf"),
        "podLogsDir": str(place.ROOT / "pod-logs"), "volumePluginDir": str(place.ROOT / "volume-plugins"),
        "nodeStatusUpdateFrequency": "2s", "syncFrequency": "5s",
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
        # Images that nobody can pull again are never in the way.
        "imageGCHighThresholdPercent": 100,
    }  # fmt: skip


def _proxy(plane: NodePlane) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "bindAddress": "127.0.0.1", "healthzBindAddress": f"127.0.0.1:{free_port()}",
        "metricsBindAddress": f"127.0.0.1:{free_port()}",
        "clientConnection": {"kubeconfig": str(plane.folder / "kube-proxy.kubeconfig")},
        "clusterCIDR": place.PODS, "mode": "iptables", "hostnameOverride": place.NAME,
        # Pods of one bridge answer each other past the rules that would turn the address back.
        "iptables": {"masqueradeAll": True, "minSyncPeriod": "100ms"},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nodePortAddresses": ["127.0.0.0/8"],
    }  # fmt: skip


def start(plane: NodePlane) -> None:
    """Start both. Raises NotStarted."""
    (place.ROOT / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    for name, settings in (("kubelet", _kubelet(plane)), ("kube-proxy", _proxy(plane))):
        path = place.ROOT / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        arguments = [f"--config={path}"]
        if name == "kubelet":
            arguments += [
                f"--kubeconfig={plane.folder / 'kubelet.kubeconfig'}", f"--hostname-override={place.NAME}",
                f"--node-ip={place.ADDRESS}", f"--root-dir={place.ROOT / 'kubelet'}",
                f"--cert-dir={place.ROOT / 'kubelet-pki'}",
                "--node-labels=" + ",".join(f"{k}={v}" for k, v in LABELS.items()),
            ]  # fmt: skip
        plane.start_part(name, arguments)


def _condition(node: dict[str, Any]) -> str:
    return next((c["status"] for c in node["status"].get("conditions", []) if c["type"] == "Ready"), "")


def wait(plane: NodePlane, gpus: int) -> None:
    """Wait until the node is Ready and offers its GPUs. Raises NotStarted."""
    deadline = time.monotonic() + LIMIT
    while True:
        node = plane.seen(f"/api/v1/nodes/{place.NAME}")
        offered = int(node["status"].get("allocatable", {}).get("nvidia.com/gpu", 0)) if node else 0
        if node and _condition(node) == "True" and offered == gpus:
            return
        kubelet = plane.children["kubelet"]
        if not kubelet.pid or time.monotonic() > deadline:
            state = f"Ready={_condition(node) or 'unknown'}, {offered} of {gpus} GPUs" if node else "not registered"
            raise NotStarted(f"the node is {state}:\n{kubelet.tail()}")
        time.sleep(0.1)
