"""The scheduler: mirrors the state, lets the core decide, commits what it decides, and says why the rest waits."""

from __future__ import annotations

import asyncio
from typing import Any

from shoal_core import warm
from shoal_kube import Kube, KubeConfig, Recorder
from shoal_scheduler.loop import Loop
from shoal_scheduler.marks import Marks
from shoal_scheduler.policy import settings as policy
from shoal_scheduler.reporter import Reporter
from shoal_service import Common, Context, run
from shoal_service.events import Events

NAME = "scheduler"


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of the scheduler."""

    interval: float = 0.02
    """Seconds between two cycles at least; changes that come meanwhile are taken together."""
    expiry: float = 15.0
    """Seconds after which a decision without an outcome is given up."""
    preparation: float = 60.0
    """The same for a decision that needs preparations (a part of a GPU), or is one of a gang that does."""
    provisioning: float = 150.0
    """The same for a decision that waits for volumes, or is one of a gang that does. Longer than the binders' own limit."""
    settle: float = 2.0
    """Seconds that a reason must last before it is written to the API."""
    spread: bool = False
    """Spread pods over nodes instead of packing them. ``policy`` wins where both are given."""
    policy: dict[str, Any] = {}
    """The scheduler configuration in the reference's format: actions, tiers, queueDepthPerAction, scenarioSearchBudgets."""
    flags: dict[str, Any] = {}
    """The reference's flags, named as in its snapshots: maxNumberConsolidationPreemptees, useSchedulingSignatures …"""


async def start(context: Context[Config]) -> None:
    """Warm up, follow, lead when it is our turn, and decide until the end."""
    context.wait_for("kernels")
    context.wait_for("state")
    config = context.config
    await asyncio.get_running_loop().run_in_executor(None, warm)
    context.have("kernels")
    settings = KubeConfig(context.kubeconfig, "shoal-scheduler", config.qps, config.burst)
    async with Kube.connect(settings) as kube:
        recorder = Recorder(kube, config.scheduler_name, context.clock)
        reporter = Reporter(context, kube, recorder, config.settle, policy(config).pool)
        events = Events(context)
        marks = Marks(context, kube, recorder)
        loop = Loop(context, kube, reporter, marks, events)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            tasks.create_task(reporter.run())
            tasks.create_task(marks.run())
            tasks.create_task(events.run())
            tasks.create_task(loop.run(f"shoal-scheduler-{config.shard}"))


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
