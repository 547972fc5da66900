"""Who may call what: one line for each route and method of `/api/v1`. A route without a line fails the build.

A line is `METHOD route: scope` and, where the path names a row, whose kind of row that is. `{…}` in a body is the id of
such a row, too. Bodies are whole, so that a refusal is about who asks, not about what.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OPERATOR = "operator"


@dataclass(frozen=True)
class Line:
    """One route with one method."""

    method: str
    route: str
    scope: str
    row: str = ""  # the kind of row that the path names; empty: none
    body: dict[str, Any] | None = None
    query: str = ""
    is_tenants: bool = True  # whether the row is a tenant's
    is_streamed: bool = False  # then what is in it is looked at in `test_streams`
    also: dict[str, str] = field(default_factory=dict)  # further parameters of the path


_MODEL = {"provider": "vendor", "model_name": "new", "model_identifier": "new", "dimensions": 8}
_LIMIT = {"scope": "tenant", "measure": "tokens", "period": "day", "amount": "1000"}
_CHANNEL = {"name": "on call", "targets": ["oncall@example.com"]}
_OWN = {"provider": "vendor", "secret": {"api_key": "sk-mine"}, "label": "mine"}
_PLATFORMS = {"is_tenants": False}

LINES = [
    Line("GET", "own-tenant", "usage:read"),
    Line("PATCH", "own-tenant", "admin", body={"name": "Renamed"}),
    Line("GET", "quotas", "usage:read"),
    Line("GET", "tenant-model-usage", "usage:read", query="period=month"),
    Line("GET", "usage", "usage:read", query="granularity=hour&group_by=model"),
    Line("GET", "usage-export", "usage:read", is_streamed=True),
    Line("GET", "agent-models", "models:read", "agent"),
    Line("GET", "providers-health", OPERATOR),
    Line("POST", "provider-breaker", OPERATOR, "provider", {"state": "auto"}, **_PLATFORMS),
    Line("POST", "select", "models:read", body={"token_estimate": 3}),
    Line("GET", "tenant-list", OPERATOR),
    Line("POST", "tenant-list", OPERATOR, body={"name": "New", "slug": "new"}),
    Line("GET", "tenant-detail", OPERATOR, "tenant"),
    Line("PATCH", "tenant-detail", OPERATOR, "tenant", {"name": "Taken"}),
    Line("GET", "export-tenant", OPERATOR, "tenant", is_streamed=True),
    Line("POST", "erase-tenant", OPERATOR, "tenant", {"slug": "globex"}),
    Line("GET", "member-list", "admin"),
    Line("GET", "member-detail", "admin", "member"),
    Line("PATCH", "member-detail", "admin", "member", {"role": "viewer"}),
    Line("DELETE", "member-detail", "admin", "member"),
    Line("GET", "tenant-invitation-list", "admin"),
    Line("POST", "tenant-invitation-list", "admin", body={"email": "new@example.com", "role": "viewer"}),
    Line("GET", "tenant-invitation-detail", "admin", "invitation"),
    Line("DELETE", "tenant-invitation-detail", "admin", "invitation"),
    Line("GET", "api-key-list", "keys:write"),
    Line("POST", "api-key-list", "keys:write", body={"name": "new", "scopes": ["keys:write"]}),
    Line("GET", "api-key-detail", "keys:write", "key"),
    Line("PATCH", "api-key-detail", "keys:write", "key", {"name": "taken"}),
    Line("DELETE", "api-key-detail", "keys:write", "key"),
    Line("POST", "api-key-rotate", "keys:write", "key", {"overlap_seconds": 60}),
    Line("GET", "provider-list", "models:read"),
    Line("POST", "provider-list", OPERATOR, body={"slug": "new", "kind": "openai", "secret": {"api_key": "sk-new"}}),
    Line("GET", "provider-detail", "models:read", "provider", **_PLATFORMS),
    Line("PATCH", "provider-detail", OPERATOR, "provider", {"timeout_s": 5}, **_PLATFORMS),
    Line("DELETE", "provider-detail", OPERATOR, "provider", **_PLATFORMS),
    Line("GET", "provider-credentials", OPERATOR, "provider", **_PLATFORMS),
    Line("POST", "provider-credentials", OPERATOR, "provider", {"secret": {"api_key": "sk-new"}}, **_PLATFORMS),
    Line("DELETE", "provider-remove-credential", OPERATOR, "provider", also={"credential_id": "credential"},
         **_PLATFORMS),
    Line("POST", "provider-test", OPERATOR, "provider", **_PLATFORMS),
    Line("GET", "provider-tested", OPERATOR, "provider", also={"test_id": "nothing"}, **_PLATFORMS),
    Line("GET", "catalog-list", "models:read"),
    Line("POST", "catalog-list", OPERATOR, body=_MODEL),
    Line("GET", "catalog-detail", "models:read", "model", **_PLATFORMS),
    Line("PUT", "catalog-detail", OPERATOR, "model", _MODEL, **_PLATFORMS),
    Line("PATCH", "catalog-detail", OPERATOR, "model", {"max_tokens": 4000}, **_PLATFORMS),
    Line("DELETE", "catalog-detail", OPERATOR, "model", **_PLATFORMS),
    Line("GET", "catalog-events", OPERATOR, "model", **_PLATFORMS),
    Line("GET", "catalog-prices", "models:read", "model", **_PLATFORMS),
    Line("POST", "catalog-prices", OPERATOR, "model", {"cost_per_million_tokens": "0.03", "source": "x"},
         **_PLATFORMS),
    Line("POST", "catalog-sunset", OPERATOR, "model", {"sunset_at": "2099-01-01T00:00:00Z", "reason": "x"},
         **_PLATFORMS),
    Line("POST", "catalog-transition", OPERATOR, "model", {"to": "deprecated", "reason": "x"}, **_PLATFORMS),
    Line("POST", "catalog-validate", OPERATOR, "model", **_PLATFORMS),
    Line("GET", "discovery-run-list", OPERATOR),
    Line("POST", "discovery-run-list", OPERATOR, body={"provider": "nobody"}),
    Line("GET", "discovery-run-detail", OPERATOR, "run", **_PLATFORMS),
    Line("POST", "discovery-run-apply", OPERATOR, "run", {"accept": []}, **_PLATFORMS),
    Line("GET", "tenant-model-list", "models:read"),
    Line("POST", "tenant-model-list", "models:write", body={"model_id": "{model}"}),
    Line("GET", "tenant-model-detail", "models:read", "tenant_model"),
    Line("PUT", "tenant-model-detail", "models:write", "tenant_model", {"model_id": "{model}", "priority": 4}),
    Line("PATCH", "tenant-model-detail", "models:write", "tenant_model", {"priority": 3}),
    Line("DELETE", "tenant-model-detail", "models:write", "tenant_model"),
    Line("POST", "tenant-model-disable", "models:write", "tenant_model"),
    Line("POST", "tenant-model-enable", "models:write", "tenant_model"),
    Line("POST", "tenant-model-set-default", "models:write", "tenant_model"),
    Line("GET", "provider-credential-list", "models:read"),
    Line("POST", "provider-credential-list", "admin", body=_OWN),
    Line("GET", "provider-credential-detail", "models:read", "own_credential"),
    Line("PUT", "provider-credential-detail", "admin", "own_credential", _OWN),
    Line("PATCH", "provider-credential-detail", "admin", "own_credential", {"label": "taken"}),
    Line("DELETE", "provider-credential-detail", "admin", "own_credential"),
    Line("POST", "provider-credential-test", "admin", "own_credential"),
    Line("GET", "provider-credential-tested", "models:read", "own_credential", also={"test_id": "nothing"}),
    Line("GET", "agent-list", "agents:write"),
    Line("POST", "agent-list", "agents:write", body={"agent_id": "{agent}"}),
    Line("GET", "agent-detail", "agents:write", "agent"),
    Line("PATCH", "agent-detail", "agents:write", "agent", {"name": "taken"}),
    Line("DELETE", "agent-detail", "agents:write", "agent"),
    Line("GET", "agent-costs", "usage:read", "agent"),
    Line("GET", "agent-preferences", "agents:write", "agent"),
    Line("PUT", "agent-preferences", "agents:write", "agent", {"strategy": "cost"}),
    Line("GET", "limit-list", "usage:read"),
    Line("POST", "limit-list", "billing:write", body=_LIMIT),
    Line("GET", "limit-detail", "usage:read", "limit"),
    Line("PUT", "limit-detail", "billing:write", "limit", _LIMIT),
    Line("PATCH", "limit-detail", "billing:write", "limit", {"amount": "2000"}),
    Line("DELETE", "limit-detail", "billing:write", "limit"),
    Line("GET", "budget-list", "usage:read"),
    Line("POST", "budget-list", "billing:write", body={"scope": "tenant", "period": "day", "amount": "10"}),
    Line("GET", "budget-detail", "usage:read", "budget"),
    Line("PATCH", "budget-detail", "billing:write", "budget", {"amount": "2000"}),
    Line("DELETE", "budget-detail", "billing:write", "budget"),
    Line("GET", "alert-list", "usage:read"),
    Line("GET", "alert-detail", "usage:read", "alert"),
    Line("POST", "alert-acknowledge", "billing:write", "alert"),
    Line("GET", "alert-channel-list", "usage:read"),
    Line("POST", "alert-channel-list", "billing:write", body=_CHANNEL),
    Line("GET", "alert-channel-detail", "usage:read", "channel"),
    Line("PUT", "alert-channel-detail", "billing:write", "channel", _CHANNEL),
    Line("PATCH", "alert-channel-detail", "billing:write", "channel", {"is_enabled": False}),
    Line("DELETE", "alert-channel-detail", "billing:write", "channel"),
    Line("POST", "alert-channel-test", "billing:write", "channel"),
    Line("POST", "alert-channel-renew-secret", "billing:write", "channel"),
    Line("GET", "audit-event-list", "admin"),
    Line("GET", "audit-event-detail", "admin", "event"),
    Line("GET", "audit-export", "admin", is_streamed=True),
    Line("GET", "usage-record-list", "usage:read"),
    Line("GET", "usage-record-detail", "usage:read", "usage"),
]  # fmt: skip
