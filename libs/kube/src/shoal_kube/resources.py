"""Where the kinds that we read and write live in the API."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A resource of the API."""

    kind: str
    api: str
    """``/api/v1`` or ``/apis/<group>/<version>``."""
    plural: str
    namespaced: bool = True

    @property
    def everywhere(self) -> str:
        """Path of all objects of the cluster."""
        return f"{self.api}/{self.plural}"

    def path(self, name: str = "", namespace: str = "", sub: str = "") -> str:
        """Path of one object, or of a namespace's collection without ``name``."""
        found = f"{self.api}/namespaces/{namespace}/{self.plural}" if self.namespaced else self.everywhere
        return found + (f"/{name}" if name else "") + (f"/{sub}" if sub else "")


PODS = Resource("Pod", "/api/v1", "pods")
NODES = Resource("Node", "/api/v1", "nodes", namespaced=False)
NAMESPACES = Resource("Namespace", "/api/v1", "namespaces", namespaced=False)
CONFIG_MAPS = Resource("ConfigMap", "/api/v1", "configmaps")
SECRETS = Resource("Secret", "/api/v1", "secrets")
EVENTS = Resource("Event", "/api/v1", "events")
QUEUES = Resource("Queue", "/apis/scheduling.run.ai/v2", "queues", namespaced=False)
POD_GROUPS = Resource("PodGroup", "/apis/scheduling.run.ai/v2alpha2", "podgroups")
TOPOLOGIES = Resource("Topology", "/apis/kai.scheduler/v1alpha1", "topologies", namespaced=False)
SHARDS = Resource("SchedulingShard", "/apis/kai.scheduler/v1", "schedulingshards", namespaced=False)
CONFIGS = Resource("Config", "/apis/kai.scheduler/v1", "configs", namespaced=False)
DEPLOYMENTS = Resource("Deployment", "/apis/apps/v1", "deployments")
PRIORITY_CLASSES = Resource("PriorityClass", "/apis/scheduling.k8s.io/v1", "priorityclasses", namespaced=False)
DISRUPTION_BUDGETS = Resource("PodDisruptionBudget", "/apis/policy/v1", "poddisruptionbudgets")
LEASES = Resource("Lease", "/apis/coordination.k8s.io/v1", "leases")
NODE_RESOURCES = Resource(
    "NodeResourceTopology", "/apis/topology.node.k8s.io/v1alpha2", "noderesourcetopologies", namespaced=False
)
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
VALIDATING_WEBHOOKS = Resource(
    "ValidatingWebhookConfiguration", _ADMISSION, "validatingwebhookconfigurations", namespaced=False
)
MUTATING_WEBHOOKS = Resource("MutatingWebhookConfiguration", _ADMISSION, "mutatingwebhookconfigurations", namespaced=False)
VALIDATING_POLICIES = Resource("ValidatingAdmissionPolicy", _ADMISSION, "validatingadmissionpolicies", namespaced=False)
MUTATING_POLICIES = Resource("MutatingAdmissionPolicy", _ADMISSION, "mutatingadmissionpolicies", namespaced=False)
CLAIMS = Resource("ResourceClaim", "/apis/resource.k8s.io/v1", "resourceclaims")
SLICES = Resource("ResourceSlice", "/apis/resource.k8s.io/v1", "resourceslices", namespaced=False)
VOLUME_CLAIMS = Resource("PersistentVolumeClaim", "/api/v1", "persistentvolumeclaims")
VOLUMES = Resource("PersistentVolume", "/api/v1", "persistentvolumes", namespaced=False)
STORAGE_CLASSES = Resource("StorageClass", "/apis/storage.k8s.io/v1", "storageclasses", namespaced=False)
DRIVERS = Resource("CSIDriver", "/apis/storage.k8s.io/v1", "csidrivers", namespaced=False)
DRIVERS_OF_NODES = Resource("CSINode", "/apis/storage.k8s.io/v1", "csinodes", namespaced=False)
STORAGE_CAPACITIES = Resource("CSIStorageCapacity", "/apis/storage.k8s.io/v1", "csistoragecapacities")
DEVICE_CLASSES = Resource("DeviceClass", "/apis/resource.k8s.io/v1", "deviceclasses", namespaced=False)
