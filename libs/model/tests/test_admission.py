"""Which webhooks and policies are asked about bindings of pods."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_model.admission import Admission, record


def rule(resources: list[str] | None, operations: list[str] | None = None, groups: list[str] | None = None) -> dict[str, Any]:
    return {"apiGroups": [""] if groups is None else groups, "operations": operations or ["CREATE"], "resources": resources}


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        ([rule(["pods/binding"])], True),
        ([rule(["pods"]), rule(["*/*"], ["*"], ["*"])], True),
        ([rule(["pods/*"])], True),
        ([rule(["*/binding"], ["UPDATE", "CREATE"], ["apps", ""])], True),
        ([rule(["pods", "*", "pods/status", "pods/eviction"])], False),
        ([rule(["pods/binding"], ["UPDATE"])], False),
        ([rule(["pods/binding"], groups=["apps"])], False),
        ([rule(None)], False),
        ([{}], False),
        ([], False),
        (None, False),
    ],
)
def test_a_rule_covers_bindings(rules: Any, asked: bool) -> None:
    meta = {"name": "x"}
    kinds = {
        "ValidatingWebhookConfiguration": {"metadata": meta, "webhooks": [{"name": "w", "rules": rules}, {"name": "other"}]},
        "ValidatingAdmissionPolicy": {"metadata": meta, "spec": {"matchConstraints": {"resourceRules": rules}}},
    }
    for kind, body in kinds.items():
        found = record(kind, msgspec.convert(body, Admission))
        assert (found is not None) == asked
        assert found is None or (found.type, found.name) == (kind, "x")


def test_one_without_anything_is_asked_nothing() -> None:
    assert (
        record("ValidatingAdmissionPolicy", msgspec.json.decode(b'{"metadata": {"name": "x"}, "spec": {}}', type=Admission))
        is None
    )
