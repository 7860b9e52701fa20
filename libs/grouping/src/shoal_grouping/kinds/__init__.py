"""One file per workload kind, and the table of them."""

from collections.abc import Callable

from shoal_grouping.kinds import deployment, job, other
from shoal_grouping.wanted import Case, Wanted

Grouper = Callable[[Case], Wanted]

GROUPERS: dict[tuple[str, str], Grouper] = {
    ("", "Pod"): other.group,
    ("apps", "Deployment"): deployment.group,
    ("apps", "ReplicaSet"): other.group,
    ("apps", "StatefulSet"): other.group,
    ("batch", "Job"): job.group,
    ("batch", "CronJob"): job.of_cron_job,
}
"""(API group, kind) of the top owner -> its rules. Anything else is grouped like ``other``."""
TRANSPARENT = frozenset(
    {
        ("argoproj.io", "Workflow"), ("trainer.kubeflow.org", "TrainJob"), ("nvidia.com", "DynamoGraphDeployment"),
        ("run.ai", "InferenceWorkload"), ("run.ai", "TrainingWorkload"), ("run.ai", "DistributedWorkload"),
        ("run.ai", "InteractiveWorkload"), ("run.ai", "DistributedInferenceWorkload"),
    }
)  # fmt: skip
"""(API group, kind) of owners on top that only pass their labels and annotations on: what is below them is grouped."""
