"""Fields of a pod that say where or with whom it may run, and that nothing here honours."""

from __future__ import annotations

from shoal_model import objects

DISKS = ("gce_persistent_disk", "aws_elastic_block_store", "rbd", "iscsi")
"""Volumes that Kubernetes gives to one writer on a node (VolumeRestrictions)."""


def unheeded(spec: objects.PodSpec) -> list[str]:
    """A sentence for each such field, with what to do instead."""
    found: list[str] = []
    if spec.scheduling_group is not None or spec.workload_ref is not None:
        field = "schedulingGroup" if spec.scheduling_group is not None else "workloadRef"
        found.append(
            f"spec.{field} is not honoured: to start pods together, name a PodGroup of scheduling.run.ai in the annotation"
            " pod-group-name"
        )
    found += [
        f"spec.tolerations: operator {t.operator} of key {t.key!r} is not honoured: it tolerates nothing; use Equal or Exists"
        for t in spec.tolerations or ()
        if t.operator in ("Gt", "Lt")
    ]
    found += [
        f"spec.volumes {v.name!r}: whether another pod on the node uses the same disk is not looked at: use a"
        " PersistentVolumeClaim"
        for v in spec.volumes or ()
        if any(getattr(v, disk) is not None for disk in DISKS)
    ]
    return found
