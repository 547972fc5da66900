"""The only writer of agents. An agent's own budget is a limit, so who sets preferences goes through `billing.agents`.

Every function is one transaction. The tenant's version rises when the data plane would see a difference: an agent comes
or goes, or its preferences change. A fleet that registers again after a restart, or says that it is busy, changes
nothing there and does not make all workers read anew. Who raises the version holds the tenant's row, so that two
registrations of one id end in one row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from audit.facts import Facts, difference
from audit.facts import facts as facts_of
from audit.services import record
from core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from tenants import preferences as rules
from tenants.models import Agent
from tenants.preferences import Preferences
from tenants.selectors import agents_of, configured_models
from tenants.services import hold_tenant, tenant_changed

MOST_AGENTS = 10_000  # of one tenant: the data plane holds them all in memory
MAX_METADATA_BYTES = 16 * 1024
MOST_CAPABILITIES, MOST_LETTERS = 100, 100
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # in JSON text; PostgreSQL takes none
_WORDS = ("agent_type", "name", "version")


class AgentFacts(TypedDict, total=False):
    """What is said of an agent. `preferences` are as they came, and replace those there were."""

    agent_type: str
    name: str
    version: str
    capabilities: Sequence[str]
    metadata: Mapping[str, Any]
    status: str
    preferences: Mapping[str, Any]


@transaction.atomic
def add_agent(*, tenant_id: UUID, agent_id: str, **facts: Unpack[AgentFacts]) -> Agent:
    """A new agent, or `AlreadyExists`."""
    _check_id(agent_id)
    tenant_changed(tenant_id)
    if _named(tenant_id, agent_id).exists():
        raise AlreadyExists(f"There is an agent {agent_id!r} already; PATCH that one.", param="agent_id")
    row = _insert(tenant_id, agent_id, facts, None)
    _record("added", row, after=facts_of(row))
    return row


@transaction.atomic
def register_agent(
    *, tenant_id: UUID, agent_id: str, seen_at: datetime | None = None, **facts: Unpack[AgentFacts]
) -> tuple[Agent, bool]:
    """An agent introduces itself: the row, changed by what is given, and whether it is here for the first time, which
    it is also where somebody else had added it."""
    _check_id(agent_id)
    facts = _only_news(tenant_id, agent_id, facts)
    row = _held(tenant_id, agent_id)
    if row is None:
        tenant_changed(tenant_id)
        row = _held(tenant_id, agent_id)  # another connection may have been faster
    if row is None:
        row = _insert(tenant_id, agent_id, facts, seen_at)
        _record("added", row, after=facts_of(row))
        return row, True
    before, is_new = facts_of(row), row.last_seen_at is None
    row = _change(row, facts, seen_at)
    was, now = difference(before, facts_of(row))
    if {*(was or {}), *(now or {})} - {"status"}:  # a fleet that comes back after a restart is no news
        _record("changed", row, before=before, after=facts_of(row))
    return row, is_new


@transaction.atomic
def change_agent(*, tenant_id: UUID, agent_id: str, **facts: Unpack[AgentFacts]) -> Agent:
    """Changes what is given."""
    facts = _only_news(tenant_id, agent_id, facts)
    row = _held(tenant_id, agent_id)
    if row is None:
        raise _missing(agent_id)
    before = facts_of(row)
    row = _change(row, facts, None)
    _record("changed", row, before=before, after=facts_of(row))
    return row


@transaction.atomic
def set_preferences(*, tenant_id: UUID, agent_id: str, preferences: object) -> Agent:
    """Replaces all preferences. A refusal names the field as it stands in `preferences`."""
    tenant_changed(tenant_id)
    row = _held(tenant_id, agent_id)
    if row is None:
        raise _missing(agent_id)
    before = facts_of(row)
    row.preferences = rules.to_json(_checked(tenant_id, preferences, within=""))
    row.save(update_fields=["preferences", "updated_at"])
    _record("changed", row, before=before, after=facts_of(row))
    return row


@transaction.atomic
def remove_agent(*, tenant_id: UUID, agent_id: str) -> None:
    """Forgets an agent. Its usage stays in the ledger, and keys that are bound to it stay bound."""
    tenant_changed(tenant_id)
    row = _held(tenant_id, agent_id)
    if row is None:
        raise _missing(agent_id)
    _record("removed", row, before=facts_of(row))
    row.delete()


@transaction.atomic
def record_presence(*, tenant_id: UUID, agent_ids: Collection[str], at: datetime, status: str | None = None) -> int:
    """Notes that agents were heard of, and how they are: one statement for many heartbeats. Returns how many are
    known."""
    changes: dict[str, Any] = {"last_seen_at": at} | ({} if status is None else {"status": _status(status)})
    return agents_of(tenant_id).filter(agent_id__in=agent_ids).update(**changes)


def hold_agent(tenant_id: UUID, agent_id: str) -> None:
    """Makes all who change an agent wait until this transaction ends."""
    hold_tenant(tenant_id)
    _held(tenant_id, agent_id)


def find_agent(tenant_id: UUID, agent_id: str) -> Agent:
    """The tenant's own row, or `NotFound`."""
    row = _named(tenant_id, agent_id).first()
    if row is None:
        raise _missing(agent_id)
    return row


def preferences_of(row: Agent) -> Preferences:
    """What the row's agent prefers."""
    return rules.parse(row.preferences)


def _record(what: str, row: Agent, **sides: Facts) -> None:
    record(f"agent.{what}", tenant_id=row.tenant_id, subject="agent", subject_id=row.agent_id, **sides)


def _insert(tenant_id: UUID, agent_id: str, facts: AgentFacts, seen_at: datetime | None) -> Agent:
    if agents_of(tenant_id).count() >= MOST_AGENTS:
        raise Conflict(f"A tenant has at most {MOST_AGENTS:,} agents; remove those that are gone.")
    row = Agent(tenant_id=tenant_id, agent_id=agent_id, last_seen_at=seen_at)
    _apply(row, facts)
    row.save(force_insert=True)
    return row


def _change(row: Agent, facts: AgentFacts, seen_at: datetime | None) -> Agent:
    changed = [*facts, "updated_at"]
    if seen_at is not None:
        row.last_seen_at = seen_at
        changed.append("last_seen_at")
    _apply(row, facts)
    row.save(update_fields=changed)
    return row


def _apply(row: Agent, facts: AgentFacts) -> None:
    for name in _WORDS:
        if name in facts:
            setattr(row, name, _words(name, facts[name]))  # type: ignore[literal-required]
    if "capabilities" in facts:
        row.capabilities = _capabilities(facts["capabilities"])
    if "metadata" in facts:
        row.metadata = _metadata(facts["metadata"])
    if "status" in facts:
        row.status = _status(facts["status"])
    if "preferences" in facts:
        row.preferences = rules.to_json(_checked(row.tenant_id, facts["preferences"], within="preferences"))
    row.full_clean(validate_unique=False, validate_constraints=False)


def _checked(tenant_id: UUID, raw: object, *, within: str) -> Preferences:
    found = rules.parse(raw, within=within)
    rules.check_models(found, names_of_models(tenant_id), within=within)
    return found


def names_of_models(tenant_id: UUID) -> set[str]:
    """All names by which a caller may mean a model that the tenant has configured, as in the data plane."""
    found: set[str] = set()
    rows = configured_models(tenant_id).exclude(model__state="removed")
    for name, identifier, provider in rows.values_list("model__name", "model__identifier", "model__provider__slug"):
        found |= {name, identifier, f"{provider}/{name}", f"{provider}/{identifier}"}
    return found


def _only_news(tenant_id: UUID, agent_id: str, facts: AgentFacts) -> AgentFacts:
    """The facts without preferences that are those there were; if others come, the tenant's row is held from here."""
    row = None if "preferences" not in facts else _named(tenant_id, agent_id).first()
    if row is None:
        return facts
    if rules.parse(facts["preferences"]) != preferences_of(row):
        tenant_changed(tenant_id)
        return facts
    # Not written again: who changes them at this moment has the last word, and has raised the version.
    return {name: value for name, value in facts.items() if name != "preferences"}  # type: ignore[return-value]


def _held(tenant_id: UUID, agent_id: str) -> Agent | None:
    return _named(tenant_id, agent_id).select_for_update(no_key=True).first()


def _named(tenant_id: UUID, agent_id: str) -> QuerySet[Agent]:
    # What cannot be an id is not asked for: PostgreSQL would refuse a NUL with an error of its own.
    return agents_of(tenant_id).filter(agent_id=agent_id) if agent_id.isprintable() else Agent.objects.none()


def _check_id(agent_id: str) -> None:
    if not 1 <= len(agent_id) <= 200 or not agent_id.isprintable() or agent_id != agent_id.strip():
        raise InvalidRequest(
            "`agent_id` is 1 to 200 printable characters, without a space at either end.", param="agent_id"
        )
    if "/" in agent_id or not agent_id.strip("."):
        raise InvalidRequest("`agent_id` stands in addresses: no slash, and not dots alone.", param="agent_id")


def _words(name: str, text: str) -> str:
    if text and not text.isprintable():
        raise InvalidRequest(f"`{name}` is printable characters in one line.", param=name)
    return text


def _capabilities(given: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(given))
    is_sound = all(1 <= len(each) <= MOST_LETTERS and each.isprintable() for each in found)
    if len(found) > MOST_CAPABILITIES or not is_sound:
        raise InvalidRequest(
            f"`capabilities` are at most {MOST_CAPABILITIES} words of 1 to {MOST_LETTERS} printable characters.",
            param="capabilities",
        )
    return found


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(dict(given), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:  # NaN, half of a surrogate pair, bytes, no end
        raise InvalidRequest("`metadata` cannot be written as JSON.", param="metadata") from error
    if size > MAX_METADATA_BYTES or _NUL.search(text):
        raise InvalidRequest(
            f"`metadata` is at most {MAX_METADATA_BYTES:,} bytes of JSON, without NUL characters.", param="metadata"
        )
    return dict(given)


def _status(given: str) -> str:
    if given not in Agent.Status.values:
        raise InvalidRequest(f"`status` is {', '.join(Agent.Status.values)}.", param="status")
    return given


def _missing(agent_id: str) -> NotFound:
    return NotFound(f"There is no agent {agent_id[:200]!r}.", param="agent_id")
