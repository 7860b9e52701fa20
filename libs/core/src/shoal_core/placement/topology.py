"""Topology: which sets of nodes a subgroup may be placed on as a whole, and in which order they are tried
(placement spec 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from shoal_core.gang import DEFAULT, Member, leaves
from shoal_core.kernels.domains import sum_domains
from shoal_core.nodes import Bytes, Floats, Ints
from shoal_core.placement.domains import ROOT, Domains, Standing, domains, ratio
from shoal_core.rows import Job, Pod
from shoal_core.status import ACTIVE
from shoal_core.vocabulary import GPU, PODS, SHARED_RESOURCES

if TYPE_CHECKING:
    from shoal_core.session import Session

STEP = 100_000.0
SHORT = {0: "CPU cores", 1: "memory", 2: "GPUs"}


@dataclass
class Told:
    """Why a subgroup found no domain: what is said of each domain, and in the end."""

    lines: list[str] = field(default_factory=list)
    code: str = ""


class Topology:
    """Node sets for subgroups, as the session stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: dict[str, Domains] = session.cluster.kept_domains  # type: ignore[assignment]
        self.scores: dict[str, Floats] = {}
        """Subgroup -> score of each node, NaN for nodes that are not tried."""
        self.told = Told()
        self._standing: dict[tuple[str, int, int], Standing] = {}
        """By topology, level and shape of pods."""
        self._whole: dict[tuple[str, int], tuple[np.ndarray, int]] = {}
        """For all nodes of the session: those inside the tree, and the domain that holds them all."""

    def reset(self) -> None:
        """A job is tried anew."""
        self.scores = {}
        self.told = Told()

    def _domains(self, name: str) -> Domains | None:
        record = self._session.cluster.topologies.get(name)
        if record is None:
            return None
        kept = self._kept.get(name)
        if kept is None or kept.version != self._session.nodes.version or kept.labels != [x.label for x in record.levels]:
            kept = self._kept[name] = domains(record, self._session)
        return kept

    def score(self, member: Member | None) -> Floats | None:
        """Scores that hold for pods below ``member``: its own, or those of the nearest ancestor."""
        while member is not None:
            if (found := self.scores.get(member.name)) is not None:
                return found
            member = member.parent
        return None

    def sets(self, job: Job, member: Member, tasks: list[Pod], among: Bytes) -> Iterator[Bytes]:
        """The node sets on which the tasks of the subgroup are tried, the best first."""
        wish = member.topology
        if wish is None or not tasks or "topology" not in self._session.plugins:
            yield among
            return
        tree = self._domains(wish.topology)
        if tree is None:
            self.told.lines.append(f"Requested topology {wish.topology} does not exist")
            self.told.code = "TopologyNotFound"
            return
        aliases = {x.alias: x.label for x in self._session.cluster.topologies[wish.topology].levels if x.alias}
        required = aliases.get(wish.required, wish.required)
        preferred = aliases.get(wish.preferred, wish.preferred)
        wrong = [level for level in (required, preferred) if level and level not in tree.labels]
        if wrong or not (required or preferred):
            self.told.lines.append(
                f"topology {wish.topology} has no level {wrong[0]!r}" if wrong else "no topology level is named"
            )
            self.told.code = "TopologyLevelNotFound"
            return
        yield from self._search(job, member, tasks, among, tree, wish.topology, required, preferred)

    def _search(
        self, job: Job, member: Member, tasks: list[Pod], among: Bytes, tree: Domains, name: str, required: str, preferred: str
    ) -> Iterator[Bytes]:
        low = tree.labels.index(preferred) if preferred else -1
        high = tree.labels.index(required) if required else -1
        if low >= 0 and high >= 0 and low < high:
            self.told.lines.append(
                f"topology {name}: the preferred level {preferred!r} is wider than the required {required!r}"
            )
            self.told.code = "TopologyLevelNotFound"
            return
        deepest = low if low >= 0 else len(tree.labels)
        if among is not self._session.everywhere:
            valid = (among == 1) & (tree.leaf >= 0)
            common = self._common(tree, valid, deepest)
        else:
            if (name, deepest) not in self._whole:
                valid = (among == 1) & (tree.leaf >= 0)
                self._whole[name, deepest] = valid, self._common(tree, valid, deepest)
            valid, common = self._whole[name, deepest]
        inside = self._inside(tree, common)
        bottom = low if low >= 0 else high
        free, pods, fits, kept = self._room(tree, name, inside, tasks, max(bottom, int(tree.level[common])))
        whom = f" job <{job.key[0]}/{job.name}>"
        if member.name not in ("", DEFAULT):
            whom += f", subgroup {member.name}"
        sentence = f"topology {name}, requirement {required} couldn't be satisfied for{whom}"
        if not fits[common]:
            if not (tree.leaf >= 0).any():
                why = f"no node has all labels of the topology ({', '.join(tree.labels)})"
            else:
                where = "the cluster" if common == 0 else tree.names[common]
                why = f"not enough resources in {where} to allocate the job"
            self.told.lines.append(f"{sentence}: {why}")
            self.told.code = self.told.code or "PodSchedulingErrors"
            return
        order = kept.order(tree, self._total, bottom) if kept else self._order(tree, inside, free, bottom)
        if low >= 0:
            self.scores[member.name] = self._scores(tree, order[low], low)
        relevant = self._relevant(low, high)
        wanted = self._pinned(tree, member, tasks, high) if high >= 0 else None
        found = False
        for level in relevant:
            if level not in order:
                continue
            here = order[level]
            here = here[fits[here]] if wanted is None else here[fits[here] & wanted[here]]
            for d in here.tolist():
                found = True
                yield self._nodes_of(tree, valid, level, d)
        if not found:
            last = relevant[-1]
            for d in np.flatnonzero((tree.level[: len(fits)] == last) & (~fits)):
                if wanted is None or wanted[d]:
                    self.told.lines.append(self._short(tree, int(d), free, pods, tasks))
            self.told.lines.append(sentence)

    @staticmethod
    def _nodes_of(tree: Domains, valid: np.ndarray, level: int, d: int) -> Bytes:
        """The nodes of a domain that may be used."""
        if level < 0:
            return (valid & (tree.leaf >= 0)).astype(np.uint8)
        starts, members = tree.members(level)
        at = d - int(tree.by_level[level][0])
        columns = members[starts[at] : starts[at + 1]]
        mask = np.zeros(valid.shape[0], np.uint8)
        mask[columns] = valid[columns]
        return mask

    @staticmethod
    def _relevant(low: int, high: int) -> list[int]:
        """Levels that are tried, the narrowest first; -1 is the whole tree."""
        bottom = low if low >= 0 else high
        top = high if high >= 0 else -1
        return list(range(bottom, top - 1, -1))

    @staticmethod
    def _common(tree: Domains, valid: np.ndarray, deepest: int) -> int:
        """The lowest domain that holds all nodes, no deeper than level ``deepest``."""
        common = 0
        columns = np.flatnonzero(valid)
        if not len(columns):
            return 0
        for level in range(min(deepest + 1, len(tree.labels))):
            here = tree.at_level[level, columns]
            if (here != here[0]).any() or not tree.names[int(here[0])].split(".")[-1]:
                break
            common = int(here[0])
        return common

    @staticmethod
    def _inside(tree: Domains, common: int) -> Bytes:
        if common == 0:
            return np.ones(len(tree.names), np.uint8)
        inside = np.zeros(len(tree.names), np.uint8)
        inside[common] = 1
        for here in tree.by_level[int(tree.level[common]) + 1 :]:
            inside[here] = inside[tree.parent[here]]
        return inside

    def _room(
        self, tree: Domains, name: str, inside: Bytes, tasks: list[Pod], deepest: int
    ) -> tuple[Floats, Ints, np.ndarray, Standing | None]:
        """(free, pods, fits, kept) by domain down to level ``deepest``: resources, how many of the pods fit, whether all do."""
        nodes = self._session.nodes
        size = nodes.allocatable.shape[0]
        first = tasks[0].shape
        same = all(t.shape is first for t in tasks)
        largest, total = np.zeros(size), np.zeros(size)
        if same:
            largest[: first.request.shape[0]] = first.request
            total = largest * len(tasks)
        else:
            for task in tasks:
                request = task.shape.request
                np.maximum(largest[: request.shape[0]], request, out=largest[: request.shape[0]])
                total[: request.shape[0]] += request
        alike = same or self._alike(tasks)
        self._total = total
        whole = bool(inside.all())
        kept: Standing | None = None
        keeps = same and whole and first.gpus >= 1 and deepest >= 0 and len(tree.by_level[deepest]) > 0
        if keeps:
            kept = self._standing.get((name, deepest, first.number))
            if kept is not None and kept.renew(nodes, tree, largest):
                return kept.free, kept.pods, kept.pods >= len(tasks), kept
        count = int(tree.by_level[deepest][-1]) + 1 if deepest >= 0 and len(tree.by_level[deepest]) else 1
        inside = inside[:count]
        free, pods = np.zeros((size, count)), np.zeros(count, np.int64)
        shared = self._session.none
        if 0 < largest[GPU] < 1:
            memory = np.maximum(nodes.gpu_memory, 1)[:, None]
            shared = np.where(nodes.used > 0, np.maximum(0, memory - nodes.held + nodes.leaving) / memory, 0.0).sum(axis=1)
        sum_domains(
            nodes.idle, nodes.releasing, inside, tree.at_level[deepest] if deepest >= 0 else tree.inside, tree.parent,
            largest, shared, int(alike), len(tasks), free, pods,
        )  # fmt: skip
        fits = (pods >= len(tasks)) & (inside == 1) if alike else ratio(free, total) <= 1
        if alike and not whole:
            fits |= (inside == 0) & (ratio(free, total) <= 1)
        if keeps:
            kept = self._standing[name, deepest, first.number] = Standing(nodes, deepest, free, pods)
        return free, pods, fits, kept

    @staticmethod
    def _alike(tasks: list[Pod]) -> bool:
        """All ask for GPUs or none does, and likewise for every other resource but CPU and memory."""
        if len({t.shape.gpus > 0 for t in tasks}) > 1:
            return False
        kinds = {tuple(r for r in t.shape.rows if r >= SHARED_RESOURCES) for t in tasks}
        return len(kinds) == 1

    def _order(self, tree: Domains, inside: Bytes, free: Floats, deepest: int) -> dict[int, Ints]:
        """By level down to ``deepest``: its domains in their parents' order first, then the fullest, then by name."""
        place = np.zeros(len(tree.names), np.int64)
        found: dict[int, Ints] = {-1: ROOT if inside[0] else ROOT[:0]}
        fullest = -ratio(free, self._total)
        for level in range(deepest + 1):
            here = tree.by_level[level]
            here = here[inside[here] == 1]
            here = here[np.lexsort((tree.rank[here], fullest[here], place[tree.parent[here]]))]
            place[here] = np.arange(len(here))
            found[level] = here
        return found

    def _scores(self, tree: Domains, ordered: Ints, level: int) -> Floats:
        """Score of each node by the place of its domain at the preferred level: the emptiest counts most."""
        value = np.full(len(tree.names) + 1, np.nan)
        for i, d in enumerate(ordered.tolist()):
            value[d] = int((i + 1) / len(ordered) * 10) * STEP
        return value[tree.at_level[level]]

    def _pinned(self, tree: Domains, member: Member, tasks: list[Pod], level: int) -> np.ndarray | None:
        """Where pods of the subgroup run already: only their required domains, with all below; None: anywhere."""
        leaves_in = {id(t.leaf) for t in tasks}
        columns = {
            p.node for leaf in leaves(member) if id(leaf) in leaves_in for p in leaf.pods if ACTIVE[p.status] and p.node >= 0
        }
        if not columns:
            return None
        wanted = np.zeros(len(tree.names), bool)
        for column in columns:
            if (d := int(tree.at_level[level, column])) >= 0:
                wanted[d] = True
        for here in tree.by_level[level + 1 :]:
            wanted[here] |= wanted[tree.parent[here]]
        return wanted

    def _short(self, tree: Domains, d: int, free: Floats, pods: Ints, tasks: list[Pod]) -> str:
        name = tree.names[d]
        if self._alike(tasks):
            return f"<{name}>: node-group {name} can allocate only {int(pods[d])} of {len(tasks)} required pods"
        parts = []
        for r in np.flatnonzero((self._total > 0) & (self._total > free[:, d])):
            if r == PODS:
                continue
            what = SHORT.get(int(r), self._session.nodes.resources.values[int(r)])
            unit = {0: 1000.0, 1: 1e9}.get(int(r), 1.0)
            parts.append(
                f"{name} didn't have enough resources: {what}, requested: {self._total[r] / unit:g},"
                f" available: {free[r, d] / unit:g}"
            )
        return f"<{name}>: {', '.join(parts)}"
