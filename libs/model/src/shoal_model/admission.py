"""Webhooks and policies of the API server's admission that are asked about bindings of pods."""

from __future__ import annotations

import msgspec

from shoal_contracts.state import AdmissionRecord
from shoal_model.objects import Meta, Obj

KINDS = ("validatingwebhook", "mutatingwebhook", "validatingpolicy", "mutatingpolicy")
"""Kinds of the state plane that hold them."""
_GROUPS, _OPERATIONS = ("", "*"), ("CREATE", "*")
_RESOURCES = ("pods/binding", "pods/*", "*/binding", "*/*")


class Rule(Obj):
    """What is asked about: rules[] of a webhook, resourceRules[] of a policy."""

    api_groups: list[str] | None = None
    operations: list[str] | None = None
    resources: list[str] | None = None

    @property
    def bindings(self) -> bool:
        """Whether bindings of pods are among it."""
        told = ((self.api_groups, _GROUPS), (self.operations, _OPERATIONS), (self.resources, _RESOURCES))
        return all(any(word in known for word in words or ()) for words, known in told)


class Webhook(Obj):
    """webhooks[] of a webhook configuration."""

    rules: list[Rule] | None = None


class Constraints(Obj):
    """spec.matchConstraints of a policy."""

    resource_rules: list[Rule] | None = None


class PolicySpec(Obj):
    """spec of a policy."""

    match_constraints: Constraints | None = None


class Admission(Obj):
    """A ValidatingWebhookConfiguration, MutatingWebhookConfiguration, ValidatingAdmissionPolicy or MutatingAdmissionPolicy."""

    kind: str = ""
    metadata: Meta = msgspec.field(default_factory=Meta)
    webhooks: list[Webhook] | None = None
    spec: PolicySpec = msgspec.field(default_factory=PolicySpec)


def record(kind: str, found: Admission) -> AdmissionRecord | None:
    """The record of an object of this kind; None where it is not asked about bindings."""
    rules = [rule for webhook in found.webhooks or () for rule in webhook.rules or ()]
    if found.spec.match_constraints is not None:
        rules += found.spec.match_constraints.resource_rules or ()
    return AdmissionRecord(type=kind, name=found.metadata.name) if any(rule.bindings for rule in rules) else None
