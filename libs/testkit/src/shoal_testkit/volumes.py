"""Claims, volumes and pods that use them, and what the volume controller does with them: it does not run in tests."""

from __future__ import annotations

from typing import Any

from shoal_testkit import workload
from shoal_testkit.api import Api

CLASSES, VOLUMES = "/apis/storage.k8s.io/v1/storageclasses", "/api/v1/persistentvolumes"
SELECTED = "volume.kubernetes.io/selected-node"
MERGE = "application/merge-patch+json"


def storage_class(name: str, provisioner: str = "kubernetes.io/no-provisioner") -> dict[str, Any]:
    """A class whose volumes wait for their pod; without a provisioner they have to be there."""
    return {"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}


def claim(name: str, storage_class: str) -> dict[str, Any]:
    """A claim of 1 GiB."""
    requests = {"requests": {"storage": "1Gi"}}
    return {
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": requests, "storageClassName": storage_class},
    }


def volume(name: str, storage_class: str, node: str, *, claim: str = "", namespace: str = "") -> dict[str, Any]:
    """A volume of 1 GiB that only this node reaches; with ``claim`` it was made for that one."""
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]
    spec: dict[str, Any] = {
        "storageClassName": storage_class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}, "local": {"path": "/data"},
    }  # fmt: skip
    if claim:
        spec["claimRef"] = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": namespace, "name": claim}
    return {"metadata": {"name": name}, "spec": spec}


def pod(name: str, namespace: str, *, queue: str, claim: str, group: str = "") -> dict[str, Any]:
    """A pod with one GPU that mounts the claim."""
    found = workload.pod(name, namespace, queue=queue, group=group)
    found["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return found


async def make(api: Api, body: dict[str, Any]) -> None:
    """A volume, and that it may be had."""
    await api.post(VOLUMES, body)
    path = f"{VOLUMES}/{body['metadata']['name']}/status"
    await api.call("PATCH", path, {"status": {"phase": "Available"}}, content=MERGE)


async def bind(api: Api, namespace: str, claim: str, volume: str) -> None:
    """Both sides are known: the claim is bound."""
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"
    await api.call("PATCH", path, {"spec": {"volumeName": volume}}, content=MERGE)
    await api.call("PATCH", f"{path}/status", {"status": {"phase": "Bound"}}, content=MERGE)


async def remove(api: Api, namespace: str, prefix: str) -> None:
    """The namespace's claims, and volumes and classes of this prefix: nobody else takes their finalizers off."""
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    found = [f"{claims}/{c['metadata']['name']}" for c in await api.items(claims)]
    found += [
        f"{VOLUMES}/{v['metadata']['name']}" for v in await api.items(VOLUMES) if v["metadata"]["name"].startswith(prefix)
    ]
    for path in found:
        await api.call("PATCH", path, {"metadata": {"finalizers": None}}, content=MERGE)
        await api.delete(path)
    for kind in await api.items(CLASSES):
        if kind["metadata"]["name"].startswith(prefix):
            await api.delete(f"{CLASSES}/{kind['metadata']['name']}")
