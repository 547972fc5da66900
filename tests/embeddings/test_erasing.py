"""A tenant is written out and erased: nothing of it is found again but what it used and what that cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import AsyncClient
from django_redis import get_redis_connection

from alerts.services import add_channel, raise_alert
from audit.models import AuditEvent
from billing.agents import add_agent
from billing.limit_plans import keys_of
from billing.models import Counter, Grant, IdempotencyClaim, Limit, Pool, ProviderCall, UsageRow
from billing.services import add_limit, change_configuration, configure_model
from core.clock import utc_now
from core.errors import Conflict
from core.ids import uuid7
from embeddings import erasing
from embeddings.cache_keys import KeyRing
from tenants.invitations import invite
from tenants.minting import mint_key
from tenants.models import ApiKey, Tenant, User
from tenants.rights import Rights
from tenants.services import change_tenant
from tests.admin.people import person
from tests.conftest import Party, make_party, owners_cursor

MARK = "zanzibar"
TENANTS = "/api/v1/tenants"


def furnish(party: Party, model: Any, mark: str) -> User:
    """Rows of every kind with this mark in each word that a tenant can choose, and keys in Redis; its owner."""
    tenant_id = party.id
    owner = person(f"owner@{mark}.test", **{str(tenant_id): "owner"})
    change_tenant(tenant_id=tenant_id, name=f"{mark} Ltd")
    row, _ = mint_key(tenant_id=tenant_id, name=f"{mark} key", rights=Rights(frozenset({"admin"})), created_by=owner)
    invite(tenant_id=tenant_id, email=f"newcomer@{mark}.test", role="viewer", by=owner)  # type: ignore[arg-type]
    configured = configure_model(tenant_id=tenant_id, model_id=model.id, limits={"daily_token_limit": 10_000})
    change_configuration(tenant_id=tenant_id, tenant_model_id=configured.id, limits={}, settings={"note": mark})
    bot, budget = f"{mark}-bot", {"monthly_budget_usd": "5"}
    add_agent(tenant_id=tenant_id, agent_id=bot, metadata={"of": mark}, preferences=budget)
    add_limit(tenant_id=tenant_id, scope="agent", scope_id=bot, measure="tokens", period="day", amount=Decimal(9))
    add_channel(tenant_id=tenant_id, name=f"{mark} people", targets=[f"oncall@{mark}.test"])
    raise_alert(tenant_id=tenant_id, kind="budget_warning", subject=f"{mark}-bot", title=f"{mark} spends", detail={})
    use(tenant_id, row.id, mark)
    LogEntry.objects.create(
        user=person(f"operator-{uuid4()}@quiver.test", is_operator=True),
        content_type_id=content_type_of(ApiKey),
        object_id=str(row.id),
        object_repr=f"{mark} key",
        action_flag=CHANGE,
    )
    session = SessionStore()
    session.update({"_auth_user_id": str(owner.pk), "note": mark})
    session.save()
    redis = get_redis_connection("default")
    redis.hset(keys_of(tenant_id)[0], "c:1", mark)
    redis.hset(keys_of(tenant_id)[1], "h:1", mark)
    ring = KeyRing(django_settings.QUIVER.encryption_keys)
    names = ring.keys(tenant_id, space="small", epoch=1, dimensions=8).of([f"{mark} {each}" for each in range(1500)])
    redis.mset(dict.fromkeys(names, mark.encode()))
    return owner


def content_type_of(model: Any) -> int:
    from django.contrib.contenttypes.models import ContentType

    return int(ContentType.objects.get_for_model(model).pk)


def use(tenant_id: Any, key_id: Any, mark: str) -> None:
    """Two requests of two days, the calls behind them, a claim, and what limits know of them."""
    for days in (0, 1):
        at = utc_now() - timedelta(days=days)
        row = UsageRow.objects.create(
            id=uuid7(int(at.timestamp() * 1000)),
            created_at=at,
            tenant_id=tenant_id,
            key_id=key_id,
            agent_id=f"{mark}-bot",
            task_type=mark,
            model="small",
            tokens=7,
            held_tokens=7,
            cost_usd=Decimal("0.125"),
        )
        ProviderCall.objects.create(
            id=uuid7(int(at.timestamp() * 1000)),
            created_at=at,
            tenant_id=tenant_id,
            request_id=row.id,
            model_id=row.id,
            model="small",
            provider="vendor",
            items=1,
            outcome="ok",
            detail=f"cannot embed {mark}",
            upstream_id=mark,
            latency_ms=1,
        )
    IdempotencyClaim.objects.create(
        tenant_id=tenant_id,
        key_digest=mark.encode().ljust(32),
        body_digest=bytes(32),
        request_id=uuid7(),
        created_at=utc_now(),
        lease_until=utc_now(),
        expires_at=utc_now() + timedelta(days=1),
        status=200,
        headers=[mark],
        answer=mark.encode(),
    )
    pool = Pool.objects.create(tenant_id=tenant_id, kind="redis", opened_at=utc_now(), used_at=utc_now())
    limit = Limit.objects.filter(tenant_id=tenant_id, period="day").first()
    assert limit is not None
    day = utc_now().date()
    Grant.objects.create(limit_id=limit.id, period_start=day, pool_id=pool.id, tenant_id=tenant_id, given=5)
    Counter.objects.get_or_create(limit_id=limit.id, period_start=day, defaults={"tenant_id": tenant_id})


def found_in_database(mark: str) -> dict[str, int]:
    """Rows in which a text, a JSON value, or the hex of bytes holds the mark, by table: all tables there are."""
    found = {}
    with owners_cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in cursor.fetchall():
            words = [f"%{mark}%", f"%{mark.encode().hex()}%"]
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text ILIKE %s OR t::text ILIKE %s', words)
            if count := cursor.fetchone()[0]:
                found[table] = count
    return found


def found_in_redis(mark: str) -> list[bytes]:
    redis = get_redis_connection("default")

    def whole(key: bytes) -> bytes:
        kind = redis.type(key)
        if kind == b"hash":
            return repr(redis.hgetall(key)).encode()
        return redis.get(key) if kind == b"string" else redis.dump(key)

    return [key for key in redis.scan_iter() if mark.encode() in key + whole(key)]


def columns_with_a_tenant() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.columns c JOIN pg_class p ON p.relname = c.table_name "
            "WHERE column_name = 'tenant_id' AND table_schema = 'public' AND NOT p.relispartition"
        )
        return {name for (name,) in cursor.fetchall()}


@pytest.fixture(autouse=True)
def empty_redis() -> Iterator[None]:
    get_redis_connection("default").flushdb()
    yield
    get_redis_connection("default").flushdb()


@pytest.fixture
def acme(db: None) -> Party:
    return make_party("acme")


@pytest.fixture
def mallory(db: None) -> Party:
    return make_party("mallory")


@pytest.fixture
def doomed(db: None, add_model: Callable[..., Any]) -> Party:
    """A suspended tenant with rows of every kind, beside one that has the same and stays."""
    model = add_model("small")
    party, other = make_party(MARK), make_party("globex")
    furnish(party, model, MARK)
    furnish(other, model, "tanganyika")
    change_tenant(tenant_id=party.id, is_suspended=True)
    Tenant.objects.filter(id=party.id).update(updated_at=utc_now() - timedelta(hours=1))
    return party


def test_what_is_erased_is_found_nowhere(doomed: Party) -> None:
    before, of_others = found_in_database(MARK), found_in_database("tanganyika")
    keys_of_others = sorted(found_in_redis("tanganyika"))
    assert {"tenants_tenant", "tenants_apikey", "tenants_agent", "billing_usagerow", "alerts_alert"} <= before.keys()
    assert len(found_in_redis(MARK)) == 1502
    erasing.erase(doomed.id)
    assert found_in_database(MARK) == {}
    kept = ("billing_usagerow", "billing_providercall", "audit_auditevent")  # and their partitions
    assert [name for name in found_in_database(str(doomed.id)) if not name.startswith(kept)] == []
    told = AuditEvent.objects.filter(subject_id=str(doomed.id))
    assert list(told.values_list("action", "tenant_id")) == [("tenant.erased", None)]
    assert found_in_redis(MARK) == []
    assert [key for key in get_redis_connection("default").scan_iter() if str(doomed.id).encode() in key] == []
    assert found_in_database("tanganyika") == of_others
    assert sorted(found_in_redis("tanganyika")) == keys_of_others


def test_what_it_used_and_what_that_cost_stays(doomed: Party) -> None:
    def books() -> list[Any]:
        columns = ("id", "created_at", "key_id", "model", "tokens", "cost_usd", "status")
        return list(UsageRow.objects.filter(tenant_id=doomed.id).order_by("id").values_list(*columns))

    before = books()
    assert len(before) == 2
    erasing.erase(doomed.id)
    assert books() == before
    assert set(UsageRow.objects.filter(tenant_id=doomed.id).values_list("agent_id", "task_type")) == {("", "")}
    assert ProviderCall.objects.filter(tenant_id=doomed.id).count() == 2
    erasing.erase(doomed.id)  # a task may run twice
    assert books() == before


def test_people_who_belong_elsewhere_as_well_stay(doomed: Party) -> None:
    both = person("both@example.com", **{str(doomed.id): "viewer", str(make_party("third").id): "viewer"})
    operator = person("op@example.com", is_operator=True, **{str(doomed.id): "viewer"})
    erasing.erase(doomed.id)
    assert set(User.objects.filter(id__in=[both.pk, operator.pk])) == {both, operator}
    assert not User.objects.filter(email=f"owner@{MARK}.test").exists()


def test_every_table_of_tenants_is_known(db: None) -> None:
    known = {model._meta.db_table for model, _ in erasing.tenant_tables()}
    assert known == columns_with_a_tenant()


def test_an_operator_erases_over_rest(doomed: Party, operator: Any, committed: Any, settings: Any) -> None:
    from config.celery import app

    url = f"{TENANTS}/{doomed.id}"
    assert operator.post(f"{url}/erase", {"slug": "acme"}).json()["errors"].keys() == {"slug"}
    app.conf.task_always_eager = True
    try:
        with committed():
            assert operator.post(f"{url}/erase", {"slug": MARK}).status_code == 202
            assert operator.get(url).status_code == 200
    finally:
        app.conf.task_always_eager = False
    assert operator.get(url).status_code == 404
    assert doomed.api.get("/api/v1/tenant").status_code == 401


def test_only_who_has_been_suspended_for_a_while_is_erased(acme: Party, operator: Any) -> None:
    url = f"{TENANTS}/{acme.id}"
    asked = operator.post(f"{url}/erase", {"slug": "acme"})
    assert (asked.status_code, asked.json()["code"]) == (409, "conflict")
    operator.patch(url, {"is_suspended": True})
    asked = operator.post(f"{url}/erase", {"slug": "acme"})
    assert (asked.status_code, "under way" in asked.json()["detail"]) == (409, True)
    assert int(asked["Retry-After"]) > 0
    change_tenant(tenant_id=acme.id, is_suspended=False)
    with pytest.raises(Conflict):
        erasing.erase(acme.id)
    assert acme.api.get("/api/v1/tenant").status_code == 200


def test_the_export_holds_all_rows_and_no_secret(doomed: Party) -> None:
    lines = [json.loads(line) for line in erasing.export(doomed.id)]
    rows = {(each["table"], str(each["row"].get("id"))): each["row"] for each in lines}
    assert rows["tenants.Tenant", str(doomed.id)]["slug"] == MARK
    tables = {table for table, _ in rows}
    assert {"tenants.User", "tenants.ApiKey", "tenants.Agent", "billing.Limit", "billing.UsageRow"} <= tables
    assert {str(each["row"].get("tenant_id", doomed.id)) for each in lines} == {str(doomed.id)}
    assert not [name for each in lines for name in each["row"] if name in ("digest", "password", "sealed", "answer")]
    text = json.dumps(lines)
    assert doomed.key not in text
    assert "tanganyika" not in text


def test_a_command_does_both(doomed: Party) -> None:
    out = StringIO()
    call_command("tenant", "export", MARK, stdout=out)
    assert MARK in out.getvalue()
    with pytest.raises(CommandError, match="not the slug"):
        call_command("tenant", "erase", MARK)
    call_command("tenant", "erase", MARK, "--confirm", MARK, stdout=StringIO())
    assert not Tenant.objects.filter(slug=MARK).exists()
    with pytest.raises(CommandError, match="There is no tenant"):
        call_command("tenant", "export", MARK)


@pytest.mark.django_db(transaction=True)
async def test_the_export_is_streamed(mint: Callable[..., str]) -> None:
    from asgiref.sync import sync_to_async

    acme = await sync_to_async(make_party)("acme")
    key = await sync_to_async(mint)(None, "operator")
    answer = await AsyncClient().get(f"{TENANTS}/{acme.id}/export", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    lines = "".join([part.decode() async for part in answer.streaming_content]).splitlines()  # type: ignore[attr-defined]
    tables = [json.loads(each)["table"] for each in lines]
    assert (tables[0], "tenants.ApiKey" in tables) == ("tenants.Tenant", True)


def test_mallory_exports_and_erases_nobody(doomed: Party, mallory: Party) -> None:
    for tenant_id in (doomed.id, mallory.id):
        url = f"{TENANTS}/{tenant_id}"
        refused = [mallory.api.get(f"{url}/export"), mallory.api.post(f"{url}/erase", {"slug": MARK})]
        assert {each.status_code for each in refused} == {403}
    assert Tenant.objects.filter(id=doomed.id).exists()
