"""The only writer of what was done: one row for each privileged action, in the transaction of the action itself.

Called by the services that act, never by doors. Decides that an action which is made of others is told once, by its own
name (`covering`), and that one which was rolled back was not done.
Failure: what cannot be recorded is not done either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from audit import actors
from audit.actors import Kind
from audit.facts import Facts, difference
from audit.models import AuditEvent
from core.ids import uuid7, uuid7_time

_is_covered: ContextVar[bool] = ContextVar("audit_is_covered", default=False)


def record(
    action: str,
    *,
    tenant_id: UUID | None,
    subject: str,
    subject_id: object,
    before: Facts | None = None,
    after: Facts | None = None,
) -> None:
    """Somebody did this to that. Of `before` and `after` (see `audit.facts.facts`) what differs is kept.

    `tenant_id` None: a matter of the platform's.
    """
    if _is_covered.get():
        return
    was, now = difference(before, after)
    actor, event_id = actors.current(), uuid7()
    AuditEvent.objects.create(
        id=event_id,
        created_at=uuid7_time(event_id),
        tenant_id=tenant_id,
        actor_kind=actor.kind,
        actor_id=actor.id[:200],
        actor=actor.display[:300],
        action=action,
        subject_kind=subject,
        subject_id=str(subject_id)[:200],
        before=was,
        after=now,
        address=actor.address[:45],
        request_id=actor.request_id[:64],
    )


@contextmanager
def covering() -> Iterator[None]:
    """What is done within is part of an action that its caller records by itself."""
    token = _is_covered.set(True)
    try:
        yield
    finally:
        _is_covered.reset(token)


def forget_tenant(tenant_id: UUID, *, people: Collection[int], owner: Any) -> None:
    """Erases what was done for a tenant that is erased, and by and to people who go with it. `owner` is a cursor of the
    table's owner, who alone may."""
    owner.execute(
        "DELETE FROM audit_auditevent WHERE tenant_id = %(tenant)s "
        "OR (actor_kind = %(person)s AND actor_id = ANY(%(people)s)) "
        "OR (subject_kind = 'person' AND subject_id = ANY(%(people)s))",
        {"tenant": tenant_id, "person": Kind.PERSON.value, "people": [str(each) for each in people]},
    )
