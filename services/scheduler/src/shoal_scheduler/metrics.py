"""All instruments of the scheduler."""

from shoal_service.metrics import Counter, Gauge, Histogram

CYCLES = Counter("shoal_cycles", "Cycles run")
CYCLE_SECONDS = Histogram("shoal_cycle_seconds", "Time of a cycle", buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
DECIDED = Counter("shoal_decisions", "Decisions committed")
REFUSED = Counter("shoal_commits_refused", "Batches that were refused")
COMMIT_SECONDS = Histogram("shoal_commit_seconds", "Time of a commit", buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
OPEN = Gauge("shoal_decisions_open", "Decisions that the API does not show yet")
WAITING = Gauge("shoal_groups_waiting", "Pod groups that wait")
GIVEN_UP = Counter("shoal_decisions_given_up", "Decisions that were given up")
BOUND_SECONDS = Histogram(
    "shoal_decision_to_seen_seconds", "From commit to the API showing it", buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10)
)
EPOCH = Gauge("shoal_epoch", "Epoch of this leader")
LOG_DROPPED = Counter("shoal_log_steps_dropped", "Steps that the log lacks because the bus did not take them in time")
PUT_ASIDE = Counter("shoal_objects_put_aside", "Times that an odd group or record raised in the core and was put aside")
