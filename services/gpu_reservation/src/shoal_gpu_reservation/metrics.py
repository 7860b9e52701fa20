"""All instruments of gpu-reservation."""

from shoal_service.metrics import Counter, Gauge, Histogram

GROUPS = Gauge("shoal_gpu_groups", "Shared GPUs on the nodes that this replica owns")
USERS = Gauge("shoal_gpu_users", "Pods that use a part of one of them")
PARTS = Gauge("shoal_gpu_parts", "Parts of the nodes that this replica owns")
DRIFT = Gauge("shoal_gpu_drift", "Shared GPUs that the ledger sees otherwise than a recount")
REPAIRS = Counter("shoal_gpu_repairs", "Leftovers that were repaired", ["found"])
REQUESTS = Counter("shoal_gpu_requests", "Requests for a shared GPU by their answer", ["state"])
ALLOCATION = Histogram(
    "shoal_gpu_allocation_seconds", "From a reservation's making to its device", buckets=(0.1, 0.3, 1, 3, 10, 40)
)
