"""Agents together with the budget that they set for themselves. Doors write agents through here.

Decides that `monthly_budget_usd` of an agent's preferences is a hard limit of the agent's own, beside those that the
tenant set for it: both hold, so that an agent can only narrow what it may spend. What the tenant set stays when an
agent goes. Every function is one transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from django.db import transaction

from billing.models import Limit
from billing.services import keep_limit
from core.money import usd_from_nano
from tenants import agents
from tenants.models import Agent


@transaction.atomic
def add_agent(*, tenant_id: UUID, agent_id: str, **facts: Unpack[agents.AgentFacts]) -> Agent:
    """A new agent, or `AlreadyExists`."""
    row = agents.add_agent(tenant_id=tenant_id, agent_id=agent_id, **facts)
    _keep_budget(row)
    return row


@transaction.atomic
def register_agent(
    *, tenant_id: UUID, agent_id: str, seen_at: datetime | None = None, **facts: Unpack[agents.AgentFacts]
) -> tuple[Agent, bool]:
    """An agent introduces itself: the row, and whether it is here for the first time."""
    row, is_new = agents.register_agent(tenant_id=tenant_id, agent_id=agent_id, seen_at=seen_at, **facts)
    if "preferences" in facts:
        _keep_budget(row)
    return row, is_new


@transaction.atomic
def change_agent(*, tenant_id: UUID, agent_id: str, **facts: Unpack[agents.AgentFacts]) -> Agent:
    """Changes what is given."""
    row = agents.change_agent(tenant_id=tenant_id, agent_id=agent_id, **facts)
    if "preferences" in facts:
        _keep_budget(row)
    return row


@transaction.atomic
def set_preferences(*, tenant_id: UUID, agent_id: str, preferences: object) -> Agent:
    """Replaces all preferences."""
    row = agents.set_preferences(tenant_id=tenant_id, agent_id=agent_id, preferences=preferences)
    _keep_budget(row)
    return row


@transaction.atomic
def remove_agent(*, tenant_id: UUID, agent_id: str) -> None:
    """Forgets an agent and what it set for itself."""
    agents.remove_agent(tenant_id=tenant_id, agent_id=agent_id)
    keep_limit(_own_budget(tenant_id, agent_id), None)


def _keep_budget(row: Agent) -> None:
    """Makes the limit what the preferences say."""
    nano = agents.preferences_of(row).monthly_budget_nano
    keep_limit(_own_budget(row.tenant_id, row.agent_id), None if nano is None else usd_from_nano(nano))


def _own_budget(tenant_id: UUID, agent_id: str) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "scope": Limit.Scope.AGENT,
        "scope_id": agent_id,
        "measure": Limit.Measure.USD,
        "period": Limit.Period.MONTH,
        "mode": Limit.Mode.HARD,
        "origin": Limit.Origin.AGENT,
    }
