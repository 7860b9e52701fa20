"""Place the next pods of a job: node sets by topology, pods in order, the best node each, all or none
(placement spec 4.4, 4.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal_core import reasons
from shoal_core.gang import Member, PodSet, SubGroupSet, leaves
from shoal_core.kernels.place import NEITHER, PACK, SPREAD, place_run
from shoal_core.kernels.shared import place_shared, place_shared_run
from shoal_core.nodes import Bytes, Floats, Ints
from shoal_core.placement.dynamic import Dynamic
from shoal_core.placement.offers import Offers
from shoal_core.placement.preferences import Preferences
from shoal_core.placement.storage import Storage
from shoal_core.placement.together import Companions, companions, domains
from shoal_core.placement.topology import Topology
from shoal_core.queues import Queue
from shoal_core.rows import MIG, Job, Pod, Shape, Vector, total_request
from shoal_core.session import Session
from shoal_core.status import PENDING, RELEASING
from shoal_core.vocabulary import CPU, GPU, PODS

NOMINATED = 1e7
FULLEST, EMPTIEST, AS_THEY_COME = range(3)
Teller = Callable[[Queue, int, Vector], tuple[str, str, dict[str, object]]]


@dataclass
class Failure:
    """Why a job could not be placed."""

    code: str
    message: str
    details: dict[str, object]


class Walk:
    """Places jobs in a session. ``failure`` says why the last real attempt did not succeed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        plugins, settings = session.plugins, session.settings
        self.topology = Topology(session)
        self.dynamic = Dynamic(session)
        self.offers = Offers(session)
        self.storage = Storage(session)
        self.preferences = Preferences(session)
        self._confined: frozenset[str] = frozenset()
        """Uids of pods that are kept to the nodes ``_within``."""
        self._within: Bytes = session.everywhere
        self.failure: Failure | None = None
        self._predicates = "predicates" in plugins
        self._gate = "proportion" in plugins
        self._placement = "nodeplacement" in plugins
        self._spread_gpu, self._spread_cpu = settings.spread_gpu, settings.spread_cpu
        self._available = int("nodeavailability" in plugins)
        self._sharing = int("gpusharingorder" in plugins)
        self._sharing_for_all = settings.kai_0_17
        """Also pods that ask for no GPU at all are drawn to shared ones, away from nodes without GPUs."""
        self._by_kind = "resourcetype" in plugins
        self._device_order = FULLEST if "gpupack" in plugins else EMPTIEST if "gpuspread" in plugins else AS_THEY_COME
        self._claims = "dynamicresources" in plugins
        self._columns: np.ndarray = np.zeros(64, np.int64)
        self._later: np.ndarray = np.zeros(64, np.int64)
        self._slots: np.ndarray = np.zeros(16, np.int64)
        self._no_preference = np.zeros_like(session.everywhere)
        self._too_big: dict[int, bool] = {}
        self._allowed: dict[int, Bytes] = {}
        self._unfit: dict[str, int] = {}
        """Nodes with room that the last pod could not use, by reason."""
        self._reasons: dict[tuple[int, int, int], dict[str, int]] = {}
        """Why pods of a shape find no node at all, as the nodes stood."""
        self._gpus_texts: dict[tuple[int, int, int], str] = {}
        """The same of whole GPUs, in words."""

    def alone(self, pod: Pod) -> bool:
        """Whether no other pod, as the session stands, has a say in where this one goes but by what it uses."""
        session = self.session
        return not (session.numa or session.spreading or session.census.concerned(pod.record))

    # the job

    def place(self, job: Job, tasks: list[Pod], among: Bytes, *, later: bool) -> bool:
        """Place ``tasks`` of the job on nodes ``among``, or leave everything as it was and return False.

        ``later``: a simulation, in which every place waits for what is being released.
        """
        session = self.session
        if not tasks:
            return False
        asked = total_request(tasks, session.most_memory)
        if barred := self.barred(job, asked):
            if not later:
                told, found = barred
                self.failure = Failure(*told(*found, asked))
            return False
        if self.topology.scores or self.topology.told.lines:
            self.topology.reset()
        start = len(session.log)
        self.failure = None
        done = self._whole(job, tasks, among, later)
        if not done:
            session.rollback(start)
            if self._predicates and (found := companions(session, tasks)) is not None:
                done = self._together(job, tasks, among, later, found)
        if not done and not later and self.topology.told.lines:
            self.failure = self._told()
        return done

    def _together(self, job: Job, tasks: list[Pod], among: Bytes, later: bool, found: Companions) -> bool:
        """The first pod of those that must be together took a domain that is too small: try the others, one by one."""
        session, failure = self.session, self.failure
        self._confined = found.uids
        for domain in domains(session, found, among):
            start, self._within = len(session.log), domain
            if self.topology.scores or self.topology.told.lines:
                self.topology.reset()
            if self._whole(job, tasks, among, later):
                break
            session.rollback(start)
        else:
            self.failure = failure
            self._confined = frozenset()
            return False
        self._confined, self.failure = frozenset(), None
        return True

    def _whole(self, job: Job, tasks: list[Pod], among: Bytes, later: bool) -> bool:
        """Place all tasks of the job; where it fails, what was placed stays for the caller to undo."""
        if len(job.leaf_list) == 1 and job.root.topology is None and job.leaf_list[0].topology is None:
            return self._pods(job, job.leaf_list[0], tasks, among, later)
        by_leaf: dict[int, list[Pod]] = {}
        for task in tasks:
            by_leaf.setdefault(id(task.leaf), []).append(task)
        return self._member(job, job.root, by_leaf, among, later)

    def barred(self, job: Job, asked: Vector) -> tuple[Teller, tuple[Queue, int]] | None:
        """What of the job's queues keeps ``asked`` from starting: how it is told, and (queue, resource)."""
        queue = job.queue
        if not self._gate or queue is None:
            return None
        if found := queue.over_limit(asked):
            return reasons.over_limit, found
        if not job.preemptible and (found := queue.over_quota(asked)):
            return reasons.over_quota, found
        return None

    def _told(self) -> Failure:
        told = self.topology.told
        lines = sorted(set(told.lines))
        code = told.code or "Unschedulable"
        if code in ("Unschedulable", "PodSchedulingErrors") and self.failure is not None:
            lines.append(self.failure.message)
        return Failure("Unschedulable" if code == "PodSchedulingErrors" else code, ". \n".join(lines), {"topology": lines})

    def _member(self, job: Job, member: Member, by_leaf: dict[int, list[Pod]], among: Bytes, later: bool) -> bool:
        mine = [t for leaf in leaves(member) for t in by_leaf.get(id(leaf), ())]
        if not mine:
            return True
        session = self.session
        for nodes in self.topology.sets(job, member, mine, among):
            start = len(session.log)
            if isinstance(member, PodSet):
                done = self._pods(job, member, mine, nodes, later)
            else:
                done = all(self._member(job, child, by_leaf, nodes, later) for child in self._children(member))
            if done:
                return True
            session.rollback(start)
        return False

    @staticmethod
    def _children(member: SubGroupSet) -> list[Member]:
        """Members in their order, inner ones before leaves where nothing else orders them."""
        return sorted(member.children, key=lambda c: (c.order[:3], isinstance(c, PodSet), c.name))

    # its pods

    def _pods(self, job: Job, leaf: PodSet, tasks: list[Pod], among: Bytes, later: bool) -> bool:
        done = 0
        while done < len(tasks):
            first = tasks[done]
            self._unfit = {}
            shape = first.shape
            run = done + 1
            alone = not shape.dynamic or (self._claims and not shape.entangled and self.offers.counted_everywhere(shape))
            alone = alone and not shape.shared and not shape.claim_gpus and first.status == PENDING
            session = self.session
            apart = not (self._confined or session.numa or session.spreading) and session.census.idle
            if alone and (apart or (self.alone(first) and first.record.uid not in self._confined)):
                if not first.record.nominated_node:
                    while (
                        run < len(tasks)
                        and tasks[run].shape is shape
                        and tasks[run].status == PENDING
                        and not tasks[run].record.nominated_node
                        and (apart or (self.alone(tasks[run]) and tasks[run].record.uid not in self._confined))
                    ):
                        run += 1
                placed = self._run(leaf, tasks[done:run], shape, among, later)
            else:
                placed = int(self._one(job, leaf, first, among, later))
            if placed < run - done:
                if not later:
                    self._explain(job, tasks, done + placed, among)
                return False
            done = run
        return True

    def _fits_nowhere(self, shape: Shape) -> bool:
        """No node is large enough, whatever is evicted."""
        found = self._too_big.get(shape.number)
        if found is None:
            largest, request = self.session.nodes.largest(), shape.request
            if shape.extended and self._claims:
                request = self.offers.counted(shape, request)
            known = min(largest.shape[0], request.shape[0])
            found = bool(shape.missing or (request[:known] > largest[:known]).any() or request[known:].any())
            self._too_big[shape.number] = found
        return found

    def refused(self, pod: Pod) -> str:
        """Why no eviction could ever help the pod; empty if there is no such reason."""
        if self._predicates:
            if pod.record.volumes and (why := self.storage.refused(pod.record)):
                return why
            if self._fits_nowhere(pod.shape):
                return "no node is large enough for it"
        return ""

    def _refused(self, job: Job, pod: Pod) -> str:
        if self._predicates and pod.record.volumes and (why := self.storage.refused(pod.record)):
            return why
        if self._claims and pod.record.claims:
            return self.session.cluster.claims.refused(pod.record, job.record.queue if job.record else "")
        return ""

    def mask(self, pod: Pod) -> Bytes:
        """Nodes that the pod may use by labels, taints and kind of device."""
        shape = pod.shape
        found = self._allowed.get(shape.number)
        if found is None:
            session = self.session
            if self._predicates:
                found = session.nodes.allowed(shape, pod.record, session.settings.restrict_nodes)
                if shape.kind == MIG and session.cluster.legacy_mig:
                    found = found.copy()
                    found[[session.cluster.pods[uid].node for uid in session.cluster.legacy_mig]] = 0
            else:
                found = np.zeros_like(session.everywhere) if shape.missing else session.everywhere
            if shape.extended and self._claims:
                found = found & self.offers.mask(shape)
            self._allowed[shape.number] = found
        return found

    def _extra(self, leaf: PodSet, pod: Pod, among: Bytes) -> tuple[Floats, Bytes]:
        """(scores that the kernels don't know, nodes that may be tried at all)."""
        session = self.session
        scores = self.topology.score(leaf) if self.topology.scores else None
        nominated = pod.record.nominated_node if "nominatednode" in session.plugins else ""
        wishes = self._predicates and self.preferences.of_nodes(pod)
        if scores is None and not nominated and not session.numa and not wishes:
            return session.none, among
        extra = np.zeros_like(session.none)
        if wishes:
            extra += self.preferences.by_node(pod, among & self.mask(pod))
        if scores is not None:
            missing = np.isnan(scores)
            among = (among & ~missing).astype(np.uint8)
            extra += np.where(missing, 0.0, scores)
        if nominated in session.nodes.columns:
            extra[session.nodes.columns[nominated]] += NOMINATED
        if session.numa:
            for name, column in session.nodes.columns.items():
                if among[column]:
                    extra[column] += session.cluster.numa.score(name, pod.record)
        return extra, among

    def _joins(self, shape: Shape) -> int:
        """1 where the shape, which asks for no whole or shared GPUs, is drawn to nodes with shared ones."""
        return int(bool(self._sharing) and shape.gpus == 0 and (self._sharing_for_all or not shape.cpu_only))

    def _strategy(self, cpu_only: bool) -> int:
        if not self._placement:
            return NEITHER
        return SPREAD if (self._spread_cpu if cpu_only else self._spread_gpu) else PACK

    def _request(self, shape: Shape) -> Floats:
        request = shape.request
        size = self.session.nodes.idle.shape[0]
        if request.shape[0] < size:
            request = np.concatenate([request, np.zeros(size - request.shape[0])])
            shape.request = request
        return request

    def _run(self, leaf: PodSet, tasks: list[Pod], shape: Shape, among: Bytes, later: bool) -> int:
        """Place equal pods that only ask for room; returns how many found a node."""
        session, nodes, count = self.session, self.session.nodes, len(tasks)
        if count > self._columns.shape[0]:
            self._columns, self._later = np.zeros(count * 2, np.int64), np.zeros(count * 2, np.int64)
        extra, among = self._extra(leaf, tasks[0], among)
        columns, waits = self._columns, self._later
        cpu_only = shape.cpu_only
        done = int(
            place_run(
                nodes.idle, nodes.releasing, nodes.allocatable, among, self.mask(tasks[0]),
                nodes.cpu_only if cpu_only and self._by_kind else self._no_preference, nodes.room, extra, nodes.devices,
                nodes.ranks(), self._request(shape), shape.rows, CPU if cpu_only else GPU, self._strategy(cpu_only),
                self._available, self._joins(shape), int(later), 1, count, columns, waits,
            )
        )  # fmt: skip
        if done:
            session.place_equal(tasks[:done], columns[:done].tolist(), waits[:done].tolist())
        return done

    def _one(self, job: Job, leaf: PodSet, pod: Pod, among: Bytes, later: bool) -> bool:
        """Place one pod with everything that may matter for it; where only pods that were evicted are in the way, it waits
        in its place for them."""
        if self._somewhere(job, leaf, pod, among, later):
            return True
        if later or not self._predicates or not self.session.cluster.evicted:
            return False
        return (bool(pod.record.volumes) or self.dynamic.narrows(pod)) and self._somewhere(job, leaf, pod, among, True)

    def _somewhere(self, job: Job, leaf: PodSet, pod: Pod, among: Bytes, later: bool) -> bool:
        session, nodes, shape, cluster = self.session, self.session.nodes, pod.shape, self.session.cluster
        if shape.dynamic and self._refused(job, pod):
            return False
        extra, among = self._extra(leaf, pod, among)
        allowed = self.mask(pod)
        if pod.record.uid in self._confined:
            allowed = allowed & self._within
        if self._predicates and self.dynamic.narrows(pod):
            allowed = allowed & self.dynamic.mask(pod, later)[0]
        volumes = self._predicates and bool(pod.record.volumes)
        if volumes:
            allowed = allowed & self.storage.mask(pod.record, later)[0]
        if shape.memory and self._gate:
            allowed = allowed & self._within_queue(job, pod)
        if self.session.spreading:
            allowed = allowed & self.dynamic.spread.guard(pod.record)
        if self._predicates and self.preferences.any(pod):
            wishes = self.preferences.score(pod, among & allowed)
            extra = extra if wishes is None else extra + wishes
        claims = self._claims and shape.claiming
        owned = False
        while True:
            column, waits, slots = self._choose(pod, among, allowed, extra, later)
            if column < 0:
                return False
            name = nodes.name(column)
            record = nodes.records[column]
            unfit = ""
            if claims and record is not None:
                unfit, leaving = cluster.claims.unfit(pod.record, shape.extended, record)
                waits = waits or leaving
            if not unfit and session.numa and cluster.numa.refuses(name, pod.record):
                unfit = "node(s) cannot align the pod's resources under their Topology Manager policy"
            if not unfit:
                break
            self._unfit[unfit] = self._unfit.get(unfit, 0) + 1
            if not owned:
                allowed, owned = allowed.copy(), True
                if claims and shape.extended:
                    self._without_devices(pod, among, allowed, column)
            allowed[column] = 0
        zones = cluster.numa.place(name, pod.record) if session.numa else ()
        groups = nodes.groups(column, pod, slots, not session.settings.kai_0_17) if slots else ()
        if pod.status == RELEASING and self._stays(pod, column, groups, zones) and cluster.claims.stays(pod.uid):
            return session.restore(pod)
        chosen = self.storage.chosen(pod, column) if volumes else None
        session.place(pod, column, waits, groups, zones, chosen)
        return True

    def _without_devices(self, pod: Pod, among: Bytes, allowed: Bytes, tried: int) -> None:
        """Take nodes that have too few free devices out of ``allowed``, all but the one that was ``tried``."""
        nodes, claims = self.session.nodes, self.session.cluster.claims
        for column in np.flatnonzero(among & allowed).tolist():
            record = nodes.records[column]
            if column == tried or record is None:
                continue
            if why := claims.lacks(pod.record, pod.shape.extended, record):
                allowed[column] = 0
                self._unfit[why] = self._unfit.get(why, 0) + 1

    def _stays(self, pod: Pod, column: int, groups: tuple[str, ...], zones: tuple) -> bool:
        """Whether the pod is on the node already, or was before it was moved: then it is not evicted after all."""
        if pod.node == column:
            return set(groups) == set(pod.groups) and zones == pod.zones
        return any(at == column and set(groups) == set(had) for at, had, _ in pod.away) and not zones

    def _within_queue(self, job: Job, pod: Pod) -> Bytes:
        """Nodes on whose GPUs the pod's memory stays within limits and quota (placement spec 2.4, step 1)."""
        session, cluster = self.session, self.session.cluster
        good = np.ones_like(session.everywhere)
        queue = job.queue
        if queue is None:
            return good
        verdicts: dict[int, bool] = {}
        for column in session.nodes.columns.values():
            size = int(session.nodes.gpu_memory[column])
            if size not in verdicts:
                asked = cluster.accepted(pod, column)
                verdicts[size] = not queue.over_limit(asked) and (job.preemptible or not queue.over_quota(asked))
            good[column] = verdicts[size]
        return good

    def _choose(self, pod: Pod, among: Bytes, allowed: Bytes, extra: Floats, later: bool) -> tuple[int, bool, list[int]]:
        """(node, whether it has to wait there, slots of the devices); -1 if there is no node."""
        nodes, shape = self.session.nodes, pod.shape
        request = asked = self._request(shape)
        if shape.extended and self._claims:
            request, allowed = self.offers.request(shape, asked, allowed)
        if shape.shared:
            if shape.devices + 2 > self._slots.shape[0]:
                self._slots = np.zeros(shape.devices + 2, np.int64)
            out = self._slots
            column = int(
                place_shared(
                    nodes.idle, nodes.releasing, nodes.allocatable, among, allowed, nodes.room, extra, nodes.devices,
                    nodes.ranks(), nodes.gpu_memory, nodes.used, nodes.leaving, nodes.held, nodes.known, request,
                    shape.fraction, int(shape.memory), shape.devices, self._strategy(False), self._available,
                    self._sharing, self._device_order, PODS if self._predicates else -1, int(later), out,
                )
            )  # fmt: skip
            waits = bool(out[0]) or (request is not asked and column >= 0 and self.offers.waits(shape, asked, column))
            return column, waits, out[2 : 2 + shape.devices].tolist() if column >= 0 else []
        cpu_only = shape.cpu_only
        if shape.claim_gpus:
            allowed, request = self._discounted(pod, allowed, request, among)
        done = int(
            place_run(
                nodes.idle, nodes.releasing, nodes.allocatable, among, allowed,
                nodes.cpu_only if cpu_only and self._by_kind else self._no_preference, nodes.room, extra, nodes.devices,
                nodes.ranks(), request, shape.rows, CPU if cpu_only else GPU, self._strategy(cpu_only), self._available,
                self._joins(shape), int(later), 0, 1, self._columns, self._later,
            )
        )  # fmt: skip
        if not done:
            return -1, False, []
        column = int(self._columns[0])
        return column, bool(self._later[0]) or (request is not asked and self.offers.waits(shape, asked, column)), []

    def shared_run(self, kinds: list[Pod], of: Ints) -> list[tuple[int, int, int]]:
        """Place and charge pods that ask for a part of one GPU and for nothing that depends on other pods.

        ``kinds`` has one pod of each kind, ``of`` (pods,) the kind of each. Gives (node, slot, 1 if nobody shared it) of
        those that found a place for now; it ends at the first that did not.
        """
        session, nodes, count = self.session, self.session.nodes, of.shape[0]
        opened = nodes.room_for_slots()
        columns, slots, fresh = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.uint8)
        done = place_shared_run(
            nodes.idle, nodes.releasing, nodes.allocatable, session.everywhere, np.stack([self.mask(p) for p in kinds]),
            nodes.room, session.none, nodes.devices, nodes.ranks(), nodes.gpu_memory, nodes.used, nodes.leaving, nodes.held,
            nodes.marked, nodes.known, nodes.whole_used, opened, np.stack([self._request(p.shape) for p in kinds]),
            np.array([p.shape.fraction for p in kinds]), self._strategy(False), self._available, int(self._sharing),
            self._device_order, PODS if self._predicates else -1, of, columns, slots, fresh,
        )  # fmt: skip
        nodes.moved.extend(columns[:done].tolist())
        return list(zip(columns[:done].tolist(), slots[:done].tolist(), fresh[:done].tolist(), strict=True))

    def _discounted(self, pod: Pod, allowed: Bytes, request: Floats, among: Bytes) -> tuple[Bytes, Floats]:
        """Claims of devices that others on the node use already ask for no more room there (placement spec 7.5)."""
        session = self.session
        for name, column in session.nodes.columns.items():
            if among[column] and allowed[column] and session.cluster.claims.discount(pod.record, name):
                only = np.zeros_like(allowed)
                only[column] = 1
                less = request.copy()
                less[GPU] = max(0.0, less[GPU] - session.cluster.claims.discount(pod.record, name))
                return allowed & only, less
        return allowed, request

    # why not

    def _explain(self, job: Job, tasks: list[Pod], found: int, among: Bytes) -> None:
        pod = tasks[found]
        if why := self._refused(job, pod):
            self.failure = Failure("Unschedulable", f"pod {pod.record.name}: {why}", {})
            return
        narrowed, rule = None, ""
        if self._predicates and self.dynamic.narrows(pod):
            narrowed, rule = self.dynamic.mask(pod, False)
        if self._predicates and pod.record.volumes:
            allowed, told = self.storage.mask(pod.record, False)
            narrowed, rule = (allowed, told) if narrowed is None else (narrowed & allowed, rule or told)
        if self._claims and pod.shape.extended:
            offering = self.offers.mask(pod.shape)
            if narrowed is None or not (narrowed & offering == narrowed).all():
                narrowed, rule = offering if narrowed is None else narrowed & offering, self.offers.told(pod.shape)
        counted = self._counted(pod, among, narrowed, rule) | self._unfit
        gpus = self._gpus_text(pod, among) if reasons.SHORT_OF_GPUS in counted else ""
        text = reasons.no_node_text(counted, int(among.sum()), gpus)
        self.failure = Failure("Unschedulable", reasons.gang_text(job, pod, found, len(tasks), text), {"nodes": counted})

    def _gpus_text(self, pod: Pod, among: Bytes) -> str:
        session, nodes = self.session, self.session.nodes
        if among is not session.everywhere:
            return reasons.gpus_text(session, pod, among)
        at = (pod.shape.number, nodes.eras, len(nodes.moved))
        found = self._gpus_texts.get(at)
        if found is None:
            found = self._gpus_texts[at] = reasons.gpus_text(session, pod, among)
        return found

    def _counted(self, pod: Pod, among: Bytes, narrowed: Bytes | None, rule: str) -> dict[str, int]:
        session, nodes = self.session, self.session.nodes
        if narrowed is not None or among is not session.everywhere:
            return reasons.no_node(session, pod, among, narrowed, rule)
        at = (pod.shape.number, nodes.eras, len(nodes.moved))
        found = self._reasons.get(at)
        if found is None:
            found = self._reasons[at] = reasons.no_node(session, pod, among, None, "")
        return found
