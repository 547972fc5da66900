"""What a new platform starts with, and that starting again changes nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django_celery_beat.models import PeriodicTask

from catalog.loading import catalog_version, load_catalog
from catalog.models import EmbeddingModel
from catalog.services import change_model, remove_model
from catalog.upstreams import change_provider
from config.celery import app
from config.seed import ADMIN_EMAIL, MODELS, seed
from core.clock import utc_now
from core.money import nano_from_usd
from providers.local_models import available_models
from tenants.models import ApiKey, Tenant, User
from tenants.services import remove_configuration, set_password

pytestmark = pytest.mark.django_db
TABLES = ("catalog", "tenants", "alerts", "billing", "django_celery_beat")


def everything() -> dict[str, list[Any]]:
    """All rows of our tables."""
    found = {}
    with connection.cursor() as cursor:
        for label in TABLES:
            for model in apps.get_app_config(label).get_models():
                table = model._meta.db_table
                cursor.execute(f'SELECT to_jsonb(t)::text FROM "{table}" t ORDER BY 1')
                found[table] = cursor.fetchall()
    return found


def test_a_new_platform_can_be_used_at_once(as_key: Any) -> None:
    said = seed(demo=True, previous=None)
    assert User.objects.get(email=said["admin_email"]).check_password(said["admin_password"])
    assert as_key(said["operator_key"]).get("/api/v1/tenants").json()["results"][0]["slug"] == said["tenant"] == "demo"
    used = as_key(said["api_key"]).get("/api/v1/tenant-models").json()["results"]
    assert [(each["model_name"], each["is_default"]) for each in used] == [
        (said["model"], True),
        ("text-embedding-3-small", False),
    ]
    assert said["model"] == available_models()[0].identifier
    assert said["tenant_id"] == str(Tenant.objects.get().id)
    tasks = {"make_usage_partitions", "forget_claims", "forget_usage", "adjust_for_corrections"}
    assert PeriodicTask.objects.filter(task__in=[f"billing.tasks.{each}" for each in tasks], enabled=True).count() == 4
    minutes = dict(PeriodicTask.objects.exclude(interval=None).values_list("task", "interval__every"))
    assert minutes == {
        "alerts.tasks.deliver_due": 1,
        "billing.tasks.add_up_usage": 1,
        "billing.tasks.check_budgets": 1,
        "billing.tasks.check_limits": 1,
        "billing.tasks.check_provider_excess": 5,
        "embeddings.tasks.follow_breakers": 1,
    }
    app.loader.import_default_modules()
    assert minutes.keys() <= app.tasks.keys()
    assert Tenant.objects.get().memberships.get().role == "owner"


def test_the_catalogue_says_what_the_vendors_say() -> None:
    seed(demo=False, previous=None)
    rows = {f"{d.provider}/{d.name}": d for d in load_catalog().deployments.values()}
    assert len(rows) == len(MODELS) + len(available_models())
    for model in MODELS:
        row = rows[f"{model.provider}/{model.identifier}"]
        assert row.price_at(utc_now()) == nano_from_usd(Decimal(model.usd_per_million))
        assert (row.state, row.endpoints, row.space) == ("available", (), model.artifact)
    for local in available_models():
        row = rows[f"local/{local.identifier}"]
        assert (row.price_at(utc_now()), len(row.endpoints), row.space) == (0, 1, local.space)
        assert all(row.can_answer_with(width) for width in local.allowed_dimensions)
    small = rows["openai/text-embedding-3-small"]
    assert (small.dimensions, small.max_tokens, small.tokenizer) == (1536, 8192, "cl100k_base")
    assert small.can_answer_with(7)
    titan = rows["bedrock/amazon.titan-embed-text-v2:0"]
    assert [titan.can_answer_with(width) for width in (256, 512, 1024, 700)] == [True, True, True, False]
    assert not rows["openai/text-embedding-ada-002"].can_answer_with(512)


def test_seeding_again_changes_nothing() -> None:
    said = seed(demo=True, previous=None)
    before = everything()
    assert seed(demo=True, previous=said) == said
    assert everything() == before


def test_what_the_operator_did_stays() -> None:
    said = seed(demo=True, previous=None)
    large = EmbeddingModel.objects.get(name="text-embedding-3-large")
    ada = EmbeddingModel.objects.get(name="text-embedding-ada-002")
    change_model(model_id=large.id, max_tokens=99)
    remove_model(model_id=ada.id)
    change_provider(slug="openai", base_url="http://10.0.0.1/v1")
    tenant = Tenant.objects.get()
    small = tenant.models.get(is_default=False)
    remove_configuration(tenant_id=tenant.id, tenant_model_id=small.id)
    before, version = everything(), catalog_version()
    assert seed(demo=True, previous=said) == said
    assert (everything(), catalog_version()) == (before, version)


def test_a_lost_quickstart_gets_new_credentials_and_ends_the_old(as_key: Any) -> None:
    lost = seed(demo=True, previous=None)
    child = as_key(lost["operator_key"]).post("/api/v1/api-keys", {"name": "child", "scopes": ["operator"]}).json()
    said = seed(demo=True, previous=None)
    assert User.objects.get(email=ADMIN_EMAIL).check_password(said["admin_password"])
    keys = (lost["operator_key"], said["operator_key"], child["key"])
    assert [as_key(key).get("/api/v1/tenants").status_code for key in keys] == [401, 200, 200]
    demo = (lost["api_key"], said["api_key"])
    assert [as_key(key).get("/api/v1/tenant-models").status_code for key in demo] == [401, 200]
    assert ApiKey.objects.filter(revoked_at=None).count() == 3


def test_a_key_that_was_revoked_is_replaced_and_the_others_kept() -> None:
    said = seed(demo=True, previous=None)
    ApiKey.objects.filter(name="quickstart demo").update(revoked_at=utc_now())
    again = seed(demo=True, previous=said)
    assert again["api_key"] != said["api_key"]
    assert again | {"api_key": None} == said | {"api_key": None}


def test_a_password_of_the_operators_choice_is_not_replaced() -> None:
    said = seed(demo=False, previous=None)
    user = User.objects.get(email=ADMIN_EMAIL)
    set_password(user=user, password="my own choice of words")
    assert seed(demo=False, previous=said)["admin_password"] is None
    user.refresh_from_db()
    assert user.check_password("my own choice of words")


def test_without_a_demo_there_is_no_tenant() -> None:
    said = seed(demo=False, previous=None)
    assert {said[name] for name in ("tenant", "tenant_id", "api_key", "model")} == {None}
    assert Tenant.objects.count() == 0


def test_secrets_are_in_no_row() -> None:
    said = seed(demo=True, previous=None)
    rows = str(everything())
    for name in ("admin_password", "operator_key", "api_key"):
        assert said[name] not in rows
