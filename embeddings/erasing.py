"""A tenant as a whole: written out, or erased.

Decides what stays of a tenant that is erased: its usage, as the law of money demands, with amounts, times and models,
and without any word of its own; the rows of everything else that names it go, the people who belong nowhere else, and
what Redis keeps of it. A table belongs to a tenant when it says so by a column, so that none can be forgotten here.
Stands in the topmost app because the cache of vectors is this one's.

Failure: stopped half-way it is done again from the start; until the last step the tenant is there, and suspended.
Redis away → it raises after the rows are gone, and Celery tries again. Needs the owner's address where the login may
not touch the audit log. What cannot be reached: a worker's own memory
(it forgets within the cache's lifetime), its metrics until a restart, backups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.apps import apps
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models, transaction
from django.db.models import QuerySet
from django.db.models.functions import Cast
from django_redis import get_redis_connection

from audit.facts import is_secret
from audit.services import forget_tenant, record
from billing import partitions
from catalog.publishing import announce
from core.changes import Change
from core.clock import utc_now
from core.errors import Conflict, InvalidRequest
from embeddings.cache_keys import KeyRing
from tenants.selectors import find_tenant

# What stays, and which of its columns hold words of the tenant's or of what it sent.
KEPT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"billing.UsageRow": ("agent_id", "task_type"), "billing.ProviderCall": ("detail", "upstream_id")}
)
_OF_PEOPLE = ("id", "email", "name", "created_at")
_BATCH = 1000
_DAY = timedelta(days=1)


Model = type[models.Model]


def tenant_tables() -> list[tuple[Model, str]]:
    """Every model whose rows belong to tenants, with the column that says whose; those that refer to others first."""
    found = {model: column for model in apps.get_models() if (column := _tenant_column(model))}
    ordered: list[Model] = []
    while len(ordered) < len(found):
        left = [model for model in found if model not in ordered]
        referred = {f.related_model for model in left for f in model._meta.concrete_fields if f.related_model != model}
        ordered += [model for model in left if model not in referred] or left
    return [(model, found[model]) for model in ordered]


def export(tenant_id: UUID) -> Iterator[str]:
    """All that is kept of a tenant, a line of JSON for each row. Secrets, digests and vectors of answers are left out:
    they are columns of bytes, or named as secrets are. All of it as it was at one moment: in a transaction of the
    thread that it is iterated in."""
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if is_outermost:
            connection.cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield _line(find_tenant(tenant_id))
        for row in _people().filter(memberships__tenant_id=tenant_id).iterator(_BATCH):
            yield _line(row, only=_OF_PEOPLE)
        for model, column in tenant_tables():
            for row in _rows(model, column, tenant_id).iterator(_BATCH):
                yield _line(row)


def begin_export(tenant_id: UUID) -> Iterator[str]:
    """`export`, and that it was taken is told."""
    record("tenant.exported", tenant_id=tenant_id, subject="tenant", subject_id=tenant_id)
    return export(tenant_id)


def ask_erasure(*, tenant_id: UUID, slug: str) -> None:
    """Notes who wants a tenant erased. Raises unless it has been suspended for longer than any request lives, and is
    the one that is meant."""
    row = find_tenant(tenant_id)
    if row.slug != slug:
        raise InvalidRequest("This is not the slug of this tenant; write it to confirm.", param="slug")
    if not row.is_suspended:
        raise Conflict("Suspend the tenant first: what it has under way would be written after it is gone.")
    wait = (row.updated_at + timedelta(seconds=settings.QUIVER.lease_s) - utc_now()).total_seconds()
    if wait > 0:
        raise Conflict(f"Its last requests may be under way still; wait {int(wait) + 1} s.", retry_after=int(wait) + 1)
    record("tenant.erasure_asked", tenant_id=None, subject="tenant", subject_id=tenant_id)


def erase(tenant_id: UUID) -> None:
    """Erases a tenant that `ask_erasure` let pass; of one that is gone already, what Redis may have kept."""
    tenants = apps.get_model("tenants.Tenant")._base_manager.filter(id=tenant_id)
    if tenants.filter(is_suspended=False).exists():
        raise Conflict("The suspension was lifted meanwhile, so nothing was erased.")
    for label, words in KEPT.items():
        _strike_out(apps.get_model(label), words, tenant_id)
    people = list(_only_here(tenant_id).values_list("id", flat=True))
    with partitions.owners_cursor() as owner:
        forget_tenant(tenant_id, people=people, owner=owner)
    with transaction.atomic():
        if tenants.exists():
            record("tenant.erased", tenant_id=None, subject="tenant", subject_id=tenant_id)
        for model, column in tenant_tables():
            if model._meta.label not in (*KEPT, "audit.AuditEvent"):
                rows = _rows(model, column, tenant_id)
                _forget_log(model, rows)
                rows._raw_delete(rows.db)
        _forget_log(tenants.model, tenants)
        tenants._raw_delete(tenants.db)
        _end_sessions(people)
        _people().filter(id__in=people).delete()
        announce(Change(tenant_id))
    _forget_in_redis(tenant_id)


def _tenant_column(model: Model) -> str:
    if model._meta.proxy:
        return ""
    columns = {field.attname for field in model._meta.concrete_fields}
    return "tenant_id" if "tenant_id" in columns else ""


def _rows(model: Model, column: str, tenant_id: UUID) -> QuerySet[Any]:
    return model._base_manager.filter(**{column: tenant_id}).order_by()


def _line(row: models.Model, only: tuple[str, ...] = ()) -> str:
    columns = row._meta.concrete_fields
    fields = [f for f in columns if not isinstance(f, models.BinaryField) and not is_secret(f.attname)]
    values = {f.attname: f.value_from_object(row) for f in fields if not only or f.attname in only}
    return json.dumps({"table": row._meta.label, "row": values}, cls=_Encoder) + "\n"


class _Encoder(DjangoJSONEncoder):
    def default(self, o: Any) -> Any:
        return [float(each) for each in o] if hasattr(o, "__iter__") else super().default(o)  # a vector's figures


def _strike_out(model: Model, words: tuple[str, ...], tenant_id: UUID) -> None:
    """Day by day, each its own transaction: the table is large, and a day is found by its partition."""
    rows = _rows(model, "tenant_id", tenant_id)
    found = rows.aggregate(first=models.Min("created_at"), last=models.Max("created_at"))
    day = found["first"]
    while day is not None and day <= found["last"]:
        rows.filter(created_at__gte=day, created_at__lt=day + _DAY).update(**dict.fromkeys(words, ""))
        day += _DAY


def _people() -> QuerySet[Any]:
    return apps.get_model("tenants.User")._base_manager.all()


def _only_here(tenant_id: UUID) -> QuerySet[Any]:
    """People who belong to no other tenant, and made no key of another's."""
    memberships, keys = (apps.get_model(f"tenants.{name}")._base_manager for name in ("Membership", "ApiKey"))
    elsewhere = memberships.exclude(tenant_id=tenant_id).values("user_id")
    makers = keys.exclude(tenant_id=tenant_id).exclude(created_by=None).values("created_by_id")
    here = _people().filter(memberships__tenant_id=tenant_id, is_superuser=False)
    return here.exclude(id__in=elsewhere).exclude(id__in=makers)


def _forget_log(model: Model, rows: QuerySet[Any]) -> None:
    """What the admin noted about these rows: it names them."""
    if not isinstance(model._meta.pk, models.CompositePrimaryKey):
        ids = rows.annotate(as_text=Cast("pk", models.TextField())).values("as_text")
        LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(model), object_id__in=ids).delete()


def _end_sessions(people: list[int]) -> None:
    theirs = {str(each) for each in people}
    for session in Session.objects.iterator(_BATCH):
        if session.get_decoded().get("_auth_user_id") in theirs:
            session.delete()


def _forget_in_redis(tenant_id: UUID) -> None:
    redis = get_redis_connection("default")
    vectors, own = KeyRing(settings.QUIVER.encryption_keys).prefixes(tenant_id), str(tenant_id).encode()
    found: list[bytes] = []
    for key in redis.scan_iter(count=_BATCH):
        if key.startswith(vectors) or own in key:
            found.append(key)
        if len(found) == _BATCH:
            redis.unlink(*found)
            found.clear()
    if found:
        redis.unlink(*found)
    cache.delete_pattern("dashboard*")  # type: ignore[attr-defined]  # of django-redis; it names who uses most
