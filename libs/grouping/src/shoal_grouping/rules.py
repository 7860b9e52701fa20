"""The rules that all kinds share: queue, priority, preemptibility, delays, topology (spec: kubernetes.md 3.5)."""

from __future__ import annotations

from shoal_grouping.wanted import Case, Owner, Wanted
from shoal_model import labels
from shoal_model.quantity import BadQuantity, duration

DEFAULT_QUEUE = "default-queue"
PREEMPTIBILITIES = frozenset({"preemptible", "non-preemptible", ""})


def queue(case: Case, owner: Owner) -> str:
    """Label of the owner, then of the pod, then the project, else the default queue."""
    if found := owner.labels.get(case.queue_label) or case.pod.labels.get(case.queue_label):
        return found
    project = owner.labels.get(labels.PROJECT) or case.pod.labels.get(labels.PROJECT)
    if not project:
        return DEFAULT_QUEUE
    pool = case.pod.labels.get(case.pool_label)
    return f"{project}-{pool}" if pool else project


def priority_class(case: Case, owners: list[Owner], fallback: str) -> tuple[str, str]:
    """(the first that exists of: each owner's label, the pod's label, the pod's class; the first named before it that does
    not exist). The fallback is not looked up."""
    named = [case.pod.labels.get(labels.PRIORITY_CLASS, ""), case.pod.priority_class]
    missing = ""
    for candidate in [*(o.labels.get(labels.PRIORITY_CLASS, "") for o in owners), *named]:
        if candidate and candidate in case.priority_classes:
            return candidate, missing
        missing = missing or candidate
    return fallback, missing


def preemptibility(case: Case, owners: list[Owner]) -> str:
    """The first valid label of the owners, bottom up, then of the pod; else empty."""
    for tags in [*(o.labels for o in owners), case.pod.labels]:
        found = tags.get(labels.PREEMPTIBILITY)
        if found is not None and found in PREEMPTIBILITIES:
            return found
    return ""


def delay(case: Case, owners: list[Owner], key: str, *, negative: bool) -> str:
    """The first annotation, bottom up, that is a duration; others are ignored."""
    for notes in [*(o.annotations for o in owners), case.pod.annotations]:
        if text := notes.get(key):
            try:
                if duration(text) >= 0 or negative:
                    return text
            except BadQuantity:
                continue
    return ""


def topology(owner: Owner) -> dict[str, str]:
    """The owner's topology annotations as a constraint."""
    pairs = (
        ("topology", labels.TOPOLOGY),
        ("requiredTopologyLevel", labels.TOPOLOGY_REQUIRED),
        ("preferredTopologyLevel", labels.TOPOLOGY_PREFERRED),
    )
    return {name: owner.annotations[key] for name, key in pairs if owner.annotations.get(key)}


def top_owner(owner: Owner) -> str:
    """The annotation that tells other tools which workload is on top: YAML, one key a line."""
    uid = f'"{owner.uid}"' if owner.uid.isdigit() else owner.uid
    pairs = (
        ("name", owner.name),
        ("uid", uid),
        ("group", owner.group or '""'),
        ("version", owner.version),
        ("kind", owner.kind),
    )
    return "".join(f"{key}: {value}\n" for key, value in pairs)


def default(
    case: Case, *, fallback: str = "train", owners: list[Owner] | None = None, name: str = "", min_member: int = 1,
    owner: Owner | None = None,
) -> Wanted:  # fmt: skip
    """One group for everything below the top owner. ``owner``: who owns the group, if not the top owner."""
    top = case.top
    chain = [top] if owners is None else owners
    holder = owner or top
    tags = dict(top.labels)
    if labels.USER not in tags and labels.USER in case.pod.labels:
        tags[labels.USER] = case.pod.labels[labels.USER]
    notes = {labels.TOP_OWNER: top_owner(top)}
    if user := case.pod.annotations.get(labels.USER):
        notes[labels.USER] = user
    notes |= top.annotations
    notes.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    chosen, missing = priority_class(case, chain, fallback)
    return Wanted(
        name=name or f"pg-{holder.name}-{holder.uid}",
        namespace=case.pod.namespace,
        owner=holder,
        labels=tags,
        annotations=notes,
        queue=queue(case, top),
        priority_class=chosen,
        preemptibility=preemptibility(case, chain),
        preemption_delay=delay(case, chain, labels.PREEMPTION_DELAY, negative=False),
        staleness_grace=delay(case, chain, labels.STALENESS_GRACE, negative=True),
        min_member=min_member,
        topology=topology(top),
        missing_class=missing,
    )
