"""Routes of the control plane. Data-plane paths never come here: `config/asgi.py` takes them first."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.routers import SimpleRouter

from alerts.api import AlertViews, ChannelViews
from billing.api.agents import AgentViews
from billing.api.budgets import BudgetViews
from billing.api.limits import LimitViews
from billing.api.quotas import QuotaView
from billing.api.tenant_models import TenantModelViews
from billing.api.usage import ExportView, UsageViews
from billing.api.usage_sums import TenantModelUsageView, UsageView
from catalog.api import CatalogViews, ProviderViews
from catalog.discovery_api import DiscoveryRunViews
from embeddings.api import AgentModels, SelectModel
from embeddings.breaker_api import HoldBreakers, ProvidersHealth
from embeddings.erasure_api import EraseTenant, ExportTenant
from tenants.api import ApiKeyViews, TenantViews
from tenants.audit_api import EventViews, ExportEvents
from tenants.credential_api import OwnCredentialViews
from tenants.people import AskReset, InvitationPage, NewPasswordSet, ResetAsked, SetNewPassword
from tenants.people_api import InvitationViews, MemberViews, OwnTenantView

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("tenants", TenantViews, basename="tenant")
router.register("members", MemberViews, basename="member")
router.register("invitations", InvitationViews, basename="tenant-invitation")
router.register("api-keys", ApiKeyViews, basename="api-key")
router.register("embedding-models/providers", ProviderViews, basename="provider")
router.register("embedding-models/catalog", CatalogViews, basename="catalog")
router.register("embedding-models/discovery/runs", DiscoveryRunViews, basename="discovery-run")
router.register("tenant-models", TenantModelViews, basename="tenant-model")
router.register("provider-credentials", OwnCredentialViews, basename="provider-credential")
router.register("agents", AgentViews, basename="agent")
router.register("limits", LimitViews, basename="limit")
router.register("budgets", BudgetViews, basename="budget")
router.register("alerts", AlertViews, basename="alert")
router.register("alert-channels", ChannelViews, basename="alert-channel")
router.register("audit-events", EventViews, basename="audit-event")
router.register("usage/records", UsageViews, basename="usage-record")

urlpatterns = [
    # Before the admin, whose last route takes everything; the names are those that it links to.
    path("admin/password_reset/", AskReset.as_view(), name="admin_password_reset"),
    path("admin/password_reset/done/", ResetAsked.as_view(), name="password_reset_done"),
    path("admin/reset/<uidb64>/<token>/", SetNewPassword.as_view(), name="password_reset_confirm"),
    path("admin/reset/done/", NewPasswordSet.as_view(), name="password_reset_complete"),
    path("invitations/<str:token>", InvitationPage.as_view(), name="invitation"),
    path("admin/", admin.site.urls),
    path("api/v1/audit-events/export", ExportEvents.as_view(), name="audit-export"),
    path("api/v1/tenants/<uuid:pk>/export", ExportTenant.as_view(), name="export-tenant"),
    path("api/v1/tenants/<uuid:pk>/erase", EraseTenant.as_view(), name="erase-tenant"),
    path("api/v1/tenant", OwnTenantView.as_view({"get": "retrieve", "patch": "partial_update"}), name="own-tenant"),
    path("api/v1/tenant-models/quotas", QuotaView.as_view(), name="quotas"),
    path("api/v1/tenant-models/usage", TenantModelUsageView.as_view(), name="tenant-model-usage"),
    path("api/v1/usage", UsageView.as_view(), name="usage"),
    path("api/v1/usage/export.csv", ExportView.as_view(), name="usage-export"),
    path("api/v1/agents/<str:agent_id>/models", AgentModels.as_view(), name="agent-models"),
    path("api/v1/embedding-models/providers/health", ProvidersHealth.as_view(), name="providers-health"),
    path("api/v1/embedding-models/providers/<slug:slug>/breaker", HoldBreakers.as_view(), name="provider-breaker"),
    path("api/v1/embedding-models/select", SelectModel.as_view(), name="select"),
    path("api/v1/", include(router.urls)),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
]
handler403 = "config.problems.forbidden"
handler404 = "config.problems.not_found"
handler500 = "config.problems.defect"
