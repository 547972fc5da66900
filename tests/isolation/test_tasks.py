"""Background tasks: each names what it takes and whose rows it may touch; one without a line fails the build.

Tasks run as the platform, behind no row security, and take nothing from a caller: an id was put into the queue by the
service that checked it. So the property is another than a route's: whose a row is, is read from the row itself; what is
done for one tenant touches no row of another, sends it nothing, and does not find another's row under its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core import mail

from config.celery import app
from core.sealing import SealBroken
from tests.conftest import Party, make_party
from tests.isolation.worlds import MARK, is_in, rows_in_database, rows_of

NOTHING = ""
ALL = "rows of all tenants, each from that tenant's own, by the timetable"
PLATFORMS = "no row of a tenant"
ITS_OWN = "rows of the tenant whose row it is given"
PERSON = "a person's account, which is theirs in whichever tenant"
TASKS: dict[str, tuple[str, str]] = {
    "alerts.tasks.deliver": ("delivery_id", ITS_OWN),
    "alerts.tasks.deliver_due": (NOTHING, ALL),
    "billing.tasks.add_up_usage": (NOTHING, ALL),
    "billing.tasks.adjust_for_correction": ("price_id day", ALL),
    "billing.tasks.adjust_for_corrections": (NOTHING, ALL),
    "billing.tasks.check_budgets": (NOTHING, ALL),
    "billing.tasks.check_limits": (NOTHING, ALL),
    "billing.tasks.check_provider_excess": (NOTHING, PLATFORMS),
    "billing.tasks.forget_claims": (NOTHING, ALL),
    "billing.tasks.forget_usage": (NOTHING, ALL),
    "billing.tasks.look_at_sunsets": (NOTHING, ALL),
    "billing.tasks.make_usage_partitions": (NOTHING, PLATFORMS),
    "billing.tasks.reconcile_limits": (NOTHING, ALL),
    "catalog.tasks.discover": ("run_id", PLATFORMS),
    "catalog.tasks.discover_all": (NOTHING, PLATFORMS),
    "catalog.tasks.recheck_spaces": (NOTHING, PLATFORMS),
    "catalog.tasks.test_connection": ("test_id", PLATFORMS),
    "catalog.tasks.update_prices": (NOTHING, PLATFORMS),
    "catalog.tasks.validate_model": ("model_id actor", PLATFORMS),
    "embeddings.tasks.erase_tenant": ("tenant_id", ITS_OWN),
    "embeddings.tasks.follow_breakers": (NOTHING, PLATFORMS),
    "tenants.tasks.send_invitation": ("invitation_id sealed_token", ITS_OWN),
    "tenants.tasks.send_password_reset": ("email", PERSON),
    "tenants.tasks.test_own_credential": ("tenant_id test_id", ITS_OWN),
}


def test_every_task_says_what_it_takes_and_whose_rows_it_touches() -> None:
    app.loader.import_default_modules()
    ours = {name: task for name, task in app.tasks.items() if not task.__module__.startswith(("celery.", "tests."))}
    taken = {name: " ".join(inspect.signature(task.run).parameters) for name, task in ours.items()}
    assert taken == {name: takes for name, (takes, _) in TASKS.items()}


@dataclass(frozen=True)
class Two:
    """Two tenants with a row of each kind, of the same model."""

    acme: Party
    globex: Party


@pytest.fixture
def two(model: Any, acme: Party, globex: Party, settings: Any) -> Iterator[Two]:
    rows_of(acme, model), rows_of(globex, model)
    changes = {"smtp_url": "smtp://127.0.0.1:1", "public_url": "https://quiver.example"}
    settings.QUIVER = settings.QUIVER.model_copy(update=changes)  # mails go into a list
    app.conf.task_always_eager = True
    yield Two(acme, globex)
    app.conf.task_always_eager = False


def given(party: Party) -> dict[str, tuple[str, ...]]:
    """What each task is given that touches rows of one tenant, of this tenant's."""
    from alerts.models import Delivery
    from tenants.mail import sealed_token
    from tenants.models import Invitation, TenantCredential
    from tenants.own_credentials import begin_test

    own = {"tenant_id": party.id}
    invitation = Invitation.objects.get(**own)
    credential = TenantCredential.objects.get(**own)
    test = begin_test(tenant_id=party.id, credential_id=credential.id)
    return {
        "alerts.tasks.deliver": (str(Delivery.objects.filter(**own).earliest("id").id),),
        "embeddings.tasks.erase_tenant": (str(party.id),),
        "tenants.tasks.send_invitation": (str(invitation.id), sealed_token(invitation, "a token")),
        "tenants.tasks.test_own_credential": (str(party.id), str(test.id)),
    }


def suspend(party: Party) -> None:
    from tenants.services import change_tenant

    change_tenant(tenant_id=party.id, is_suspended=True)


def run(name: str, *arguments: str) -> None:
    app.tasks[name].run(*arguments)


@pytest.mark.django_db
def test_what_is_done_for_one_tenant_touches_nothing_of_another(two: Two) -> None:
    from catalog import connection_tests

    arguments = given(two.acme)
    assert arguments.keys() == {name for name, (_, whose) in TASKS.items() if whose == ITS_OWN}
    suspend(two.acme)
    others, own = rows_in_database(two.globex), rows_in_database(two.acme)
    for name in ("alerts.tasks.deliver", "tenants.tasks.send_invitation", "tenants.tasks.test_own_credential"):
        run(name, *arguments[name])
    test_id = arguments["tenants.tasks.test_own_credential"][1]
    sent, tested = list(mail.outbox), connection_tests.find(UUID(test_id), tenant_id=two.acme.id)
    run("embeddings.tasks.erase_tenant", *arguments["embeddings.tasks.erase_tenant"])

    assert rows_in_database(two.globex) == others
    assert rows_in_database(two.acme) != own
    assert len(sent) == 2
    assert tested is not None
    assert tested.state == "done"
    assert [each for each in sent if is_in(MARK, f"{each.to} {each.subject} {each.body}")] == []


@pytest.mark.django_db
def test_a_row_is_not_found_under_another_tenants_name(two: Two) -> None:
    from catalog import connection_tests

    acmes, globexs = given(two.acme), given(two.globex)
    before = rows_in_database(two.globex), rows_in_database(two.acme)
    test_id = globexs["tenants.tasks.test_own_credential"][1]
    run("tenants.tasks.test_own_credential", str(two.acme.id), test_id)
    invite = "tenants.tasks.send_invitation"
    for one, other in ((acmes, globexs), (globexs, acmes)):
        with pytest.raises(SealBroken):
            run(invite, one[invite][0], other[invite][1])
    for name in ("alerts.tasks.deliver", "embeddings.tasks.erase_tenant"):
        run(name, str(uuid4()))

    tested = connection_tests.find(UUID(test_id), tenant_id=two.globex.id)
    assert tested is not None
    assert tested.state == "waiting"
    assert connection_tests.find(UUID(test_id), tenant_id=two.acme.id) is None
    assert mail.outbox == []
    assert (rows_in_database(two.globex), rows_in_database(two.acme)) == before


@pytest.mark.django_db
def test_what_is_done_for_all_writes_nothing_of_one_into_rows_of_another(
    two: Two, committed: Callable[[], Any]
) -> None:
    quiet = make_party("quiet")
    before = rows_in_database(quiet)
    with committed():
        for name, (takes, whose) in TASKS.items():
            if whose == ALL and takes == NOTHING:
                run(name)
    assert rows_in_database(quiet) == before
    words = {party.slug: repr(rows_in_database(party)).lower() for party in (two.acme, two.globex)}
    assert all(slug in text for slug, text in words.items())
    assert [slug for slug, text in words.items() for other in words if other != slug and other in text] == []
    assert mail.outbox
    said = [(repr(each.to), f"{each.to} {each.subject} {each.body}".lower()) for each in mail.outbox]
    assert [
        to for to, text in said for one, other in (("acme", MARK), (MARK, "acme")) if one in to and other in text
    ] == []
