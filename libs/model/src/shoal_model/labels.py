"""Every label and annotation that Shoal reads or writes, with who writes it."""

SCHEDULER_NAME = "kai-scheduler"
NAMESPACE = "kai-scheduler"

QUEUE = "kai.scheduler/queue"
"""User: the queue of a pod or workload."""
NODE_POOL = "kai.scheduler/node-pool"
SUBGROUP = "kai.scheduler/subgroup-name"
"""pod-grouper or user: the pod's subgroup."""
PROJECT = "project"
PRIORITY_CLASS = "priorityClassName"
PREEMPTIBILITY = "kai.scheduler/preemptibility"
USER = "user"

GROUP = "pod-group-name"
"""pod-grouper or user: the pod's PodGroup."""
SKIP_GROUPER = "kai.scheduler/skip-podgrouper"
MIN_MEMBER = "kai.scheduler/batch-min-member"
PREEMPTION_DELAY = "kai.scheduler/preemption-delay"
STALENESS_GRACE = "kai.scheduler/staleness-grace-period"
TOPOLOGY = "kai.scheduler/topology"
TOPOLOGY_REQUIRED = "kai.scheduler/topology-required-placement"
TOPOLOGY_PREFERRED = "kai.scheduler/topology-preferred-placement"
TOP_OWNER = "kai.scheduler/top-owner-metadata"
"""pod-grouper: the workload on top, as YAML."""

GPU_FRACTION = "gpu-fraction"
GPU_MEMORY = "gpu-memory"
GPU_DEVICES = "gpu-fraction-num-devices"
GPU_CONTAINER = "gpu-fraction-container-name"
MPS = "mps"
GPU_GROUP = "runai-gpu-group"
GPU_GROUP_PREFIX = "runai-gpu-group/"
RECEIVED_TYPE = "received-resource-type"
"""binder: Regular or Fraction."""
SHARED_GPU_CONFIG = "runai/shared-gpu-configmap"
"""admission: the start of the names of the ConfigMaps that tell a container of its share."""
DEVICE = "run.ai/reserve_for_gpu_index"
"""The reservation program, on its own pod: the UUID of the GPU that it holds."""
DEVICE_LOST = "shoal.dev/gpu-lost"
"""The reservation program, on its own pod: the GPU does not answer any more; the value says why."""
ISOLATION = "shoal.dev/gpu-isolation"
"""binder, on pods with a part of a GPU: what keeps them to their memory: none, mps, hami-core or mig."""

STALE_SINCE = "kai.scheduler/stale-podgroup-timestamp"
LAST_START = "kai.scheduler/last-start-timestamp"
LAST_EVICTION = "kai.scheduler/last-eviction-timestamp"
"""These three: scheduler state that must survive the bus."""
NUMA_PREDICTED = "kai.scheduler/numa-placement-predicted"
NUMA_OBSERVED = "kai.scheduler/numa-placement-observed"

EPOCH = "shoal.dev/epoch"
"""scheduler, on its Lease: the highest epoch that a leader has taken."""
GIVEN_UP = "shoal.dev/given-up-decision"
"""scheduler, on a pod: the decision that must no longer take effect."""
TRACE = "shoal.dev/trace"

KUBEFLOW_ROLE = "training.kubeflow.org/job-role"
RAY_NODE_TYPE = "ray.io/node-type"
TASK_PRIORITY = "kai.scheduler/task-priority"
"""User: order of a pod inside its subgroup; the higher first."""
APP = "app"
RESERVATION_APP = "kai-resource-reservation"
RESERVATION_NAMESPACE = "kai-resource-reservation"
SCALING_APP = "scaling-pod"

GPU = "nvidia.com/gpu"
GPU_COUNT_LABEL = "nvidia.com/gpu.count"
MIG_PREFIX = "nvidia.com/mig-"
MIG_STRATEGY = "nvidia.com/mig.strategy"
MIG_ENABLED = "node-role.kubernetes.io/mig-enabled"
CPU_WORKER = "node-role.kubernetes.io/cpu-worker"
GPU_WORKER = "node-role.kubernetes.io/gpu-worker"
GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"

POD_ANNOTATIONS = frozenset(
    {
        GROUP, SKIP_GROUPER, MIN_MEMBER, PREEMPTION_DELAY, STALENESS_GRACE, TOPOLOGY, TOPOLOGY_REQUIRED,
        TOPOLOGY_PREFERRED, GPU_FRACTION, GPU_MEMORY, GPU_DEVICES, GPU_CONTAINER, MPS, RECEIVED_TYPE,
        SHARED_GPU_CONFIG, NUMA_PREDICTED, NUMA_OBSERVED, GIVEN_UP, USER, DEVICE, DEVICE_LOST,
    }
)  # fmt: skip
"""What a PodRecord carries of the pod's annotations."""
