"""All instruments of the binder."""

from shoal_service.metrics import Bounded, Counter, Gauge, Histogram

RESULTS = Counter("shoal_binder_results", "What became of decisions", ["result", "shard"])
BUDGETS_IGNORED = Counter("shoal_binder_budgets_ignored", "Pods deleted in spite of a PodDisruptionBudget")
IN_FLIGHT = Gauge("shoal_binder_in_flight", "Decisions being carried out")
SECONDS = Histogram(
    "shoal_binder_seconds", "From delivery to outcome", ["shard"], buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
)
PREPARED_SECONDS = Histogram(
    "shoal_binder_prepare_seconds", "Preparing a pod for its binding", buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 40)
)
shard = Bounded()
"""The value of the label ``shard``, which comes with each decision."""
