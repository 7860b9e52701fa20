"""All instruments of shard-controller."""

from shoal_service.metrics import Gauge

SHARDS = Gauge("shoal_shards", "SchedulingShards by whether their scheduler is ready", ["ready"])
