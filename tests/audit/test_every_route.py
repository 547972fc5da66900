"""The life of a platform over REST, every route that writes: each action leaves exactly one row, of whoever did it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from audit.models import AuditEvent
from tests.admin.people import person
from tests.architecture.test_routes import CLOSED
from tests.catalog.looks import look
from tests.conftest import Party, owners_cursor
from tests.fakes.openai import FakeOpenAI

pytestmark = pytest.mark.django_db
SECRET, OTHER_SECRET = "sk-a-secret-of-this-story", "sk-another-secret-of-this-story"
SUNSET = "2099-01-01T00:00:00Z"
WRITES_NOTHING = {("post", "select")}
WRITES_IN_A_TASK = {("post", "erase-tenant")}
MODEL = {
    "provider": "vendor",
    "model_identifier": "text-embedding-3-small",
    "dimensions": 1536,
    "tokenizer": "cl100k_base",
    "capabilities": ["dimensions", "matryoshka"],
    "cost_per_million_tokens": "0.02",
}
HOOK = {"name": "hook", "kind": "webhook", "targets": ["https://hooks.example.com/"]}
OWN = {"provider": "vendor", "secret": {"api_key": SECRET}}
CHANNEL = {"name": "on call", "targets": ["oncall@acme.test"]}
BUDGET = {"scope": "tenant", "scope_id": "", "period": "month", "amount": "5"}
LIMIT = {"scope": "tenant", "scope_id": "", "measure": "tokens", "period": "day", "amount": "1000"}


@dataclass(frozen=True)
class Step:
    """One request. `{words}` of its path are ids of steps before, which an answer left under `keep`."""

    by: str  # operator, acme
    method: str
    route: str
    path: str
    actions: str
    body: dict[str, Any] = field(default_factory=dict)
    keep: str = ""


STEPS = [
    Step("operator", "post", "provider-list", "embedding-models/providers", "provider.added",
         {"slug": "extra", "kind": "openai", "secret": {"api_key": SECRET}}),
    Step("operator", "patch", "provider-detail", "embedding-models/providers/extra", "provider.changed",
         {"timeout_s": 5, "secret": {"api_key": OTHER_SECRET}}),
    Step("operator", "post", "provider-credentials", "embedding-models/providers/extra/credentials",
         "provider_credential.added", {"label": "second", "secret": {"api_key": SECRET}}, "credential"),
    Step("operator", "delete", "provider-remove-credential",
         "embedding-models/providers/extra/credentials/{credential}", "provider_credential.removed"),
    Step("operator", "post", "provider-test", "embedding-models/providers/extra/test", "provider.tested"),
    Step("operator", "delete", "provider-detail", "embedding-models/providers/extra", "provider.removed"),
    Step("operator", "post", "provider-breaker", "embedding-models/providers/vendor/breaker", "breaker.held",
         {"state": "auto"}),
    Step("operator", "post", "catalog-list", "embedding-models/catalog", "model.added",
         {**MODEL, "model_name": "draft"}, "draft"),
    Step("operator", "patch", "catalog-detail", "embedding-models/catalog/{draft}", "model.changed",
         {"max_tokens": 4000}),
    Step("operator", "put", "catalog-detail", "embedding-models/catalog/{draft}", "model.changed",
         {**MODEL, "model_name": "draft", "max_tokens": 5000}),
    Step("operator", "post", "catalog-prices", "embedding-models/catalog/{draft}/prices", "price.added",
         {"cost_per_million_tokens": "0.03", "source": "a contract"}),
    Step("operator", "post", "catalog-validate", "embedding-models/catalog/{draft}/validate", "model.validated"),
    Step("operator", "delete", "catalog-detail", "embedding-models/catalog/{draft}", "model.removed"),
    Step("operator", "post", "catalog-list", "embedding-models/catalog",
         "model.added model.moved model.validated model.activated",
         {**MODEL, "model_name": "small", "activate": True}, "small"),
    Step("operator", "post", "catalog-list", "embedding-models/catalog",
         "model.added model.moved model.validated model.activated",
         {**MODEL, "model_name": "twin", "activate": True}, "twin"),
    Step("operator", "post", "discovery-run-list", "embedding-models/discovery/runs", "discovery.begun",
         {"provider": "vendor"}),
    Step("operator", "post", "discovery-run-apply", "embedding-models/discovery/runs/{run}/apply",
         "discovery.accepted", {"accept": ["new:text-embedding-3-large"]}),
    Step("operator", "post", "discovery-run-apply", "embedding-models/discovery/runs/{run}/apply",
         "discovery.ignored", {"ignore": ["new:text-embedding-ada-002"]}),
    Step("operator", "post", "tenant-list", "tenants", "tenant.added", {"name": "New", "slug": "new"}, "tenant"),
    Step("operator", "patch", "tenant-detail", "tenants/{tenant}", "tenant.changed", {"is_suspended": True}),
    Step("acme", "post", "tenant-model-list", "tenant-models", "tenant_model.configured",
         {"model_id": "{small}", "daily_token_limit": 10, "monthly_budget_usd": "5"}, "own"),
    Step("acme", "post", "tenant-model-list", "tenant-models", "tenant_model.configured", {"model_id": "{twin}"},
         "second"),
    Step("acme", "patch", "tenant-model-detail", "tenant-models/{own}", "tenant_model.changed",
         {"daily_token_limit": 20, "priority": 3}),
    Step("acme", "put", "tenant-model-detail", "tenant-models/{own}", "tenant_model.changed",
         {"model_id": "{small}", "priority": 4, "is_default": True}),
    Step("acme", "post", "tenant-model-set-default", "tenant-models/{second}/set-default", "tenant_model.changed"),
    Step("acme", "post", "tenant-model-disable", "tenant-models/{own}/disable", "tenant_model.changed"),
    Step("acme", "post", "tenant-model-enable", "tenant-models/{own}/enable", "tenant_model.changed"),
    Step("acme", "delete", "tenant-model-detail", "tenant-models/{own}", "tenant_model.removed"),
    Step("acme", "post", "agent-list", "agents", "agent.added", {"agent_id": "crawler"}),
    Step("acme", "patch", "agent-detail", "agents/crawler", "agent.changed",
         {"name": "A crawler", "metadata": {"api_key": SECRET}}),
    Step("acme", "put", "agent-preferences", "agents/crawler/preferences", "agent.changed",
         {"monthly_budget_usd": "5"}),
    Step("acme", "delete", "agent-detail", "agents/crawler", "agent.removed"),
    Step("acme", "post", "limit-list", "limits", "limit.added", LIMIT, "limit"),
    Step("acme", "patch", "limit-detail", "limits/{limit}", "limit.changed", {"amount": "2000"}),
    Step("acme", "put", "limit-detail", "limits/{limit}", "limit.changed", {**LIMIT, "amount": "3000"}),
    Step("acme", "delete", "limit-detail", "limits/{limit}", "limit.removed"),
    Step("acme", "post", "alert-acknowledge", "alerts/{alert}/acknowledge", "alert.acknowledged"),
    Step("acme", "post", "alert-channel-list", "alert-channels", "alert_channel.added", CHANNEL, "channel"),
    Step("acme", "patch", "alert-channel-detail", "alert-channels/{channel}", "alert_channel.changed",
         {"is_enabled": False}),
    Step("acme", "put", "alert-channel-detail", "alert-channels/{channel}", "alert_channel.changed", CHANNEL),
    Step("acme", "post", "alert-channel-test", "alert-channels/{channel}/test", "alert_channel.tested"),
    Step("acme", "delete", "alert-channel-detail", "alert-channels/{channel}", "alert_channel.removed"),
    Step("acme", "post", "alert-channel-list", "alert-channels", "alert_channel.added", HOOK, "hook"),
    Step("acme", "post", "alert-channel-renew-secret", "alert-channels/{hook}/renew-secret",
         "alert_channel.secret_renewed"),
    Step("acme", "post", "provider-credential-list", "provider-credentials", "tenant_credential.added", OWN, "own"),
    Step("acme", "patch", "provider-credential-detail", "provider-credentials/{own}", "tenant_credential.changed",
         {"use": "last", "secret": {"api_key": OTHER_SECRET}}),
    Step("acme", "put", "provider-credential-detail", "provider-credentials/{own}", "tenant_credential.changed",
         {"use": "first"}),
    Step("acme", "post", "provider-credential-test", "provider-credentials/{own}/test", "tenant_credential.tested"),
    Step("acme", "delete", "provider-credential-detail", "provider-credentials/{own}", "tenant_credential.removed"),
    Step("acme", "post", "api-key-list", "api-keys", "api_key.minted", {"name": "k", "scopes": ["embeddings"]}, "key"),
    Step("acme", "post", "api-key-rotate", "api-keys/{key}/rotate", "api_key.rotated", {"overlap_seconds": 60}),
    Step("acme", "delete", "api-key-detail", "api-keys/{key}", "api_key.revoked"),
    Step("operator", "post", "catalog-transition", "embedding-models/catalog/{twin}/transition", "model.moved",
         {"to": "deprecated", "reason": "old", "sunset_at": SUNSET}),
    Step("operator", "post", "catalog-sunset", "embedding-models/catalog/{twin}/sunset", "model.changed",
         {"sunset_at": "2098-01-01T00:00:00Z", "reason": "sooner"}),
    Step("acme", "patch", "own-tenant", "tenant", "tenant.changed", {"name": "Acme Inc"}),
    Step("acme", "post", "tenant-invitation-list", "invitations", "invitation.made",
         {"email": "new@acme.example", "role": "viewer"}, "invitation"),
    Step("acme", "delete", "tenant-invitation-detail", "invitations/{invitation}", "invitation.revoked"),
    Step("acme", "patch", "member-detail", "members/{member}", "member.changed", {"role": "billing"}),
    Step("acme", "delete", "member-detail", "members/{member}", "member.removed"),
    Step("acme", "post", "api-key-list", "api-keys", "api_key.minted", {"name": "k2", "scopes": ["embeddings"]}, "key"),
    Step("acme", "patch", "api-key-detail", "api-keys/{key}", "api_key.changed", {"name": "renamed"}),
    Step("acme", "post", "budget-list", "budgets", "limit.added", BUDGET, "budget"),
    Step("acme", "patch", "budget-detail", "budgets/{budget}", "limit.changed", {"amount": "6"}),
    Step("acme", "delete", "budget-detail", "budgets/{budget}", "limit.removed"),
]  # fmt: skip


def writes() -> set[tuple[str, str]]:
    """Every method of every route that may change something."""
    found = set()
    for _, route in CLOSED:
        view: Any = route.callback
        methods = getattr(view, "actions", None) or [
            each for each in ("post", "put", "patch", "delete") if hasattr(view.cls, each)
        ]
        found |= {(method, str(route.name)) for method in methods if method not in ("get", "head", "options")}
    return found


def test_the_story_leaves_no_route_out() -> None:
    assert {(step.method, step.route) for step in STEPS} == writes() - WRITES_NOTHING - WRITES_IN_A_TASK


@pytest.mark.slow
def test_each_action_leaves_exactly_one_row_of_whoever_did_it(
    acme: Party, operator: Any, vendor: FakeOpenAI, mailbox: object, table: object
) -> None:
    from alerts.services import raise_alert
    from catalog.upstreams import change_provider
    from tenants.models import ApiKey

    change_provider(slug="vendor", discovery="approval")
    alert = raise_alert(tenant_id=acme.id, kind="quota_warning", subject="s", title="t", detail={})
    member = person("viewer@acme.example", **{str(acme.id): "viewer"})
    ids = {"alert": str(alert and alert.id), "run": str(look().id), "member": str(member.pk)}
    clients = {"operator": operator, "acme": acme.api}
    keys = {"operator": str(ApiKey.objects.get(tenant=None).id), "acme": str(acme.key_id)}
    secrets = [SECRET, OTHER_SECRET, acme.key, vendor.key]
    wrong = []
    for step in STEPS:
        with owners_cursor() as cursor:
            cursor.execute("DELETE FROM audit_auditevent")
        body = {name: value.format(**ids) if isinstance(value, str) else value for name, value in step.body.items()}
        answer = getattr(clients[step.by], step.method)(f"/api/v1/{step.path.format(**ids)}", body)
        assert answer.status_code < 300, (step, answer.content)
        told = answer.json() if answer.content else {}
        ids |= {step.keep: told["id"]} if step.keep else {}
        secrets += [told["key"]] if "key" in told else []
        rows = list(AuditEvent.objects.order_by("id"))
        expected = [(action, "key", keys[step.by], _whose(step, acme, ids)) for action in step.actions.split()]
        found = [(row.action, row.actor_kind, row.actor_id, row.tenant_id) for row in rows]
        told_secrets = [each for each in secrets for row in rows if each in repr(row.__dict__)]
        is_traced = all((row.address, row.request_id) == ("127.0.0.1", answer["X-Request-Id"]) for row in rows)
        if (found, told_secrets, is_traced) != (expected, [], True):
            wrong.append((step, found, told_secrets, is_traced))
    assert wrong == []


def _whose(step: Step, acme: Party, ids: dict[str, str]) -> UUID | None:
    """The tenant whose matter it is."""
    if step.by == "acme":
        return acme.id
    return UUID(ids["tenant"]) if step.route.startswith("tenant-") else None
