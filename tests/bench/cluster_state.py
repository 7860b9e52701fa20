"""cluster-state alone: objects decoded and published per second, and how fast and how big a mirror of them is.

The real service and a real NATS; the API's lists are recorded ones (one pod as kube-apiserver gives it, managed fields and
all, repeated under other names), served from memory by a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine

from shoal_local.nodes import node
from shoal_local.process import Child
from shoal_testkit import workload
from shoal_testkit.nats import NatsServer
from shoal_testkit.scripted_api import Answer, scripted_api

PODS_PER_NODE = 10


def pod(number: int) -> dict[str, Any]:
    """A bound, running pod of a Job, as the API server shows it."""
    at, job = "2026-11-24T08:00:00Z", f"job-{number // 4}"
    found = workload.pod(f"{job}-{number % 4:05d}", f"team-{number % 20}", queue=f"queue-{number % 20}")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": f"uid-{job}", "controller": True}
    main = {'k:{"name":"main"}': {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}
    fields = {
        "f:metadata": {"f:annotations": {".": {}, "f:pod-group-name": {}}, "f:labels": {".": {}, "f:kai.scheduler/queue": {}}},
        "f:spec": {"f:containers": main, "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}},
    }
    managed = {"operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1", "fieldsV1": fields}
    found["metadata"] |= {
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "resourceVersion": str(1000 + number),
        "creationTimestamp": at,
        "ownerReferences": [owner],
        "annotations": {"pod-group-name": f"pg-{job}", "received-resource-type": "Regular"},
        "managedFields": [managed | {"manager": m} for m in ("kube-controller-manager", "kwok")],
    }
    forever = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    found["spec"] |= {
        "nodeName": f"node-{number // PODS_PER_NODE:05d}",
        "restartPolicy": "Never",
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [{"key": f"node.kubernetes.io/{k}"} | forever for k in ("not-ready", "unreachable")],
    }
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    found["status"] = {
        "phase": "Running",
        "conditions": [{"type": t, "status": "True", "lastProbeTime": None, "lastTransitionTime": at} for t in kinds],
        "podIP": "10.0.0.1",
        "hostIP": "10.0.0.2",
        "startTime": at,
        "qosClass": "Guaranteed",
    }
    return found


async def serve(count: int, folder: Path) -> None:
    """The API server's part, until it is killed."""
    notes = {"k8s.io/initial-events-end": "true"}
    end = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9", "annotations": notes}}}

    def stream(objects: list[dict[str, Any]]) -> list[Answer]:
        lines = [json.dumps({"type": "ADDED", "object": o}).encode() for o in objects]
        chunks = [b"\n".join(lines[i : i + 200]) for i in range(0, len(lines), 200)]
        return [Answer(lines=[*chunks, end])]

    nodes = [node(i, 8) for i in range(count // PODS_PER_NODE)]
    for found in nodes:
        found["metadata"] |= {"uid": found["metadata"]["name"], "resourceVersion": "1"}
    async with scripted_api(folder) as script:
        script.answers = {
            "GET stream": stream([]), "GET watch": [Answer(hang=True)],
            "GET stream /api/v1/nodes": stream(nodes), "GET stream /api/v1/pods": stream([pod(i) for i in range(count)]),
        }  # fmt: skip
        (folder / "serving").touch()
        await asyncio.Event().wait()


def wait_for(look: Any, what: str, limit: float = 240.0) -> None:
    """Until it is so. Raises SystemExit."""
    deadline = time.monotonic() + limit
    while not look():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not in {limit:.0f} s")
        time.sleep(0.02)


def metric(port: int, name: str) -> float:
    """A value of the service's /metrics; 0 where it is not there yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    except OSError:
        return 0.0
    return float(found.group(1)) if found else 0.0


def measure(count: int) -> None:
    """One size."""
    wanted = count + count // PODS_PER_NODE
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name, NatsServer() as nats:
        folder = Path(name)
        api = Child("api", [sys.executable, __file__, "--serve", str(count), "--folder", name], folder / "api.log")
        port_file = folder / "port"
        environment = os.environ | {
            "KUBECONFIG": str(folder / "kubeconfig"), "SHOAL_NATS_URL": nats.url, "SHOAL_ELECT": "false",
            "SHOAL_HTTP_PORT_FILE": str(port_file),
        }  # fmt: skip
        service = Child("cluster-state", [sys.executable, "-m", "shoal_cluster_state"], folder / "log", environment=environment)
        try:
            api.start()
            wait_for((folder / "serving").exists, "the recorded list")
            service.start()
            wait_for(lambda: port_file.exists() and port_file.read_text(), "the service")
            port, began, cpu = int(port_file.read_text()), time.perf_counter(), machine.cpu_seconds(service.pid)
            wait_for(lambda: metric(port, "shoal_state_records_published_total") >= wanted, "all published")
            seconds, cpu = time.perf_counter() - began, machine.cpu_seconds(service.pid) - cpu
            held = machine.resident_mib(service.pid)
            time.sleep(1.5)  # the mark
            command = [sys.executable, str(Path(__file__).with_name("reader.py")), nats.url]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            sync, records, memory = (float(x) for x in done.stdout.split())
        finally:
            service.stop(5)
            api.kill()
    rate, per_cpu = wanted / seconds, wanted / cpu
    print(f"{count:7d} pods, {count // PODS_PER_NODE:6d} nodes")
    print(f"   published in {seconds:6.2f} s: {rate:6.0f}/s, {per_cpu:6.0f} per CPU second; service {held:5.0f} MiB")
    print(f"   mirror synced in {sync:5.2f} s: {records:6.0f} records, {records / sync:6.0f}/s, {memory:5.0f} MiB", flush=True)


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000, 140_000])
    options.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.folder))
        return
    size = len(json.dumps(pod(0)))
    print(f"{machine.describe()}; a pod is {size} bytes of JSON", flush=True)
    for count in given.sizes:
        measure(count)


if __name__ == "__main__":
    main()
