"""The webhook configurations as data: what they match, where they lead, what happens when nobody answers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from shoal_admission import app, webhooks
from shoal_admission.webhooks import Settings, configurations
from shoal_model import access
from shoal_service.config import load


def hooks(settings: Settings) -> dict[str, dict[str, Any]]:
    """Path -> hook."""
    found: dict[str, dict[str, Any]] = {}
    for configuration in configurations(settings):
        for hook in configuration["webhooks"]:
            client = hook["clientConfig"]
            found[client["service"]["path"] if "service" in client else "/" + client["url"].split("/", 3)[3]] = hook
    return found


def test_each_hook_leads_to_a_review_and_each_review_has_a_hook() -> None:
    assert hooks(Settings()).keys() == app.reviews(load(app.Config, None, {}), app.Queues()).keys()
    assert hooks(Settings(url="https://127.0.0.1:9443/")).keys() == hooks(Settings()).keys()


def test_no_hook_has_effects_or_makes_anyone_wait_long() -> None:
    for hook in hooks(Settings()).values():
        assert hook["sideEffects"] == "None"
        assert hook["timeoutSeconds"] <= 5
        assert load(app.Config, None, {}).review_seconds < hook["timeoutSeconds"]
        assert hook["admissionReviewVersions"] == ["v1"]
        assert hook["matchConditions"], "nothing is matched without a condition"


def test_only_what_could_never_run_fails_without_admission() -> None:
    policies = {path: hook["failurePolicy"] for path, hook in hooks(Settings()).items()}
    assert {path for path, policy in policies.items() if policy == "Fail"} == {webhooks.MUTATE_POD, webhooks.VALIDATE_POD}


def test_pods_are_ours_and_outside_of_the_systems_namespaces() -> None:
    found = hooks(
        Settings(
            scheduler_name="mine",
            namespace="shoal",
            namespace_labels={"team": "a"},
            pod_labels={"gpu": "y"},
            queue_label_selector=True,
        )
    )
    for path in (webhooks.MUTATE_POD, webhooks.VALIDATE_POD):
        hook = found[path]
        assert hook["name"] == "admission.shoal.svc"
        assert hook["matchConditions"][0] == {
            "name": "scheduler-name-match",
            "expression": "object.spec.schedulerName == 'mine'",
        }
        selector = hook["namespaceSelector"]
        assert selector["matchLabels"] == {"team": "a"}
        assert selector["matchExpressions"] == [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "shoal"]},
            {"key": "kai.scheduler/queue", "operator": "Exists"},
        ]
        assert hook["objectSelector"] == {"matchLabels": {"gpu": "y"}}
    assert found[webhooks.MUTATE_POD]["reinvocationPolicy"] == "IfNeeded"


def test_containers_for_debugging_are_reviewed_where_devices_are_guarded() -> None:
    for every in (False, True):
        hook = hooks(Settings(every_pod=every))[webhooks.VALIDATE_POD]
        resources = [r for rule in hook["rules"] for r in rule["resources"]]
        assert resources == ["pods", "pods/ephemeralcontainers"][: 1 + every]
        assert ("ephemeralcontainers" in hook["matchConditions"][1]["expression"]) is every
        assert "ephemeralcontainers" not in str(hooks(Settings(every_pod=every))[webhooks.MUTATE_POD])


def test_queues_are_reviewed_before_they_are_deleted() -> None:
    hook = hooks(Settings())[webhooks.VALIDATE_QUEUE]
    assert hook["rules"][0]["operations"] == ["CREATE", "UPDATE", "DELETE"]
    # A deletion has no object: its spec must not be asked for.
    assert hook["matchConditions"][0]["expression"].startswith("(request.operation != 'UPDATE' ||")


def test_admission_may_patch_just_these() -> None:
    named = {
        (resource, name)
        for rule in access.RULES["admission"]
        for resource in rule["resources"]
        for name in rule["resourceNames"]
    }
    assert named == set(webhooks.NAMES)


def test_the_printed_form_is_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--scheduler-name", "mine", "--url", "https://127.0.0.1:9", "--pod-labels", "a=b", "c=d", "--every-pod"]
    assert webhooks.main([*given, "--cert-manager", "ns/cert"]) == 0
    text = capsys.readouterr().out
    wanted = Settings(
        scheduler_name="mine",
        url="https://127.0.0.1:9",
        pod_labels={"a": "b", "c": "d"},
        every_pod=True,
        cert_manager="ns/cert",
    )
    assert list(yaml.safe_load_all(text)) == configurations(wanted)
    assert "&id" not in text, "no YAML aliases: tools without them read it too"
    with pytest.raises(SystemExit):
        webhooks.main(["--pod-labels", "nothing"])
