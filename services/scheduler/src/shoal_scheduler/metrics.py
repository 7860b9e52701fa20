"""All instruments of the scheduler, and those of one shard."""

from shoal_service.metrics import Counter, Gauge, Histogram

SHARD = ["shard"]
CYCLES = Counter("shoal_cycles", "Cycles run", SHARD)
CYCLE_SECONDS = Histogram("shoal_cycle_seconds", "Time of a cycle", SHARD, buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
DECIDED = Counter("shoal_decisions", "Decisions committed", SHARD)
REFUSED = Counter("shoal_commits_refused", "Decisions that were refused at their commit", SHARD)
COMMIT_SECONDS = Histogram("shoal_commit_seconds", "Time of a commit", SHARD, buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
OPEN = Gauge("shoal_decisions_open", "Decisions that the API does not show yet", SHARD)
WAITING = Gauge("shoal_groups_waiting", "Pod groups that wait", SHARD)
GIVEN_UP = Counter("shoal_decisions_given_up", "Decisions that were given up", SHARD)
BOUND_SECONDS = Histogram(
    "shoal_decision_to_seen_seconds", "From commit to the API showing it", SHARD, buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10)
)
EPOCH = Gauge("shoal_epoch", "Epoch of this leader", SHARD)
LOG_DROPPED = Counter("shoal_log_steps_dropped", "Steps that the log lacks because the bus did not take them in time", SHARD)
PUT_ASIDE = Counter("shoal_objects_put_aside", "Times that an odd group or record raised in the core and was put aside", SHARD)


class Instruments:
    """Those of a shard. A process has one, so that the label has few values."""

    def __init__(self, shard: str) -> None:
        self.cycles, self.cycle_seconds = CYCLES.labels(shard), CYCLE_SECONDS.labels(shard)
        self.decided, self.refused, self.given_up = DECIDED.labels(shard), REFUSED.labels(shard), GIVEN_UP.labels(shard)
        self.commit_seconds, self.bound_seconds = COMMIT_SECONDS.labels(shard), BOUND_SECONDS.labels(shard)
        self.open, self.waiting, self.epoch = OPEN.labels(shard), WAITING.labels(shard), EPOCH.labels(shard)
        self.put_aside = PUT_ASIDE.labels(shard)
