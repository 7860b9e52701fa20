"""What the policy can be told: actions, plugins with their arguments, search budgets, flags. All of it is input of a cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal_model.labels import SCHEDULER_NAME
from shoal_model.shards import KAI_0_17

ALLOCATE, CONSOLIDATION, RECLAIM, PREEMPT, STALE = "allocate", "consolidation", "reclaim", "preempt", "stalegangeviction"
ACTIONS = (ALLOCATE, CONSOLIDATION, RECLAIM, PREEMPT, STALE)
PLUGINS = (
    "predicates", "proportion", "priority", "elastic", "kubeflow", "ray", "nodeavailability", "gpusharingorder",
    "gpupack", "resourcetype", "subgrouporder", "taskorder", "nominatednode", "dynamicresources", "nodeplacement",
    "minruntime", "topology", "snapshot", "sg-nodelocalgreedy", "sg-multinodegang",
)  # fmt: skip
"""The plugins that are on where nothing else is said, in their order. Others: podaffinity, gpuspread, numa, reflectjoborder."""
NODE_LOCAL_GREEDY, MULTI_NODE_GANG = "NodeLocalGreedy", "MultiNodeGang"


@dataclass(frozen=True)
class Budgets:
    """Bounds of the search for victims, in units of work (one unit: one pod placed or evicted in a simulation); 0: none."""

    action: Mapping[str, int] = field(default_factory=dict)
    """By action; ``default`` for those not named."""
    job: int = 0
    job_minimum: int = 0
    """A job gets at least this much, even when the action's budget is used up."""
    generator: Mapping[str, int] = field(default_factory=dict)
    """By generator; ``default`` for those not named."""
    patience: int = 0
    """One probe (so many of the job's pods, one generator) gives up after so much without a result."""
    fruitless: int = 0
    """An action gives up for this cycle after so much without a result; the next one goes on with the jobs that had no turn."""


@dataclass(frozen=True)
class Settings:
    """Everything that a shard of the scheduler is told. Durations in seconds."""

    actions: tuple[str, ...] = ACTIONS
    plugins: tuple[str, ...] = PLUGINS
    spread_gpu: bool = False
    """nodeplacement: emptiest node first for pods with GPUs."""
    spread_cpu: bool = False
    saturation: float = 1.0
    """proportion: relcaimerSaturationMultiplier, at least 1."""
    k_value: float = 1.0
    """proportion: strength of historical usage."""
    preempt_min_runtime: float = 0.0
    reclaim_min_runtime: float = 0.0
    reclaim_by_lca: bool = True
    """minruntime: reclaimResolveMethod is lca (else queue)."""
    numa_ignored: frozenset[str] = frozenset()
    numa_reconstruct: bool = True
    queue_depth: Mapping[str, int] = field(default_factory=dict)
    """By action: so many jobs of a queue are looked at."""
    budgets: Budgets = Budgets()
    scheduler_name: str = SCHEDULER_NAME
    queue_label: str = "kai.scheduler/queue"
    pool_label: str = ""
    pool: str = ""
    """The node pool: objects whose ``pool_label`` has this value; empty: those without the label (if there is a label)."""
    most_moved: int = 16
    """Consolidation looks at so many victims; -1: any number; 0: off."""
    signatures: bool = True
    """After a failure, jobs that are no easier are not tried again in the same action."""
    full_hierarchy: bool = True
    """False: queues without their departments."""
    consolidating_reclaim: bool = True
    """A victim that finds another place does not count as reclaimed."""
    staleness_grace: float = 60.0
    stuck_after: float = 120.0
    """A pod that is being deleted for longer than this gives nothing back."""
    evictions_per_owner: float = 0.25
    """This part of the pods of a serving owner (a ReplicaSet, say), and at least one, may be going at a time; 0: any."""
    evictions_per_cycle: int = 100
    """A cycle that has evicted so many looks for no more victims: the next one goes on; 0: any number."""
    evictions_per_minute: int = 0
    """So many evictions in a minute: those of this scheduler, so of its node pool; 0: any number."""
    restrict_nodes: bool = False
    csi_storage: bool = False
    """Volumes that are promised count against the capacity that drivers report (schedule-csi-storage)."""
    extended_by_devices: bool = True
    """Pods get devices for extended resources that a node does not count; False: they run on nodes that count them alone."""
    compatibility: str = ""
    """``KAI_0_17``: decide as KAI-Scheduler v0.17 even where that helps nobody; empty: as Kubernetes and v0.18."""
    usage: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Historical usage by queue: parts of the cluster's CPU, memory and GPUs."""

    @property
    def kai_0_17(self) -> bool:
        """Whether oddities of KAI-Scheduler v0.17 are kept."""
        return self.compatibility == KAI_0_17

    def in_pool(self, tags: Mapping[str, str]) -> bool:
        """Whether an object with these labels belongs to the node pool."""
        label, pool = self.pool_label, self.pool
        return not label or (tags.get(label) == pool if pool else label not in tags)
