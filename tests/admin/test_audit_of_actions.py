"""Whatever somebody does in the admin leaves exactly one row in the audit log, of that person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.urls import reverse

from audit.models import AuditEvent
from tests.admin.pages import fill
from tests.conftest import Party, owners_cursor


@dataclass(frozen=True)
class Step:
    """One form that is filled in. `which` finds the row that it is about."""

    by: str  # owner, chief
    model: str
    verb: str
    action: str
    which: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)


SMALL, LARGE, HOOK = {"model__name": "small"}, {"model__name": "large"}, {"name": "on call"}
STEPS = [
    Step(
        "owner",
        "tenants.TenantModel",
        "add",
        "tenant_model.configured",
        {},
        {"model": "{large}", "daily_token_limit": "9", "monthly_budget_usd": "5"},
    ),
    Step("owner", "tenants.TenantModel", "change", "tenant_model.changed", LARGE, {"priority": "3"}),
    Step("owner", "tenants.TenantModel", "disable", "tenant_model.changed", LARGE),
    Step("owner", "tenants.TenantModel", "enable", "tenant_model.changed", LARGE),
    Step("owner", "tenants.TenantModel", "set_default", "tenant_model.changed", LARGE),
    Step("owner", "tenants.TenantModel", "delete", "tenant_model.removed", SMALL),
    Step("owner", "tenants.ApiKey", "add", "api_key.minted", {}, {"name": "new", "scopes": ["embeddings"]}),
    Step("owner", "tenants.ApiKey", "rotate", "api_key.rotated", {"name": "acme key"}, {"overlap_seconds": "60"}),
    Step("owner", "tenants.ApiKey", "revoke", "api_key.revoked", {"name": "new"}),
    Step("owner", "tenants.Invitation", "add", "invitation.made", {}, {"email": "i@acme.example", "role": "viewer"}),
    Step("owner", "tenants.Invitation", "revoke", "invitation.revoked", {"email": "i@acme.example"}),
    Step("owner", "tenants.Membership", "change", "member.changed", {"role": "billing"}, {"role": "admin"}),
    Step("owner", "tenants.Membership", "delete", "member.removed", {"role": "viewer"}),
    Step(
        "owner",
        "tenants.TenantCredential",
        "add",
        "tenant_credential.added",
        {},
        {"provider": "{vendor}", "label": "ours", "use": "first", "api_key": "sk-of-the-tests"},
    ),
    Step(
        "owner", "tenants.TenantCredential", "change", "tenant_credential.changed", {"label": "ours"}, {"use": "last"}
    ),
    Step(
        "owner",
        "tenants.TenantCredential",
        "replace_secret",
        "tenant_credential.changed",
        {"label": "ours"},
        {"api_key": "sk-of-the-tests-2"},
    ),
    Step("owner", "tenants.TenantCredential", "delete", "tenant_credential.removed", {"label": "ours"}),
    Step("owner", "tenants.Agent", "add", "agent.added", {}, {"agent_id": "crawler"}),
    Step("owner", "tenants.Agent", "change", "agent.changed", {"agent_id": "crawler"}, {"name": "Crawler"}),
    Step("owner", "tenants.Agent", "delete", "agent.removed", {"agent_id": "crawler"}),
    Step("owner", "tenants.Tenant", "change", "tenant.changed", {"slug": "acme"}, {"name": "Acme & Sons"}),
    Step(
        "owner",
        "billing.Limit",
        "add",
        "limit.added",
        {},
        {"target": "tenant:", "measure": "tokens", "period": "day", "amount": "77"},
    ),
    Step("owner", "billing.Limit", "change", "limit.changed", {"amount": 77}, {"amount": "78"}),
    Step("owner", "billing.Limit", "delete", "limit.removed", {"amount": 78}),
    Step(
        "owner",
        "alerts.AlertChannel",
        "add",
        "alert_channel.added",
        {},
        {**HOOK, "kind": "email", "targets": "oncall@acme.example"},
    ),
    Step("owner", "alerts.AlertChannel", "change", "alert_channel.changed", HOOK, {"targets": "o@acme.example"}),
    Step("owner", "alerts.AlertChannel", "delete", "alert_channel.removed", HOOK),
    Step("owner", "alerts.Alert", "acknowledge", "alert.acknowledged", {"title": "t"}),
    Step("chief", "tenants.Membership", "add", "member.added", {}, {"user": "{operator}", "role": "viewer"}),
    Step("chief", "tenants.Tenant", "add", "tenant.added", {}, {"name": "New", "slug": "new", "tier": "standard"}),
    Step("chief", "tenants.Tenant", "suspend", "tenant.changed", {"slug": "new"}),
    Step("chief", "tenants.Tenant", "unsuspend", "tenant.changed", {"slug": "new"}),
    Step("chief", "tenants.User", "add", "person.added", {}, {"email": "p@quiver.example", "name": "P"}),
    Step("chief", "tenants.User", "deactivate", "person.changed", {"email": "p@quiver.example"}),
    Step("chief", "tenants.User", "activate", "person.changed", {"email": "p@quiver.example"}),
    Step("chief", "tenants.User", "reset_password", "person.reset_link_made", {"email": "p@quiver.example"}),
    Step("chief", "catalog.Provider", "add", "provider.added", {}, {"slug": "other", "kind": "openai"}),
    Step("chief", "catalog.Provider", "change", "provider.changed", {"slug": "other"}, {"rpm": "500"}),
    Step(
        "chief",
        "catalog.Provider",
        "add_credential",
        "provider_credential.added",
        {"slug": "other"},
        {"api_key": "sk-of-the-tests"},
    ),
    Step(
        "chief",
        "catalog.Provider",
        "remove_credential",
        "provider_credential.removed",
        {"slug": "other"},
        {"credential": "{credential}"},
    ),
    Step("chief", "catalog.Provider", "delete", "provider.removed", {"slug": "other"}),
    Step(
        "chief",
        "catalog.EmbeddingModel",
        "add",
        "model.added",
        {},
        {"provider": "{vendor}", "name": "fresh", "identifier": "fresh", "dimensions": "32"},
    ),
    Step("chief", "catalog.EmbeddingModel", "change", "model.changed", {"name": "fresh"}, {"max_tokens": "100"}),
    Step(
        "chief",
        "catalog.EmbeddingModel",
        "add_price",
        "price.added",
        {"name": "fresh"},
        {"cost_per_million_tokens": "0.5", "source": "a contract"},
    ),
    Step(
        "chief",
        "catalog.EmbeddingModel",
        "move",
        "model.moved",
        {"name": "fresh"},
        {"to": "testing", "reason": "to see"},
    ),
    Step("chief", "catalog.EmbeddingModel", "delete", "model.removed", {"name": "fresh"}),
]
# What asks a provider, a worker or a mail server, or a page of another kind; each is told in stories of its own.
LEFT_OUT = {
    ("alerts.AlertChannel", "test"),
    ("alerts.AlertChannel", "renew_secret"),  # of webhooks
    ("catalog.DiscoveryRun", "accept"),
    ("catalog.DiscoveryRun", "ignore"),
    ("catalog.EmbeddingModel", "change_sunset"),  # of deprecated ones
    ("catalog.EmbeddingModel", "validate"),
    ("catalog.PriceProposal", "approve"),
    ("catalog.PriceProposal", "refuse"),
    ("catalog.Provider", "breakers"),
    ("catalog.Provider", "test_connection"),
    ("tenants.TenantCredential", "test_credential"),
}


def test_the_story_leaves_no_action_out() -> None:
    offered = set()
    for model, page in admin.site._registry.items():
        verbs = {
            verb
            for verb in ("add", "change", "delete")
            if getattr(page, {"delete": "removes"}.get(verb, f"{verb}s"), False)
        }
        offered |= {(model._meta.label, verb) for verb in {*verbs, *getattr(page, "actions_detail", ())}}
    assert {(step.model, step.verb) for step in STEPS} == offered - LEFT_OUT


def test_each_action_leaves_exactly_one_row_of_whoever_did_it(furnished: Party, owner: Any, chief: Any) -> None:
    from alerts.services import raise_alert
    from catalog.models import EmbeddingModel, Provider, ProviderCredential
    from tenants.models import User

    raise_alert(tenant_id=furnished.id, kind="quota_warning", subject="s", title="t", detail={})
    operator = User.objects.get(email="operator@quiver.example")
    who = {"owner": User.objects.get(email="owner@acme.example").pk, "chief": operator.pk}
    browsers, wrong = {"owner": owner, "chief": chief}, []
    for step in STEPS:
        with owners_cursor() as cursor:
            cursor.execute("DELETE FROM audit_auditevent")
        known = {
            "large": EmbeddingModel.objects.get(name="large").id,
            "vendor": Provider.objects.get(slug="vendor").pk,
            "credential": getattr(ProviderCredential.objects.last(), "pk", ""),
            "operator": operator.pk,
        }
        words = {name: each.format(**known) if isinstance(each, str) else each for name, each in step.words.items()}
        model = apps.get_model(step.model)
        keys = [] if step.verb == "add" else [model._default_manager.filter(**step.which).get().pk]
        url = reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_{step.verb}", args=keys)
        whose = f"?tenant={furnished.id}" if step.model == "tenants.Membership" and step.verb == "add" else ""
        answer = fill(browsers[step.by], url + whose, **words)
        found = [(row.action, row.actor_kind, row.actor_id) for row in AuditEvent.objects.all()]
        if found != [(step.action, "person", str(who[step.by]))]:
            wrong.append((step.model, step.verb, found, answer.status_code, errors_in(answer)))
    assert wrong == []


def errors_in(answer: Any) -> Any:
    """What a form says that was not taken."""
    return (answer.context or {}).get("errors") if hasattr(answer, "context") else None
