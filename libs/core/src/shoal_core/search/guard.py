"""Which victims may go together: budgets and caps as a resource that the victims of a decision share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shoal_core.disruptions import Budget, Owner
from shoal_core.gang import leaves
from shoal_core.results import Hindrance
from shoal_core.rows import Job, Pod
from shoal_core.search.scenario import Batch
from shoal_core.session import Session
from shoal_core.status import ACTIVE

NOBODY: frozenset[str] = frozenset()
Limit = Budget | Owner


AGAIN = 10.0
"""Seconds after which it is worked out again which budgets keep a job's victims, if none has changed."""


def guard_of(session: Session) -> Guard | None:
    """The guard of the session; None where nothing is to be guarded."""
    if session.guard is None:
        found = session.cluster.disruptions
        capped = session.settings.evictions_per_owner > 0 and found.owners
        if found.budgets or capped or found.backoff:
            session.guard = Guard(session)
    return session.guard


class Guard:
    """What may go as the session stands. ``forget`` when something was committed."""

    def __init__(self, session: Session) -> None:
        self._session, self._disruptions = session, session.cluster.disruptions
        self._part = session.settings.evictions_per_owner
        self._left: dict[int, int] = {}
        self._limits: dict[str, tuple[Limit, ...]] = {}
        self._kept: dict[int, frozenset[str]] = {}
        self.hindered = False
        """Whether something was kept from going since this was cleared."""

    def forget(self) -> None:
        """The session changed."""
        self._left.clear()
        self._limits.clear()
        self._kept.clear()

    def limits(self, pod: Pod) -> tuple[Limit, ...]:
        """What the eviction of the pod takes one of."""
        found = self._limits.get(pod.uid)
        if found is None:
            found = self._limits[pod.uid] = self._find(pod)
        return found

    def _find(self, pod: Pod) -> tuple[Limit, ...]:
        if not pod.node_name or pod.uid in self._session.bound or pod.uid in self._session.cluster.going:
            return ()
        found: list[Limit] = []
        if self._disruptions.budgets and not ignores(pod):
            found += self._disruptions.guards(pod)
        if self._part > 0 and (pod.leaf is None or pod.leaf.minimum <= 1):
            owner = self._disruptions.owner(pod)
            if owner is not None:
                found.append(owner)
        return tuple(found)

    def left(self, limit: Limit) -> int:
        """So many more it allows."""
        found = self._left.get(id(limit))
        if found is None:
            found = limit.left if isinstance(limit, Budget) else limit.left(self._part, self._session.cluster.going)
            self._left[id(limit)] = found
        return found

    def _twice(self, pod: Pod) -> bool:
        """Whether several budgets select the pod: the API evicts it never."""
        return sum(isinstance(limit, Budget) for limit in self.limits(pod)) > 1

    def _never(self, pod: Pod) -> bool:
        """Whether the pod can't go, whatever its budgets allow: several select it, or its eviction was just refused."""
        return self._refused(pod) or self._twice(pod)

    def _refused(self, pod: Pod) -> bool:
        return pod.uid in self._disruptions.backoff and bool(pod.node_name) and pod.uid not in self._session.cluster.going

    def blocked(self, pod: Pod) -> bool:
        """Whether the pod can't go, even alone."""
        if self._refused(pod):
            return True
        limits = self.limits(pod)
        return bool(limits) and (any(self.left(limit) <= 0 for limit in limits) or self._twice(pod))

    def kept(self, job: Job) -> frozenset[str]:
        """Uids of the pods of the job that can't go."""
        found = self._kept.get(id(job))
        if found is None:
            found = NOBODY
            pods = [p.uid for leaf in job.leaf_list for p in leaf.pods if ACTIVE[p.status] and self.blocked(p)]
            if pods:
                self.hindered, found = True, frozenset(pods)
            self._kept[id(job)] = found
        return found

    def may(self, job: Job) -> bool:
        """Whether any pod of the job may go."""
        kept = self.kept(job)
        return not kept or len(kept) < job.active

    def fits(self, pods: Iterable[Pod]) -> bool:
        """Whether all these may go together."""
        return self._take(pods, {})

    def _take(self, pods: Iterable[Pod], taken: dict[int, int]) -> bool:
        """Whether these may go beside what is ``taken`` of each limit; if so it is taken."""
        then = dict(taken)
        for pod in pods:
            for limit in self.limits(pod):
                count = then[id(limit)] = then.get(id(limit), 0) + 1
                if count > self.left(limit):
                    return False
            if self._never(pod):
                return False
        taken.update(then)
        return True

    # scenarios

    def choices(self, recorded: list[Batch], chosen: list[Batch]) -> Iterator[list[Batch]]:
        """Parts of the chosen victims that may go together, beside those recorded: by their order; then, where that leaves some
        out, the largest first, and the last first. Nothing is yielded twice."""
        taken: dict[int, int] = {}
        self._take((p for batch in recorded for p in batch.pods), taken)
        seen: set[tuple[int, ...]] = set()
        everything = list(range(len(chosen)))
        for order in (everything, sorted(everything, key=lambda i: (-_gpus(chosen[i]), i)), everything[::-1]):
            picked = self._picked(chosen, order, dict(taken))
            mark = tuple(picked)
            if picked and mark not in seen:
                seen.add(mark)
                yield [chosen[i] for i in picked]
            if len(picked) == len(chosen):
                return

    def _picked(self, chosen: list[Batch], order: list[int], taken: dict[int, int]) -> list[int]:
        """Numbers of batches, in their own order. What would break a gang that keeps a pod is left out."""
        picked = {i for i in order if self._take(chosen[i].pods, taken)}
        if len(picked) == len(chosen):
            return sorted(picked)
        self.hindered = True
        short = {id(batch.job): batch.job for i, batch in enumerate(chosen) if i not in picked}
        for i in range(len(chosen) - 1, -1, -1):
            job = chosen[i].job
            if i in picked and id(job) in short and not _whole(job, [chosen[j] for j in picked if chosen[j].job is job]):
                picked.discard(i)
        return sorted(picked)

    # words

    def hindrance(self, pods: Iterable[Pod]) -> Hindrance | None:
        """What would have to allow more for all these to go; None if nothing would."""
        asked: dict[int, tuple[Limit, int]] = {}
        twice: list[str] = []
        refused: list[str] = []
        for pod in pods:
            if self._refused(pod):
                why = self._disruptions.backoff[pod.uid]
                refused.append(f"the eviction of pod {pod.record.namespace}/{pod.record.name} were not refused ({why})")
                continue
            limits = self.limits(pod)
            if self._twice(pod):
                names = ", ".join(limit.key[1] for limit in limits if isinstance(limit, Budget))
                twice.append(f"pod {pod.record.namespace}/{pod.record.name} were under one PodDisruptionBudget only ({names})")
                continue
            for limit in limits:
                asked[id(limit)] = (limit, asked.get(id(limit), (limit, 0))[1] + 1)
        texts: list[str] = []
        budgets: dict[str, int] = {}
        for limit, count in sorted(asked.values(), key=lambda found: found[0].text):
            more = count - self.left(limit)
            if more <= 0:
                continue
            if isinstance(limit, Budget):
                texts.append(f"{limit.text} allowed {more} more")
                budgets["/".join(limit.key)] = more
            else:
                texts.append(f"{more} more of {limit.text} might go at a time (evictionsPerOwner)")
        texts += [*sorted(twice)[:3], *sorted(refused)[:3]]
        if not texts:
            return None
        return Hindrance(f"would start if {' and '.join(texts)}", budgets)


def ignores(pod: Pod) -> bool:
    """Whether the pod's queue lets its pods go in spite of budgets."""
    queue = pod.job.queue if pod.job is not None else None
    return queue is not None and queue.record.ignore_budgets


def ignored(session: Session, pod: Pod) -> tuple[tuple[str, str], ...]:
    """(name, uid) of the budgets that the pod may go in spite of, because its queue lets it."""
    disruptions = session.cluster.disruptions
    if not disruptions.budgets or not ignores(pod):
        return ()
    return tuple((budget.key[1], budget.record.uid) for budget in disruptions.of(pod))


def _gpus(batch: Batch) -> float:
    return sum(pod.accepted[2] for pod in batch.pods)


def _whole(job: Job, batches: list[Batch]) -> bool:
    """Whether the job is gone, or each of its subgroups has its minimum or nothing, without these."""
    gone = {pod.uid for batch in batches for pod in batch.pods}
    rest = [
        (sum(ACTIVE[p.status] and p.uid not in gone for p in leaf.pods), leaf.minimum)
        for leaf in leaves(job.root)
    ]  # fmt: skip
    return not any(count for count, _ in rest) or all(count >= minimum for count, minimum in rest)
