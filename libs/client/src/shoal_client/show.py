"""Decisions as tables for people and as JSON for programs."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from shoal_client.simulate import Simulation

MOST_ROWS = 1000


def as_json(found: Simulation) -> str:
    """All cycles, with units as in the records: millicores, bytes, devices."""
    body: dict[str, Any] = {
        "stable": found.stable,
        "problems": found.problems,
        "cycles": [
            {
                "seconds": seconds,
                "starts": [
                    {"namespace": g.namespace, "group": g.group, "queue": g.queue, "first": g.starts, "pods": list(g.members)}
                    for g in result.gangs
                ],
                "evicted": result.evictions,
                "reserved": result.reserved,
                "waiting": result.waiting,
                "queues": result.queues,
            }
            for seconds, result in zip(found.times, found.cycles, strict=True)
        ],
    }
    return msgspec.json.format(msgspec.json.encode(body, order="deterministic"), indent=2).decode()


def tables(found: Simulation, console: Console) -> None:
    """What starts where, what goes and for whom, what waits and why, the share of each queue."""
    for number, result in enumerate(found.cycles, 1):
        if len(found.cycles) > 1:
            console.rule(f"cycle {number}, after {found.times[number - 1]:g} s")
        rows = [(m.pod, g.group, g.queue, m.node, ", ".join(m.gpu_groups)) for g in result.gangs for m in g.members]
        _table(console, f"starts ({len(rows)})", ("pod", "group", "queue", "node", "shared GPUs"), rows)
        _table(console, f"reserved ({len(result.reserved)})", ("pod", "node"), [(r.pod, r.node) for r in result.reserved])
        rows = [(e.pod, e.queue, e.node, e.action, f"{e.for_namespace}/{e.for_group}", e.moved_to) for e in result.evictions]
        _table(console, f"goes ({len(rows)})", ("pod", "queue", "node", "by", "for", "finds room on"), rows)
    last = found.last
    rows = [(f"{w.namespace}/{w.group}", w.queue, str(len(w.pods)), w.code, w.message) for w in last.waiting]
    _table(console, f"waits ({len(rows)})", ("group", "queue", "pods", "reason", "why"), rows)
    rows = [
        (q.name, *(f"{a[i] / unit:g} of {s[i] / unit:g}, asks {r[i] / unit:g}" for i, unit in ((2, 1.0), (0, 1e3), (1, 1e9))))
        for q in last.queues
        for a, s, r in ((q.allocated, q.share, q.request),)
    ]
    _table(console, "queues: has of its fair share", ("queue", "GPUs", "CPU cores", "memory GB"), rows)
    for problem in found.problems:
        console.print(f"left out: {problem}", style="yellow", markup=False)


def _table(console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", expand=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"… and {len(rows) - MOST_ROWS} more (--json has all)")
