"""All instruments of queue-controller; the ``kai_`` names are the reference's, for its users' dashboards."""

from shoal_service.metrics import Counter, Gauge

NAMES = ["queue_name", "queue_metadata_name", "queue_display_name"]
INFO = Gauge("kai_queue_info", "A queue", NAMES)
DESERVED_GPUS = Gauge("kai_queue_deserved_gpus", "GPU quota", NAMES)
QUOTA_CPU = Gauge("kai_queue_quota_cpu_cores", "CPU quota; -1 is without bound", NAMES)
QUOTA_MEMORY = Gauge("kai_queue_quota_memory_bytes", "Memory quota; -1 is without bound", NAMES)
ALLOCATED_GPUS = Gauge("kai_queue_allocated_gpus", "GPUs in use", NAMES)
ALLOCATED_CPU = Gauge("kai_queue_allocated_cpu_cores", "CPU in use", NAMES)
ALLOCATED_MEMORY = Gauge("kai_queue_allocated_memory_bytes", "Memory in use", NAMES)
WRITES = Counter("shoal_queue_status_writes", "Status writes", ["kind"])
