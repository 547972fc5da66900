"""Background tasks: each names what it takes, which is never a row; one without a line fails the build."""

from __future__ import annotations

import inspect

from config.celery import app

# Tasks run as the platform. None takes rows from a caller: an id was put into the queue by the service that checked it,
# and whose it is is read from its row.
EVERYBODYS = "all tenants or none, by the timetable"
TASKS = {
    "alerts.tasks.deliver": "delivery_id",
    "alerts.tasks.deliver_due": EVERYBODYS,
    "billing.tasks.add_up_usage": EVERYBODYS,
    "billing.tasks.adjust_for_correction": "price_id day",
    "billing.tasks.adjust_for_corrections": EVERYBODYS,
    "billing.tasks.check_budgets": EVERYBODYS,
    "billing.tasks.check_limits": EVERYBODYS,
    "billing.tasks.check_provider_excess": EVERYBODYS,
    "billing.tasks.forget_claims": EVERYBODYS,
    "billing.tasks.look_at_sunsets": EVERYBODYS,
    "billing.tasks.make_usage_partitions": EVERYBODYS,
    "billing.tasks.reconcile_limits": EVERYBODYS,
    "catalog.tasks.discover": "run_id",
    "catalog.tasks.discover_all": EVERYBODYS,
    "catalog.tasks.recheck_spaces": EVERYBODYS,
    "catalog.tasks.test_connection": "test_id",
    "catalog.tasks.update_prices": EVERYBODYS,
    "catalog.tasks.validate_model": "model_id actor",
    "embeddings.tasks.erase_tenant": "tenant_id",
    "embeddings.tasks.follow_breakers": EVERYBODYS,
    "tenants.tasks.send_invitation": "invitation_id sealed_token",
    "tenants.tasks.send_password_reset": "email",
    "tenants.tasks.test_own_credential": "test_id",
}


def test_every_task_says_what_it_takes() -> None:
    app.loader.import_default_modules()
    ours = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
    taken = {name: " ".join(inspect.signature(task.run).parameters) or EVERYBODYS for name, task in ours.items()}
    assert taken == TASKS
