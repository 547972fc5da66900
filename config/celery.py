"""The Celery application: background work, with its timetable in the database (django-celery-beat)."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish

from audit.actors import Actor, Kind, acting, from_message, let_in, to_message

_ACTOR = "quiver_actor"  # header of a task's message

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


class ActingTask(Task):
    """What a task changes is the doing of whoever had it sent, or, where nobody did, of the task."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        told = self.request.get(_ACTOR)
        sender = from_message(told) if told else let_in()
        actor = sender or Actor(Kind.TASK, self.name, self.name, request_id=self.request.id or "")
        with acting(lambda: actor):
            return super().__call__(*args, **kwargs)


@before_task_publish.connect
def say_who_asked(headers: dict[str, Any] | None = None, **_: object) -> None:
    """Writes onto a task's message who acts now."""
    actor = let_in()
    if actor is not None and headers is not None:
        headers[_ACTOR] = to_message(actor)


app = Celery("quiver", task_cls=ActingTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
