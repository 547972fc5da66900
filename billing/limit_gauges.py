"""The metrics of how full quotas and budgets are, set where all of them are looked at anyway: by beat, each minute.

Decides that of several limits with the same labels the fullest is shown, and that shadows, which refuse nobody, are
not. A limit that went while nobody looked is shown as it was last until the processes' files are cleared at a start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from django.conf import settings
from prometheus_client import Gauge

from billing.models import Limit
from billing.refusals import quota_type
from billing.standing import LimitStanding
from core import metrics
from core.metrics import BoundedLabel
from tenants.models import Tenant, TenantModel

_slug = BoundedLabel(settings.QUIVER.metric_tenants)
_shown: dict[Gauge, set[tuple[str, ...]]] = {metrics.quota_usage: set(), metrics.budget_usage: set()}
_SCOPES = (Limit.Scope.TENANT, Limit.Scope.MODEL)


def observe_quotas(found: Iterable[LimitStanding]) -> None:
    """Tokens and requests, of whole tenants (no model) and of their models."""
    limits = [each for each in found if each.measure != Limit.Measure.USD and each.scope in _SCOPES]
    ids = [UUID(each.scope_id) for each in limits if each.scope == Limit.Scope.MODEL]
    models = dict(TenantModel.objects.filter(id__in=ids).values_list("id", "model__name"))
    slugs = _slugs(limits)
    _show(
        metrics.quota_usage,
        [
            ((slugs[each.tenant_id], _model(each, models), quota_type(each.period)), each)
            for each in limits
            if each.tenant_id in slugs
        ],
    )


def observe_budgets(found: Iterable[LimitStanding]) -> None:
    """USD of whole tenants."""
    limits = [each for each in found if each.measure == Limit.Measure.USD and each.scope == Limit.Scope.TENANT]
    slugs = _slugs(limits)
    _show(metrics.budget_usage, [((slugs[each.tenant_id],), each) for each in limits if each.tenant_id in slugs])


def _show(gauge: Gauge, labelled: Iterable[tuple[tuple[str, ...], LimitStanding]]) -> None:
    ratios: dict[tuple[str, ...], float] = {}
    for labels, limit in labelled:
        if limit.mode != Limit.Mode.SHADOW:
            ratio = limit.used / limit.amount if limit.amount else 1.0
            ratios[labels] = max(ratio, ratios.get(labels, 0.0))
    for labels in _shown[gauge] - ratios.keys():  # a limit that is gone: shared files forget nothing
        gauge.labels(*labels).set(0)
    for labels, ratio in ratios.items():
        gauge.labels(*labels).set(ratio)
    _shown[gauge] |= ratios.keys()


def _slugs(limits: Iterable[LimitStanding]) -> Mapping[UUID, str]:
    rows = Tenant.objects.filter(id__in={each.tenant_id for each in limits}).order_by("created_at", "id")
    return {tenant_id: _slug(slug) for tenant_id, slug in rows.values_list("id", "slug")}


def _model(limit: LimitStanding, models: Mapping[UUID, str]) -> str:
    return models.get(UUID(limit.scope_id), "") if limit.scope == Limit.Scope.MODEL else ""
