"""Whether the ledger, the counters and what is shown of them say the same: asked of the database itself, in SQL of its
own, so that no query of Quiver's can be wrong in the same way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import redis

from billing.limit_plans import keys_of
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

REST_SECONDS = 150.0

# For each counter: what the ledger charges in all, that part of it which live pools account for, and its counter.
BOOKS = """
SELECT l.scope, l.scope_id, l.measure, l.period,
    floor(l.amount * CASE l.measure WHEN 'usd' THEN 1e9 ELSE 1 END)::bigint,
    ledger.total::bigint, ledger.live::bigint, c.settled, c.granted,
    (SELECT coalesce(sum(g.given), 0)::bigint FROM billing_grant g
        WHERE g.limit_id = c.limit_id AND g.period_start = c.period_start)
FROM billing_counter c
JOIN billing_limit l ON l.id = c.limit_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(n), 0) AS total, coalesce(sum(n) FILTER (WHERE is_live), 0) AS live
    FROM (
        SELECT CASE l.measure WHEN 'tokens' THEN u.tokens WHEN 'usd' THEN u.cost_usd * 1e9
                WHEN 'requests' THEN CASE WHEN u.cached < u.items THEN 1 ELSE 0 END END AS n,
            u.pool IN (SELECT id FROM billing_pool) AS is_live
        FROM billing_usagerow u
        WHERE u.tenant_id = l.tenant_id AND u.status = 'ok' AND u.source NOT IN ('adjustment', 'replay')
            AND date_trunc(l.period, u.created_at AT TIME ZONE 'UTC') = c.period_start
            AND (l.scope = 'tenant' OR l.scope = 'agent' AND u.agent_id = l.scope_id
                OR l.scope = 'key' AND u.key_id IN (SELECT m.id FROM tenants_apikey m, tenants_apikey o
                    WHERE o.id::text = l.scope_id AND o.lines[1] = ANY(m.lines))
                OR l.scope = 'model' AND u.model_id IN
                    (SELECT m.model_id FROM tenants_tenantmodel m WHERE m.id::text = l.scope_id))
    ) AS rows
) AS ledger
WHERE l.tenant_id = '{tenant}'
"""
LOST = "SELECT count(*) FROM billing_pool WHERE tenant_id = '{tenant}' AND (kind <> 'redis' OR closed_at IS NOT NULL)"


@dataclass(frozen=True)
class Book:
    """One limit's period, in the limit's own unit."""

    scope: str
    scope_id: str
    measure: str
    period: str
    limit: int
    charged: int  # by the ledger
    charged_by_live: int
    settled: int
    granted: int
    given: int

    @property
    def shown(self) -> int | str:
        """What is charged, as it is shown outside."""
        return str(Decimal(self.charged).scaleb(-9)) if self.measure == "usd" else self.charged

    @property
    def adds_up(self) -> bool:
        return self.settled == self.charged - self.charged_by_live and self.granted == self.given


@dataclass(frozen=True)
class Caller:
    """A tenant, who looks after it, and a key of an agent of its that asks."""

    tenant: str
    admin_key: str
    tenant_model_id: str
    key: str
    key_id: str
    agent_id: str = "crawler"

    def scope_id(self, scope: str) -> str:
        known = {"tenant": "", "model": self.tenant_model_id, "agent": self.agent_id, "key": self.key_id}
        return known[scope]


def add_caller(platform: Platform, slug: str, model_id: str) -> Caller:
    """A new tenant that has never asked anything."""
    tenant, admin_key = platform.add_tenant(slug)
    configured = platform.configure(admin_key, model_id)
    minted = platform.mint(tenant, "embeddings", agent_id="crawler")
    return Caller(tenant, admin_key, configured["id"], minted["key"], minted["id"])


def add_limit(
    platform: Platform, who: Caller, measure: str, period: str, amount: int | str, scope: str = "tenant", **more: Any
) -> str:
    """Its id; money as a decimal string."""
    words = {"scope": scope, "scope_id": who.scope_id(scope), "measure": measure, "period": period, **more}
    found: str = platform.operate("POST", "/limits", {"amount": str(amount), **words}, who.admin_key)["id"]
    return found


def books(platform: Platform, tenant: str) -> list[Book]:
    return [Book(*row) for row in platform.rows(BOOKS.format(tenant=tenant))]


def holds(platform: Platform, tenant: str) -> int:
    """How many are there, also those that nobody will settle."""
    client: Any = redis.from_url(platform.environment["REDIS_URL"])
    with client:
        return int(client.zcard(keys_of(UUID(tenant))[1]))


def bring_to_rest(platform: Platform, who: Caller) -> None:
    """Waits until every lease has run out and the worker has counted what was lost."""

    def is_at_rest() -> bool:
        return platform.rows(LOST.format(tenant=who.tenant))[0][0] == 0 and holds(platform, who.tenant) == 0

    eventually(is_at_rest, REST_SECONDS)


def check_books(platform: Platform, who: Caller, *, may_pass: bool = False) -> None:
    """sum(ledger) == counters == what is shown, for all limits of a tenant whose requests are over. While a pool is
    being counted (it is when a limit is new) its grants are shown as held, so this waits until it is done."""
    eventually(lambda: holds(platform, who.tenant) == 0, REST_SECONDS)
    for book in books(platform, who.tenant):
        assert may_pass or book.charged <= book.limit, book
    deadline = time.monotonic() + REST_SECONDS
    while wrong := differences(platform, who):
        assert time.monotonic() < deadline, wrong
        time.sleep(0.2)


def differences(platform: Platform, who: Caller) -> list[object]:
    """What does not agree."""
    found = books(platform, who.tenant)
    wrong: list[object] = [each for each in found if not each.adds_up]
    by_kind = {(each.scope, f"{each.measure}_per_{each.period}"): each for each in found}
    for shown in shown_to(platform, who):
        book = by_kind[shown["scope"], shown["kind"]]
        if (_plain(shown["used"]), _plain(shown["held"])) != (_plain(book.shown), 0):
            wrong.append((shown, book))
    return wrong


def shown_to(platform: Platform, who: Caller) -> list[dict[str, Any]]:
    """Limits per day and month as the quotas endpoint and the estimates tell of them."""
    answer = platform.ask("POST", "/v1/embeddings/estimate", {"input": "a text that nobody knows"}, who.key)
    assert answer.status == 200, answer.body
    quotas = platform.operate("GET", "/tenant-models/quotas", key=who.admin_key)
    whole = [("tenant", each) for each in quotas["tenant"]]
    whole += [("model", each) for model in quotas["models"] for each in model["limits"]]
    told = [{**each, "scope": scope, "kind": f"{each['measure']}_per_{each['period']}"} for scope, each in whole]
    return [each for each in (*answer.json["limits"], *told) if not each["kind"].endswith("_minute")]


def _plain(figure: int | str) -> int | Decimal:
    return Decimal(figure) if isinstance(figure, str) else figure
