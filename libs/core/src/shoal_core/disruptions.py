"""Allowed disruptions: what PodDisruptionBudgets, and owners that serve, can bear to lose at a time."""

from __future__ import annotations

from collections.abc import Mapping

from shoal_contracts.state import PdbRecord, PodRecord
from shoal_core.placement.feasible import selects
from shoal_core.results import Hindrance
from shoal_core.rows import Key, Pod
from shoal_core.status import RELEASING, USED

SERVING = frozenset({"ReplicaSet", "StatefulSet", "ReplicationController", "Rollout", "CloneSet", "Revision"})
"""Kinds of owners whose pods are replicas of a service."""
IGNORED = frozenset({"Pending", "Succeeded", "Failed"})
"""Phases of pods that the Eviction API deletes without a look at budgets."""
LATEST = 120.0
"""Seconds after which a pod that is gone no longer waits for its budget's controller, which itself waits no longer."""
ANY = ("", "")
"""In the index of budgets: those that no single label tells."""
MOST_SETS = 100_000
"""Label sets whose budgets are remembered."""


class Budget:
    """A budget and the evictions that were decided and are not in its status yet."""

    __slots__ = ("key", "open", "record")

    def __init__(self, record: PdbRecord) -> None:
        self.key, self.record = (record.namespace, record.name), record
        self.open: dict[str, Pod] = {}

    @property
    def text(self) -> str:
        """Its name for people."""
        return f"PodDisruptionBudget {self.key[0]}/{self.key[1]}"

    @property
    def left(self) -> int:
        """So many disruptions it still allows."""
        allowed = self.record.disruptions_allowed if self.record.observed else 0
        return max(0, allowed - len(self.open))

    def takes(self, pod: Pod) -> bool:
        """Whether the eviction of the pod takes one of the allowed disruptions, by the rules of the Eviction API."""
        record = self.record
        if pod.record.ready:
            return True
        return record.unhealthy_policy != "AlwaysAllow" and not record.current_healthy >= record.desired_healthy > 0


class Owner:
    """Pods of one owner that serves: a part of them may be going at a time."""

    __slots__ = ("pods", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.pods: dict[str, Pod] = {}

    def left(self, part: float, going: set[str]) -> int:
        """So many more may go now."""
        have = gone = 0
        for uid, pod in self.pods.items():
            if USED[pod.status] and pod.node_name:
                have += 1
                gone += uid in going or (pod.status == RELEASING and not pod.virtual)
        return max(0, max(1, int(part * have)) - gone)


class Disruptions:
    """All budgets and serving owners. ``pods`` are the pods that exist, by uid."""

    def __init__(self, pods: Mapping[str, Pod]) -> None:
        self._pods = pods
        self.budgets: dict[Key, Budget] = {}
        self.owners: dict[str, Owner] = {}
        self._in: dict[str, list[Budget]] = {}
        self._index: dict[str, dict[tuple[str, str], list[Budget]]] = {}
        """By namespace: budgets by a label of which their pods have one, or ``ANY``."""
        self._of: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Budget, ...]] = {}
        self._of_pod: dict[str, tuple[dict[str, str], tuple[Budget, ...]]] = {}
        """Uid -> its labels and their budgets."""
        self.version = 0
        """Counts up with every change of a budget."""
        self.explained: dict[tuple[str, Key], tuple[int, float, Hindrance | None]] = {}
        """By action and group that waits: as of which version and when it was worked out what keeps its victims, and what."""
        self._open: dict[str, Budget] = {}
        """Uid of a pod that was decided to go -> the budget that it takes of."""
        self._gone: dict[str, float] = {}
        """Those of them that are gone: since when."""
        self.backoff: dict[str, str] = {}
        """Uid of a pod that is not to be evicted for now -> why its last eviction was refused."""

    @property
    def waits(self) -> bool:
        """Whether decided evictions are not in the status of their budgets yet."""
        return bool(self._open)

    # budgets

    def put(self, record: PdbRecord) -> None:
        """A budget that is new or changed."""
        key = (record.namespace, record.name)
        self.version += 1
        budget = self.budgets.get(key)
        if budget is None:
            budget = self.budgets[key] = Budget(record)
            here = self._in.setdefault(record.namespace, [])
            here.append(budget)
            here.sort(key=lambda b: b.key)
            self._reselect()
        elif budget.record.selector != record.selector:
            self._reselect()
        budget.record = record
        for uid in list(budget.open):
            self._settle(uid, True)

    def remove(self, namespace: str, name: str) -> None:
        """A budget is gone."""
        budget = self.budgets.pop((namespace, name), None)
        if budget is None:
            return
        self._in[namespace].remove(budget)
        if not self._in[namespace]:
            del self._in[namespace]
        self.version += 1
        self._reselect()
        for uid in budget.open:
            self._open.pop(uid, None)
            self._gone.pop(uid, None)

    def _reselect(self) -> None:
        self._of.clear()
        self._of_pod.clear()
        self._index.clear()

    def of(self, pod: Pod) -> tuple[Budget, ...]:
        """The budgets that select the pod, whatever its state."""
        record = pod.record
        here = self._in.get(record.namespace)
        if here is None:
            return ()
        known = self._of_pod.get(pod.uid)
        if known is not None and known[0] is record.labels:
            return known[1]
        found = self._of_labels(record, here)
        self._of_pod[pod.uid] = (record.labels, found)
        return found

    def _of_labels(self, record: PodRecord, here: list[Budget]) -> tuple[Budget, ...]:
        key = (record.namespace, tuple(sorted(record.labels.items())))
        found = self._of.get(key)
        if found is None:
            if len(self._of) >= MOST_SETS:
                self._of.clear()
            index = self._index.get(record.namespace)
            if index is None:
                index = self._index[record.namespace] = _indexed(here)
            likely = [b for pair in (ANY, *record.labels.items()) for b in index.get(pair, ())]
            chosen = [b for b in likely if selects(b.record.selector, record.labels)]
            found = self._of[key] = tuple(sorted(chosen, key=lambda b: b.key))
        return found

    def guards(self, pod: Pod) -> tuple[Budget, ...]:
        """The budgets that the Eviction API looks at: with two it refuses, with one that allows nothing as well."""
        record = pod.record
        if record.phase in IGNORED or record.deleted or pod.uid in self._open:
            return ()
        found = self.of(pod)
        return () if len(found) == 1 and not found[0].takes(pod) else found

    # decided evictions

    def goes(self, pod: Pod) -> None:
        """It was decided that the pod goes: its budget has one less from now on."""
        guards = self.guards(pod) if self.budgets else ()
        if len(guards) == 1:
            guards[0].open[pod.uid] = pod
            self._open[pod.uid] = guards[0]

    def taken(self, uid: str) -> str:
        """The budget that a decided eviction takes one of, as ``<namespace>/<name>``; empty if none."""
        budget = self._open.get(uid)
        return "/".join(budget.key) if budget is not None else ""

    def stays(self, uid: str) -> None:
        """The decision is off, or the API shows it: in the second case the budget's status will show it soon."""
        budget = self._open.get(uid)
        if budget is not None and uid in self._pods and not budget.open[uid].record.deleted:
            self._close(uid)

    def _settle(self, uid: str, after: bool) -> None:
        """Something is known anew of the pod or its budget: count the eviction no longer if the status has it. ``after``:
        whether the budget is taken for the later of the two where their versions don't say so."""
        budget = self._open.get(uid)
        if budget is None:
            return
        record, pod = budget.record, budget.open[uid].record
        over = pod.deleted or uid not in self._pods
        if pod.name in record.disrupted or (over and _newer(record.resource_version, pod.resource_version, after)):
            self._close(uid)

    def _close(self, uid: str) -> None:
        del self._open.pop(uid).open[uid]
        self._gone.pop(uid, None)

    def pass_time(self, now: float) -> None:
        """Forget evictions whose budgets said nothing of them for too long, and explanations that are old."""
        if self.explained:
            self.explained = {k: v for k, v in self.explained.items() if v[0] == self.version and now < v[1] + LATEST}
        for uid in list(self._open):
            if uid not in self._pods and now - self._gone.setdefault(uid, now) > LATEST:
                self._close(uid)

    # pods, and those of serving owners

    def join(self, pod: Pod, going: bool) -> None:
        """A pod that is new, of which it may be decided already that it goes."""
        if (budget := self._open.get(pod.uid)) is not None:
            budget.open[pod.uid] = pod
        elif going:
            self.goes(pod)
        for ref in pod.record.owners:
            if ref.controller and ref.type in SERVING:
                owner = self.owners.get(ref.uid)
                if owner is None:
                    owner = self.owners[ref.uid] = Owner(f"{ref.type} {pod.record.namespace}/{ref.name}")
                owner.pods[pod.uid] = pod

    def changed(self, pod: Pod, record: PodRecord) -> None:
        """Another record of the pod."""
        moved = pod.record.owners != record.owners
        if moved:
            self.leave(pod)
        pod.record = record
        if moved:
            self.join(pod, False)
        if pod.uid in self._open:
            self._settle(pod.uid, False)

    def leave(self, pod: Pod) -> None:
        """A pod is gone."""
        self._of_pod.pop(pod.uid, None)
        for ref in pod.record.owners:
            if (owner := self.owners.get(ref.uid)) is not None:
                owner.pods.pop(pod.uid, None)
                if not owner.pods:
                    del self.owners[ref.uid]

    def owner(self, pod: Pod) -> Owner | None:
        """The serving owner of the pod."""
        for ref in pod.record.owners:
            if (owner := self.owners.get(ref.uid)) is not None:
                return owner
        return None


def _indexed(budgets: list[Budget]) -> dict[tuple[str, str], list[Budget]]:
    found: dict[tuple[str, str], list[Budget]] = {}
    for budget in budgets:
        selector = budget.record.selector
        if selector is None:
            continue
        need = next((r for r in selector.requirements if r.operator == "In"), None)
        for pair in [(need.key, value) for value in dict.fromkeys(need.values)] if need is not None else [ANY]:
            found.setdefault(pair, []).append(budget)
    return found


def _newer(version: str, than: str, unknown: bool) -> bool:
    """Whether a resourceVersion is later; ``unknown`` where that can't be seen from the two."""
    return int(version) > int(than) if version.isdecimal() and than.isdecimal() else unknown
