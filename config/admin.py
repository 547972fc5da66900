"""Admin of celery-beat's timetable, for operators. The site is `config.admin_site`, breakers are `breaker_admin`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django_celery_beat import admin as beat
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from config import breaker_admin, timetable

__all__ = ["breaker_admin"]

for _schedule in (PeriodicTask, CrontabSchedule, IntervalSchedule, ClockedSchedule, SolarSchedule):
    admin.site.unregister(_schedule)


class TaskForm(beat.PeriodicTaskForm):
    """celery-beat's, with unfold's fields."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "regtask" in self.fields:
            self.fields["task"].widget = UnfoldAdminTextInputWidget()
            field = self.fields["regtask"]
            field.widget = UnfoldAdminSelectWidget(choices=field.widget.tasks_as_choices())


class Recorded(ModelAdmin):
    """Writes through the service."""

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        timetable.save(obj)

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        timetable.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: Iterable[Model]) -> None:
        for each in queryset:
            timetable.remove(each)


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(Recorded, beat.PeriodicTaskAdmin):
    """When background work is done. These rows are celery-beat's, which has services of its own in its admin."""

    form = TaskForm
    actions = None
    list_display = ("name", "task", "enabled", "scheduler", "last_run_at")
    list_filter = ("enabled",)
    date_hierarchy = None
    readonly_fields = ("last_run_at", "crontab_translation")


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(Recorded, beat.CrontabScheduleAdmin):
    """Times of a day, week, month or year."""


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(Recorded):
    """Every so often."""
