"""The only writer of celery-beat's rows for people: what is changed of the timetable is recorded as anything else is.

Django's forms have checked the rows; celery-beat's own signals tell beat of them.
"""

from __future__ import annotations

from django.db import models, transaction

from audit.facts import Facts
from audit.facts import facts as facts_of
from audit.services import record


@transaction.atomic
def save(row: models.Model) -> None:
    """A new row, or one that was changed."""
    old = type(row)._default_manager.filter(pk=row.pk).first()
    before = None if old is None else facts_of(old)
    row.save()
    _record("added" if old is None else "changed", row, before, facts_of(row))


@transaction.atomic
def remove(row: models.Model) -> None:
    """Forgets a row."""
    _record("removed", row, facts_of(row), None)
    row.delete()


def _record(what: str, row: models.Model, before: Facts | None, after: Facts | None) -> None:
    name = str(row._meta.model_name)
    record(f"timetable.{what}", tenant_id=None, subject=name, subject_id=row.pk, before=before, after=after)
