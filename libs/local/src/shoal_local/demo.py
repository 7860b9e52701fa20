"""The demonstration: two teams, gangs of mixed size, shown live, and a verdict that only the API gives."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from shoal_local import nodes
from shoal_local.suite import Suite
from shoal_testkit import workload
from shoal_testkit.api import Api, ApiError, gather_limited

EXAMPLES = Path(__file__).resolve().parents[4] / "examples" / "quickstart"
NODES, GPUS = 100, 8
LIMIT = 120.0
SIZES = (1, 1, 2, 4, 4, 8, 16)
GANGS_PER_TEAM = 30
QUEUES, GROUPS = "/apis/scheduling.run.ai/v2/queues", "/apis/scheduling.run.ai/v2alpha2/podgroups"


@dataclass
class Expected:
    """What must be bound in the end: pods by namespace/name, and the gang of each."""

    pods: dict[str, str] = field(default_factory=dict)
    waits: str = ""
    """The pod that is over its queue's limit on purpose."""


def plural(kind: str) -> str:
    """The path segment of a kind of the quickstart."""
    return {"Queue": "/apis/scheduling.run.ai/v2/queues", "Pod": "/api/v1/namespaces/default/pods"}[kind]


async def create_if_absent(api: Api, path: str, body: dict[str, Any]) -> None:
    """POST, content with an object that is there already."""
    try:
        await api.post(path, body)
    except ApiError as error:
        if error.status != 409:
            raise


async def quickstart(api: Api, expected: Expected | None = None) -> None:
    """Apply ``examples/quickstart`` as it stands."""
    for file in sorted(EXAMPLES.glob("*.yaml")):
        for found in yaml.safe_load_all(file.read_text()):
            await create_if_absent(api, plural(found["kind"]), found)
            if expected is not None and found["kind"] == "Pod":
                expected.pods[f"default/{found['metadata']['name']}"] = ""


async def submit(api: Api, expected: Expected) -> None:
    """Two teams with queues of their own, and their gangs; and one pod that is over its queue's limit."""
    await quickstart(api, expected)
    half = NODES * GPUS / 2
    for queue in (
        workload.queue("research", gpu=-1),
        workload.queue("team-a", parent="research", gpu=half),
        workload.queue("team-b", parent="research", gpu=half),
        workload.queue("team-c", parent="research", gpu=0, limit=0),
    ):
        await create_if_absent(api, QUEUES, queue)
    groups: list[Any] = []
    pods: list[Any] = []
    for team in ("team-a", "team-b"):
        await create_if_absent(api, "/api/v1/namespaces", {"metadata": {"name": team}})
        for i in range(GANGS_PER_TEAM):
            size = SIZES[i % len(SIZES)]
            name = f"train-{i:02d}"
            group, members = workload.gang(name, team, queue=team, size=size, gpus=1)
            groups.append(create_if_absent(api, f"/apis/scheduling.run.ai/v2alpha2/namespaces/{team}/podgroups", group))
            for member in members:
                expected.pods[f"{team}/{member['metadata']['name']}"] = f"{team}/{name}"
                pods.append(create_if_absent(api, f"/api/v1/namespaces/{team}/pods", member))
    await gather_limited(groups)
    await gather_limited(pods)
    over = workload.pod("over-its-limit", "default", queue="team-c")
    expected.waits = "default/over-its-limit"
    await create_if_absent(api, "/api/v1/namespaces/default/pods", over)


def missing(expected: Expected, found: list[dict[str, Any]]) -> list[str]:
    """What the API does not show as expected; empty if all pods are bound and all gangs whole."""
    bound = {f"{p['metadata']['namespace']}/{p['metadata']['name']}": p["spec"].get("nodeName") for p in found}
    problems = [f"pod {name} is not bound" for name in expected.pods if not bound.get(name)]
    total, have = Counter(g for g in expected.pods.values() if g), Counter[str]()
    for name, gang in expected.pods.items():
        have[gang] += bool(gang and bound.get(name))
    problems += [f"gang {g} is not whole: {have[g]} of {total[g]}" for g in total if 0 < have[g] < total[g]]
    used: Counter[str] = Counter()
    for pod in found:
        if node := pod["spec"].get("nodeName"):
            requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
            used[node] += int(requests.get("nvidia.com/gpu", 0))
    problems += [f"node {n} has {GPUS} GPUs and {used[n]} are given away" for n in used if used[n] > GPUS]
    return problems


def _reasons(groups: list[dict[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for group in groups:
        allocated = group.get("status", {}).get("resourcesStatus", {}).get("allocated")
        conditions = group.get("status", {}).get("schedulingConditions") or []
        if conditions and not allocated:
            found.append((f"{group['metadata']['namespace']}/{group['metadata']['name'][:32]}", conditions[-1]["message"]))
    return found


class Screen:
    """What is shown while it runs: queues, bindings, what waits."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self.peak = 0.0
        self.rate = 0.0

    def measure(self, bound: int) -> None:
        """Note how many pods are bound now."""
        now = time.monotonic()
        if self._last and now > self._last[0]:
            self.rate = max(0.0, (bound - self._last[1]) / (now - self._last[0]))
            self.peak = max(self.peak, self.rate)
        self._last = (now, bound)

    def draw(self, queues: list[dict[str, Any]], groups: list[dict[str, Any]], bound: int, total: int) -> Group:
        """The tables."""
        table = Table(title=f"{bound} of {total} pods bound, {self.rate:.0f} bindings/s", title_justify="left")
        for column in ("queue", "GPU quota", "GPU limit", "GPUs requested", "GPUs in use"):
            table.add_column(column, justify="left" if column == "queue" else "right")
        for queue in queues:
            spec, status = queue["spec"].get("resources", {}).get("gpu", {}), queue.get("status", {})
            table.add_row(
                queue["metadata"]["name"], str(spec.get("quota", 0)), str(spec.get("limit", 0)),
                str(status.get("requested", {}).get("nvidia.com/gpu", 0)),
                str(status.get("allocated", {}).get("nvidia.com/gpu", 0)),
            )  # fmt: skip
        waiting = Table(title="what waits, and why", title_justify="left")
        waiting.add_column("group")
        waiting.add_column("reason", overflow="fold")
        for name, reason in _reasons(groups)[:8]:
            waiting.add_row(name, reason)
        return Group(table, waiting)


async def watch(api: Api, expected: Expected, console: Console) -> list[str]:
    """Show what happens until all is bound, or the time is up; gives what is missing."""
    screen, deadline = Screen(), time.monotonic() + LIMIT
    problems: list[str] = ["nothing was looked at"]
    said = 0.0
    picture: Group | None = None
    with Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else _Plain() as live:
        settled = 0
        while time.monotonic() < deadline:
            pods, queues, groups = await asyncio.gather(api.items("/api/v1/pods"), api.items(QUEUES), api.items(GROUPS))
            problems = missing(expected, pods)
            bound = sum(bool(p["spec"].get("nodeName")) for p in pods)
            screen.measure(bound)
            picture = screen.draw(queues, groups, bound, len(expected.pods))
            if console.is_terminal:
                live.update(picture)
            elif time.monotonic() - said > 1:
                said = time.monotonic()
                waiting = f"{len(_reasons(groups))} groups wait with a reason"
                console.print(f"{bound} of {len(expected.pods)} pods bound, {screen.rate:.0f} bindings/s, {waiting}")
            # A little longer, so that statuses and the reason of the one that waits are there to see.
            settled = settled + 1 if not problems and _reasons(groups) else 0
            if settled >= 6:
                break
            await asyncio.sleep(0.25)
    if not console.is_terminal:
        console.print(picture)
    console.print(f"peak: {screen.peak:.0f} bindings/s as seen by this poll")
    return problems


class _Plain:
    """Stands in for the live display where there is no terminal."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def run(folder: Path) -> int:
    """Set everything up, run the demonstration, tear it down. Gives the exit status."""
    console = Console(soft_wrap=True)
    suite = Suite(folder)
    began = time.monotonic()
    try:
        suite.start(lambda what: console.print(f"[{time.monotonic() - began:5.1f} s] {what}", markup=False))
        return asyncio.run(_main(suite, console, began))
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except Exception as error:
        console.print(f"demo: {error}", markup=False)
        return 1
    finally:
        suite.stop()


async def _main(suite: Suite, console: Console, began: float) -> int:
    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:5.1f} s] {text}", markup=False)

    async with Api.connect(suite.plane.kubeconfig) as api:
        say(f"{NODES} nodes with {GPUS} GPUs each")
        await nodes.create(api, NODES, GPUS)
        expected = Expected()
        say("the quickstart, and two teams with gangs of 1 to 16 pods")
        await submit(api, expected)
        problems = await watch(api, expected, console)
        by_team: dict[str, set[str]] = defaultdict(set)
        for name, gang in expected.pods.items():
            by_team[name.split("/")[0]].add(gang or name)
        pod = await api.get(f"/api/v1/namespaces/default/pods/{expected.waits.split('/')[1]}")
    if pod["spec"].get("nodeName"):
        problems.append(f"{expected.waits} is bound, though its queue's limit is 0")
    for team, gangs in sorted(by_team.items()):
        pods = sum(1 for n in expected.pods if n.startswith(team + "/"))
        say(f"{team}: {pods} pods in {len(gangs)} groups")
    if problems:
        say(f"{len(problems)} things are missing:")
        for problem in problems[:40]:
            print(f"  {problem}", file=sys.stderr)
        return 1
    say(f"all {len(expected.pods)} pods bound, every gang whole; {expected.waits} waits, as it should")
    return 0
