"""What the chart renders: complete, strict, and what the services and the access table say."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal_contracts.permissions import PEOPLE, USERS
from shoal_core.settings import ACTIONS
from shoal_model import access, shards
from shoal_scheduler.app import Config as SchedulerConfig
from shoal_scheduler.policy import settings
from shoal_service.config import load
from shoal_shard_controller import objects
from shoal_testkit.chart import CHART, NAMESPACE, Rendered, template

Render = Callable[..., Rendered]

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(set(USERS) - PEOPLE)


def config(found: Rendered, service: str, folder: Path) -> Any:
    """The service's settings as it would read them in its pod."""
    path = folder / f"{service}.yaml"
    path.write_text(found.one("ConfigMap", f"shoal-{service}")["data"]["config.yaml"])
    workload = next(w for w in found.workloads if _container(w)["name"] == service)
    environment = {e["name"]: e.get("value", "0") for e in _container(workload)["env"]}
    kind = import_module(f"shoal_{service.replace('-', '_')}.app").Config
    unknown = {n for n in environment if n.removeprefix("SHOAL_").lower() not in (*kind.__struct_fields__, "config", "overlay")}
    assert unknown == set(), "variables that the service does not read"
    return load(kind, str(path), environment)


def _container(workload: dict[str, Any]) -> dict[str, Any]:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def test_lint(helm: Path) -> None:
    done = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_files_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/chart/generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run `make chart`: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", ["plain", "large"])
def test_objects(name: str, request: pytest.FixtureRequest) -> None:
    found: Rendered = request.getfixturevalue(name)
    lines = sorted(f"{o['kind']} {o['metadata'].get('namespace', '-')} {o['metadata']['name']}" for o in found)
    golden = Path(__file__).parent / "golden" / f"{name}.txt"
    assert "\n".join(lines) + "\n" == golden.read_text()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"topologyMigration": {"enabled": True}}, "topologyMigration"),
        ({"global": {"gpuSharring": True}}, "gpuSharring"),
        ({"global": {"gpuSharing": "yes"}}, "/global/gpuSharing"),
        ({"binder": {"replicas": -1}}, "/binder/replicas"),
        ({"nats": {"replicas": 2}}, "/nats/replicas"),
        ({"scheduler": {"placementStrategy": "bin-pack"}}, "/scheduler/placementStrategy"),
        ({"scheduler": {"actions": {"alocate": {"enabled": True}}}}, "alocate"),
        ({"defaultQueue": {"childResources": {"gpu": {"quotta": 1}}}}, "quotta"),
        ({"nats": {"enabled": False}}, "nats.external.url"),
        ({"nats": {"enabled": False, "external": {"url": "nats://n:4222"}}}, "nats.external.existingSecret"),
        ({"scheduler": {"actions": {a: {"enabled": False} for a in ACTIONS}}}, "scheduler.actions"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(helm: Path, values: dict[str, Any], told: str) -> None:
    done = template(helm, values)
    assert done.returncode != 0
    assert told in done.stderr


@pytest.mark.parametrize("name", ["plain", "large"])
def test_pods_have_no_more_rights_than_they_need(name: str, request: pytest.FixtureRequest) -> None:
    found: Rendered = request.getfixturevalue(name)
    assert found.workloads
    for workload in found.workloads:
        pod, container = workload["spec"]["template"]["spec"], _container(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not any(pod.get(k) for k in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(set(v) & {"hostPath"} == set() for v in pod["volumes"])
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["readinessProbe"]
        assert container["livenessProbe"]
        assert not [e for e in container["env"] if "secretKeyRef" in str(e)], "secrets are files"
        if workload["metadata"]["name"] == "shoal-nats":
            assert pod["automountServiceAccountToken"] is False


def test_replicas_keep_apart_and_are_not_drained_together(plain: Rendered, large: Rendered, render: Render) -> None:
    assert plain.kind("PodDisruptionBudget") == []
    assert {w["spec"]["replicas"] for w in plain.workloads} == {1}
    budgets = {b["metadata"]["name"]: b["spec"] for b in large.kind("PodDisruptionBudget")}
    for workload in large.workloads:
        name, spec = workload["metadata"]["name"], workload["spec"]
        assert spec["replicas"] == (3 if name == "shoal-nats" else 2)
        assert budgets[name] == {"maxUnavailable": 1, "selector": spec["selector"]}
        (term,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert term["podAffinityTerm"]["labelSelector"] == spec["selector"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    strict = render({"global": {"requireDefaultPodAntiAffinityTerm": True}})
    assert all(
        "requiredDuringSchedulingIgnoredDuringExecution" in w["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
        for w in strict.workloads
    )


def test_placement_and_images_follow_the_values(render: Render) -> None:
    found = render({
        "global": {
            "registry": "example.local/x", "tag": "t1", "nodeSelector": {"a": "b"}, "priorityClassName": "high",
            "tolerations": [{"key": "k", "operator": "Exists"}], "imagePullSecrets": [{"name": "s"}],
        },
        "binder": {"image": {"name": "binder2", "tag": "t2"}, "replicas": 4},
    })  # fmt: skip
    images = {_container(w)["name"]: _container(w)["image"] for w in found.workloads}
    assert images["binder"] == "example.local/x/binder2:t2"
    assert images["scheduler"] == "example.local/x/scheduler:t1"
    for workload in found.workloads:
        pod = workload["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"a": "b"}
        assert pod["tolerations"] == [{"key": "k", "operator": "Exists"}]
        assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("high", [{"name": "s"}])
    assert found.one("Deployment", "binder")["spec"]["replicas"] == 4


def test_what_the_references_users_scrape_and_select(plain: Rendered) -> None:
    ports = {s["metadata"]["labels"]["app"]: s["spec"]["ports"][0]["name"] for s in plain.kind("Service")}
    assert ports["binder"] == ports["kai-scheduler-default"] == "http-metrics"
    assert ports["queue-controller"] == "metrics"
    for service in plain.kind("Service"):
        if service["spec"].get("clusterIP") == "None" and "nats" not in service["metadata"]["name"]:
            assert service["spec"]["ports"][0]["port"] == 8080


def test_every_service_reads_its_settings(plain: Rendered, large: Rendered, render: Render, tmp_path: Path) -> None:
    for found in (plain, large):
        assert {_container(w)["name"] for w in found.workloads} == {*SERVICES, "nats"}
        for service in SERVICES:
            read = config(found, service, tmp_path)
            assert (read.nats_user, read.nats_url) == (service, f"tls://shoal-nats.{NAMESPACE}.svc:4222")
            assert (read.http_host, read.http_port, read.namespace) == ("0.0.0.0", 8080, NAMESPACE)
            assert read.nats_replicas == (3 if found is large else 1)
    custom = render({"global": {"schedulerName": "other"}, "binder": {"config": {"in_flight": 8}, "cdiEnabled": True}}, "ns2")
    binder = config(custom, "binder", tmp_path)
    assert (binder.in_flight, binder.cdi, binder.scheduler_name, binder.namespace) == (8, True, "other", "ns2")
    assert config(large, "pod-grouper", tmp_path).replicas == 2


def test_the_policy_is_that_of_the_references_table(plain: Rendered, render: Render, tmp_path: Path) -> None:
    found = settings(config(plain, "scheduler", tmp_path))
    assert found.actions == ACTIONS
    assert not found.spread_gpu
    assert {"gpupack", "gpusharingorder", "podaffinity"} <= set(found.plugins)
    assert found.plugins[:2] == ("predicates", "proportion")
    changed = render({
        "scheduler": {
            "placementStrategy": "spread", "actions": {"preempt": {"enabled": False}, "reclaim": {"priority": 900}},
            "plugins": {"minruntime": {"arguments": {"defaultPreemptMinRuntime": "5m"}}, "numa": {"priority": 1999}},
            "scenarioSearchBudgets": {"maxJobSearchDuration": "1m"},
        }
    })  # fmt: skip
    found = settings(config(changed, "scheduler", tmp_path))
    assert found.actions == ("reclaim", "allocate", "stalegangeviction")
    assert (found.spread_gpu, found.spread_cpu) == (True, True)
    assert found.plugins[0] == "numa"
    assert "gpuspread" in found.plugins
    assert "gpupack" not in found.plugins
    assert found.preempt_min_runtime == 300


def test_a_shard_without_options_decides_as_the_default_scheduler(plain: Rendered, tmp_path: Path) -> None:
    """Two ways to the same policy: the chart's values, and a SchedulingShard's options."""
    default = settings(config(plain, "scheduler", tmp_path))
    shard = {"metadata": {"name": "blue", "uid": "u"}}
    template = plain.one("Deployment", "kai-scheduler-default")
    options = shards.read({"partitionLabelValue": "blue"})
    text = objects.overlay("blue", options, default.pool_label)
    made = objects.deployment(shard, template, options.partition, text, objects.Wishes())
    (container,) = made["spec"]["template"]["spec"]["containers"]
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    overlay = next(e["value"] for e in container["env"] if e["name"] == "SHOAL_OVERLAY")
    assert overlay == f"{mounts['shard']}/config.yaml"
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(plain.one("ConfigMap", "shoal-scheduler")["data"]["config.yaml"])
    own.write_text(text)
    read = load(SchedulerConfig, str(base), {"SHOAL_OVERLAY": str(own)})
    assert (read.shard, read.scheduler_name) == ("blue", "kai-scheduler")
    assert settings(read) == replace(default, pool="blue")
    policy = plain.one("NetworkPolicy", "shoal-shards")["spec"]
    assert policy["podSelector"]["matchExpressions"] == [{"key": objects.SHARD, "operator": "Exists"}]
    assert policy["podSelector"]["matchLabels"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert policy["egress"] == plain.one("NetworkPolicy", "shoal-scheduler")["spec"]["egress"]
    assert policy["podSelector"] in [
        p["podSelector"] for p in plain.one("NetworkPolicy", "shoal-nats")["spec"]["ingress"][0]["from"]
    ]


def test_rights_are_those_of_the_access_table(plain: Rendered) -> None:
    """The local suite runs with that table, and the audit test measures it there."""

    def told(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], Any]:
        kinds = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        found = [o for o in objects if o["kind"] in kinds]
        names = [(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in found]
        return dict(zip(names, [o.get("rules", o.get("subjects")) for o in found], strict=True))

    wanted = told(access.objects())
    assert told(list(plain)) == wanted
    accounts = {(a["metadata"]["namespace"], a["metadata"]["name"]) for a in plain.kind("ServiceAccount")}
    assert {(NAMESPACE, f"shoal-{s}") for s in SERVICES} <= accounts
    for workload in plain.workloads:
        assert (NAMESPACE, workload["spec"]["template"]["spec"]["serviceAccountName"]) in accounts
    for role in plain.kind("Role", "ClusterRole"):
        assert "*" not in str(role["rules"])


def test_all_traffic_is_denied_but_what_is_needed(plain: Rendered) -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in plain.kind("NetworkPolicy")}
    deny = policies["shoal-default-deny"]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    for workload in plain.workloads:
        pod = workload["spec"]["template"]["metadata"]["labels"]
        assert deny["podSelector"]["matchLabels"].items() <= pod.items()
        own = [p for n, p in policies.items() if p["podSelector"]["matchLabels"].get("app") == pod["app"]]
        assert len(own) == 1, pod["app"]
    (clients,) = policies["shoal-nats"]["ingress"]
    assert clients["ports"] == [{"port": 4222, "protocol": "TCP"}]
    assert set(clients["from"][0]["podSelector"]["matchExpressions"][0]["values"]) == {
        w["metadata"]["name"] for w in plain.workloads if w["metadata"]["name"] != "shoal-nats"
    }
    assert policies["shoal-nats"]["egress"] == []
    assert "ingress" not in policies["shoal-reservation"]


def test_what_outlives_an_uninstall(plain: Rendered) -> None:
    kept = {
        (o["kind"], o["metadata"]["name"])
        for o in plain
        if (o["metadata"].get("annotations") or {}).get("helm.sh/resource-policy") == "keep"
    }
    crds = {("CustomResourceDefinition", o["metadata"]["name"]) for o in plain.kind("CustomResourceDefinition")}
    assert len(crds) >= 3
    assert crds <= kept
    assert {("Queue", "default-queue"), ("Namespace", "kai-resource-reservation"), ("PriorityClass", "train")} <= kept
    assert not {k for k, _ in kept} & {"Deployment", "StatefulSet", "Secret", "ClusterRole"}


def test_an_existing_nats(render: Render, tmp_path: Path) -> None:
    external = {"url": "tls://bus.example:4333", "existingSecret": "bus", "caFromSecret": True, "replicas": 3}
    found = render({"nats": {"enabled": False, "external": external}})
    assert [o for o in found if "nats" in o["metadata"]["name"]] == []
    read = config(found, "binder", tmp_path)
    assert (read.nats_url, read.nats_user, read.nats_replicas) == ("tls://bus.example:4333", "binder", 3)
    sources = {
        s["secret"]["name"]: s["secret"]["items"][0]["key"]
        for v in found.one("Deployment", "binder")["spec"]["template"]["spec"]["volumes"]
        for s in v.get("projected", {}).get("sources", [])
    }
    assert sources == {"bus": "ca.crt"} or set(sources) == {"bus"}
    policy = found.one("NetworkPolicy", "shoal-binder")["spec"]["egress"][-1]
    assert policy["ports"] == [{"port": 4333, "protocol": "TCP"}]
    single = render({"nats": {"enabled": False, "external": {**external, "user": "shared", "tlsFirst": False}}})
    read = config(single, "binder", tmp_path)
    assert (read.nats_user, read.nats_tls_first) == ("shared", False)


def test_metrics_of_dashboard_and_alerts_exist() -> None:
    from prometheus_client import REGISTRY

    for path in ROOT.glob("services/*/src/*/metrics.py"):
        import_module(f"{path.parent.name}.metrics")
    known = set()
    for family in REGISTRY.collect():
        known |= {family.name, *(family.name + s for s in ("_total", "_bucket", "_count", "_sum"))}
    text = (CHART / "files/dashboard.json").read_text() + (CHART / "files/alerts.yaml").read_text()
    used = set(re.findall(r"\b(?:shoal|kai)_[a-z0-9_]+", text))
    assert len(used) > 15
    assert used <= known
    names = {r["alert"] for g in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"] for r in g["rules"]}
    assert len(names) >= 5
    for service in (
        "Scheduler",
        "ClusterState",
        "Binder",
        "PodGrouper",
        "QueueController",
        "GpuReservation",
        "ShardController",
    ):
        assert f"Shoal{service}Gone" in names, "somebody is told when a service is gone"


def test_metrics_of_a_shard_are_told_by_shard() -> None:
    from prometheus_client import REGISTRY

    for path in ROOT.glob("services/*/src/*/metrics.py"):
        import_module(f"{path.parent.name}.metrics")
    of_shards = {
        f.name for f in REGISTRY.collect() if "shard" in getattr(REGISTRY._names_to_collectors.get(f.name), "_labelnames", ())
    }
    scheduler = import_module("shoal_scheduler.metrics")
    assert {m._name for m in vars(scheduler).values() if hasattr(m, "_labelnames")} <= of_shards, "all that a scheduler counts"
    assert {"shoal_binder_results", "shoal_binder_seconds"} <= of_shards
    expressions = re.findall(r'"expr": "(.*)"', (CHART / "files/dashboard.json").read_text())
    rules = [r for g in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"] for r in g["rules"]]
    for rule in rules:
        if "absent(" not in rule["expr"]:
            expressions.append(rule["expr"])
            assert ("$labels.shard" in rule["annotations"]["summary"]) == ("by (shard)" in rule["expr"])
    for expression in expressions:
        if re.search(r"shoal_(groups_waiting|decisions_open|cycles|cycle_|decisions_total|commit_|decision_to)", expression):
            assert re.search(r"by \((le, )?shard\)", expression), expression
