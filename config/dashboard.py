"""The first page of the admin: figures, failures and models of the current tenant, or for an operator of the platform.

Owns how the answers of `billing.dashboard` look and what an empty platform is told to do first. Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_UP, Decimal
from typing import Any

from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.db import models
from django.db.models import Case, Count, Q, Value, When
from django.http import HttpRequest
from django.urls import reverse

from billing.dashboard import (
    Failure,
    Figures,
    TopTenant,
    Total,
    platform_failures,
    platform_figures,
    tenant_failures,
    tenant_figures,
)
from billing.models import UsageRow
from catalog.models import EmbeddingModel, ProviderCredential, State
from core.clock import utc_now
from tenants.current import current_tenant
from tenants.links import absolute
from tenants.model_states import SERVING
from tenants.models import ApiKey, Tenant, TenantModel
from tenants.selectors import configured_models, keys_of

MODELS_SHOWN = 10
_BAR = 40  # height of the highest
_TONES = {
    "enabled": "good",
    "available": "good",
    "testing": "mild",
    "deprecated": "mild",
    "unavailable": "bad",
    "quota exceeded": "bad",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One measure: today, this month, and a bar for each day."""

    label: str
    today: str
    month: str
    bars: Sequence[tuple[int, int, str]]  # x, height, what it says


@dataclass(frozen=True, slots=True)
class ModelLine:
    name: str
    provider: str
    states: Sequence[tuple[str, str]]  # word, tone
    note: str
    url: str


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do before the first request."""

    text: str
    is_done: bool
    url: str


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's hook: what `templates/admin/index.html` shows besides the frame."""
    tenant = current_tenant(request)
    if tenant is not None:
        return context | _of_tenant(request, tenant)
    if request.user.is_active and getattr(request.user, "is_superuser", False):
        return context | _of_platform(request)
    return context


def _of_tenant(request: HttpRequest, tenant: Tenant) -> dict[str, Any]:
    now = utc_now()
    figures = tenant_figures(tenant.id, now=now)
    rows = list(configured_models(tenant.id)[: MODELS_SHOWN + 1])
    steps = [] if figures is None or _was_used(figures) else _steps_of_tenant(request, tenant, rows)
    best = next((row for row in rows if row.is_default), None)
    return {
        "title": tenant.name,
        "is_suspended": tenant.is_suspended,
        "cards": _cards(figures),
        "failures": _failure_lines(request, tenant_failures(tenant.id, now=now), {}),
        "models": [_tenant_model(request, row) for row in rows[:MODELS_SHOWN]],
        "more_models": _list_url(request, TenantModel) if len(rows) > MODELS_SHOWN else "",
        "steps": steps,
        "curl": _curl(request, best.model.name if best else "auto") if steps else "",
    }


def _of_platform(request: HttpRequest) -> dict[str, Any]:
    now = utc_now()
    found = platform_figures(now=now)
    figures, top = found or (None, [])
    failed = platform_failures(now=now)
    ids = {each.tenant_id for each in top} | {each.tenant_id for each in failed or []}
    names = dict(Tenant.objects.filter(id__in=ids).values_list("id", "name"))
    rows = list(_catalogue()[: MODELS_SHOWN + 1])
    steps = [] if figures is None or _was_used(figures) else _steps_of_platform(request)
    return {
        "title": "Platform",
        "is_platform": True,
        "cards": _cards(figures),
        "top": _top_lines(request, top, names),
        "failures": _failure_lines(request, failed, names),
        "models": [_catalogue_model(request, row) for row in rows[:MODELS_SHOWN]],
        "more_models": _list_url(request, EmbeddingModel) if len(rows) > MODELS_SHOWN else "",
        "steps": steps,
        "curl": _curl(request, "auto") if steps else "",
    }


def _cards(figures: Figures | None) -> list[Card]:
    if figures is None:
        return []
    measures: list[tuple[str, Callable[[Total], int | Decimal], Callable[[Any], str]]] = [
        ("Requests", lambda total: total.requests, short_count),
        ("Tokens", lambda total: total.tokens, short_count),
        ("Cost", lambda total: total.cost_usd, usd),
    ]
    return [
        Card(label, text(of(figures.today)), text(of(figures.month)), _bars(figures.days, of, text))
        for label, of, text in measures
    ]


def _bars(
    days: Iterable[tuple[date, Total]], of: Callable[[Total], int | Decimal], text: Callable[[Any], str]
) -> list[tuple[int, int, str]]:
    values = [(day, of(total)) for day, total in days]
    highest = max(value for _, value in values) or 1
    # A day with anything at all is seen: two units at least.
    return [
        (index * 10, max(round(_BAR * value / highest), 2) if value else 0, f"{day:%-d %b}: {text(value)}")
        for index, (day, value) in enumerate(values)
    ]


def _failure_lines(
    request: HttpRequest, failures: Sequence[Failure] | None, names: dict[Any, str]
) -> list[dict[str, Any]] | None:
    if failures is None:
        return None
    return [
        {
            "at": each.at,
            "what": "Provider call" if each.is_call else "Request",
            "reason": each.reason,
            "detail": each.detail,
            "model": f"{each.provider}/{each.model}" if each.provider else each.model,
            "tenant": names.get(each.tenant_id, ""),
            "request_id": each.request_id,
            "url": _row_url(request, UsageRow, each.request_id),
        }
        for each in failures
    ]


def _top_lines(request: HttpRequest, top: Sequence[TopTenant], names: dict[Any, str]) -> list[dict[str, str]]:
    return [
        {
            "name": names.get(each.tenant_id, str(each.tenant_id)),  # the ledger outlives a tenant
            "requests": short_count(each.total.requests),
            "tokens": short_count(each.total.tokens),
            "cost": usd(each.total.cost_usd),
            "url": _row_url(request, Tenant, each.tenant_id) if each.tenant_id in names else "",
        }
        for each in top
    ]


def _tenant_model(request: HttpRequest, row: TenantModel) -> ModelLine:
    states = [_toned(row.state)]
    if row.model.state != State.AVAILABLE:
        states.append(_toned(row.model.state))
    note = "default" if row.is_default else ""
    if row.model.sunset_at:
        note = ", ".join(filter(None, [note, f"ends {row.model.sunset_at:%-d %b %Y}"]))
    return ModelLine(row.model.name, row.model.provider.slug, states, note, _row_url(request, TenantModel, row.id))


def _catalogue() -> models.QuerySet[EmbeddingModel]:
    """What needs a look first, then what is used most."""
    trouble = Case(When(state=State.UNAVAILABLE, then=Value(0)), When(state=State.DEPRECATED, then=Value(1)), default=2)
    enabled = Count("configurations", filter=Q(configurations__state__in=SERVING))
    rows = EmbeddingModel.objects.exclude(state__in=[State.REMOVED, State.DRAFT]).select_related("provider")
    return rows.annotate(trouble=trouble, users=enabled).order_by("trouble", "-users", "name", "id")


def _catalogue_model(request: HttpRequest, row: Any) -> ModelLine:
    note = f"{row.users} tenant{'s' if row.users != 1 else ''}"
    return ModelLine(row.name, row.provider.slug, [_toned(row.state)], note, _row_url(request, EmbeddingModel, row.id))


def _steps_of_tenant(request: HttpRequest, tenant: Tenant, rows: Sequence[TenantModel]) -> list[Step]:
    has_key = keys_of(tenant.id).filter(revoked_at=None).exists()
    return [
        Step("Configure a model that your programs may use", bool(rows), _add_url(request, TenantModel)),
        Step("Create an API key; it is shown once", has_key, _add_url(request, ApiKey)),
        Step("Send the first text, with your key in $QUIVER_API_KEY:", False, ""),
    ]


def _steps_of_platform(request: HttpRequest) -> list[Step]:
    has_credential = ProviderCredential.objects.exists()
    return [
        Step(
            "Give a provider a credential (local models need none)",
            has_credential,
            _add_url(request, ProviderCredential),
        ),
        Step("Add a tenant, and invite its owner", Tenant.objects.exists(), _add_url(request, Tenant)),
        Step("Send the first text, with a key of that tenant in $QUIVER_API_KEY:", False, ""),
    ]


def _curl(request: HttpRequest, model: str) -> str:
    body = json.dumps({"model": model, "input": "Where does the river meet the sea?"})
    return (
        f"curl -s {absolute('/v1/embeddings', request)} \\\n"
        '  -H "Authorization: Bearer $QUIVER_API_KEY" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    )


def _was_used(figures: Figures) -> bool:
    return any(total.requests for _, total in figures.days)


def _toned(state: str) -> tuple[str, str]:
    words = state.replace("_", " ")
    return words, _TONES.get(words, "none")


def _may(request: HttpRequest, model: type[models.Model], what: str) -> bool:
    try:
        return bool(getattr(admin.site.get_model_admin(model), f"has_{what}_permission")(request))
    except NotRegistered:
        return False


def _add_url(request: HttpRequest, model: type[models.Model]) -> str:
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_add") if _may(request, model, "add") else ""


def _list_url(request: HttpRequest, model: type[models.Model]) -> str:
    name = f"admin:{model._meta.label_lower.replace('.', '_')}_changelist"
    return reverse(name) if _may(request, model, "view") else ""


def _row_url(request: HttpRequest, model: type[models.Model], key: Any) -> str:
    name = f"admin:{model._meta.label_lower.replace('.', '_')}_change"
    return reverse(name, args=[key]) if _may(request, model, "view") else ""


def short_count(number: int) -> str:
    """`12,345`, then `1.23M`."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{Decimal(number * 100 // size) / 100}{unit}"
    return f"{number:,}"


def usd(amount: Decimal) -> str:
    """`$1,234.50`; below a dollar as many digits as say something, so that a small cost is not shown as nothing."""
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    places = min(max(2, 1 - amount.adjusted()), 9)  # the ledger has nine
    return f"${amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_UP):f}"
