"""A platform with rows of every kind, and the words by which a leak is recognised.

Every text of globex's holds the word `globex`; what only operators may see holds the word `concealed`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.apps import apps
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from core.ids import uuid7, uuid7_time
from tests.conftest import Party


@dataclass(frozen=True)
class World:
    """Ids of rows by the label of their model: acme's, and all that is not acme's."""

    acme: dict[str, list[str]]
    others: dict[str, list[str]]
    marks: tuple[str, ...]


def browser(user: Any) -> Client:
    """A browser in which somebody is signed in."""
    client = Client()
    client.force_login(user)
    return client


def version(tenant_id: UUID) -> int:
    """Rises with each change that the data plane is told."""
    from tenants.models import Tenant

    return Tenant.objects.get(id=tenant_id).version


def used(tenant_id: UUID, word: str, key_id: UUID | None = None) -> Any:
    """A usage row with a provider call, every text of which holds the word."""
    from billing.models import ProviderCall, UsageRow

    row_id = uuid7()
    at = uuid7_time(row_id)
    row = UsageRow.objects.create(
        id=row_id,
        created_at=at,
        tenant_id=tenant_id,
        key_id=key_id,
        agent_id=f"{word}-agent",
        model=f"{word}-model",
        provider=f"{word}-provider",
        space=f"{word}-space",
        source=f"{word}-source",
        status=f"{word}-status",
        task_type=f"{word}-task",
        tokens=7,
        held_tokens=7,
    )
    call_id = uuid7()
    ProviderCall.objects.create(
        id=call_id,
        created_at=uuid7_time(call_id),
        tenant_id=tenant_id,
        request_id=row_id,
        model_id=uuid4(),
        model=f"{word}-model",
        provider=f"{word}-provider",
        credential_id=f"concealed-{word}",
        items=1,
        outcome=f"{word}-outcome",
        detail=f"{word} detail",
        upstream_id=f"{word}-upstream",
        latency_ms=1.0,
    )
    return row


def furnish(party: Party, model: Any) -> None:
    """Rows of every kind that a tenant can own."""
    from billing.services import add_limit, configure_model
    from tenants.invitations import invite
    from tenants.members import add_member
    from tenants.minting import mint_key
    from tenants.models import Role
    from tenants.own_credentials import add_credential
    from tenants.rights import Rights
    from tenants.services import add_user, change_tenant

    word = party.slug
    change_tenant(tenant_id=party.id, name=f"{word} inc")
    for role in Role.values:
        user = add_user(email=f"{role}@{word}.example", name=f"{word} {role}")
        add_member(tenant_id=party.id, user=user, role=Role(role))
    owner = user.__class__.objects.get(email=f"owner@{word}.example")
    invite(tenant_id=party.id, email=f"invited@{word}.example", role=Role.VIEWER, by=owner)
    rights = Rights(frozenset({"embeddings"}), agent_id=f"{word}-agent")
    mint_key(tenant_id=party.id, name=f"{word} key", rights=rights, created_by=owner)
    configured = configure_model(
        tenant_id=party.id, model_id=model.id, limits={"daily_token_limit": 10}, settings={"note": f"{word} note"}
    )
    scopes = {"tenant": "", "agent": f"{word}-agent", "key": str(party.key_id)}
    for scope, scope_id in scopes.items():
        add_limit(
            tenant_id=party.id, scope=scope, scope_id=scope_id, measure="usd", period="month", amount=5, thresholds=[50]
        )
    assert configured.is_default
    add_credential(
        tenant_id=party.id, provider="vendor", secret={"api_key": f"sk-concealed-of-{word}"}, label=f"{word} own"
    )
    used(party.id, word, party.key_id)


def keys_of_rows(acme: Party) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Ids of all rows by model: acme's own, and the others."""
    own: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for model in apps.get_models():
        if model._meta.app_label not in ("tenants", "billing", "catalog", "audit", "django_celery_beat"):
            continue
        for row in model._default_manager.all():
            is_own = getattr(row, "tenant_id", None) == acme.id or row.pk == acme.id
            (own if is_own else others).setdefault(model._meta.label_lower, []).append(str(row.pk))
    return own, others


def fingerprint() -> dict[str, str]:
    """What every table holds."""
    return {
        model._meta.label: hashlib.sha256(
            repr(sorted(map(repr, model._default_manager.values_list()))).encode()
        ).hexdigest()
        for model in apps.get_models(include_auto_created=True)
    }


def addresses(rows: dict[str, list[str]]) -> Iterator[str]:
    """Every address below /admin/ that the URL resolver knows, made with these rows: a new page is among them."""
    from django.contrib import admin

    apps_shown = sorted({model._meta.app_label for model in admin.site._registry})
    for route in _routes(get_resolver().url_patterns):
        if not route.startswith("admin/") or "(?P<url>" in route:  # the latter catches what nothing else does
            continue
        for each in _filled(route, rows, apps_shown):
            assert not set("<>()^$") & set(each), f"{each} has a parameter that nothing fills"
            yield f"/{each}"


def _routes(patterns: Iterable[URLPattern | URLResolver], prefix: str = "") -> Iterator[str]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, route)
        else:
            yield route


def _filled(route: str, rows: dict[str, list[str]], apps_shown: list[str]) -> list[str]:
    route = re.sub(r"<(\w+:)?(content_type_id|uidb64|token)>", "1", route).replace("<uuid:test_id>", str(uuid4()))
    if "(?P<app_label>" in route:
        return [f"admin/{label}/" for label in apps_shown]
    if "object_id>" not in route:
        return [route]
    label = ".".join(route.split("/")[1:3])
    return [re.sub(r"<\w+:object_id>", each, route) for each in rows.get(label, ["1"] if label == "r.1" else [])]
