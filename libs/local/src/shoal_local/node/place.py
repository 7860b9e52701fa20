"""Where the node's files lie, and the names and addresses that it takes on the machine."""

from __future__ import annotations

from pathlib import Path

NAME = "shoal-node"
"""The node's name."""
ROOT = Path("/var/lib/shoal-node")
"""All files of the node. Fixed: the paths of its sockets must be short, and a machine has one such node."""
BRIDGE = "shoal0"
ADDRESS = "10.213.0.1"
"""Of the bridge: the node's internal address, for kubelets refuse a loopback address."""
PODS = "10.213.0.0/24"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
REGISTRY = "shoal.local"
"""First part of the names of the images that are made here; nothing answers there."""
TAG = "node"
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
"""Whatever the kubelet's own folder is, it looks for device plugins here."""


def image(name: str) -> str:
    """The full name of an image that is made here."""
    return f"{REGISTRY}/{name}:{TAG}"
