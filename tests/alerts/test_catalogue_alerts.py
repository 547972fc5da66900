"""What operators are told of the catalogue."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from alerts.models import Alert
from catalog import signals
from catalog.lifecycle import Cause, Proof
from catalog.services import move_model

pytestmark = pytest.mark.django_db


def told() -> list[tuple[str, str, str]]:
    rows = Alert.objects.order_by("created_at", "id")
    assert {each.tenant_id for each in rows} <= {None}
    return [(each.kind, each.severity, each.state) for each in rows]


@pytest.mark.parametrize(
    ("cause", "proof", "kind", "severity"),
    [
        (Cause.DRIFT, Proof.EQUALITY, "model_drifted", "critical"),
        (Cause.PROVIDER, Proof.TRIALS, "model_unavailable", "warning"),
    ],
)
def test_a_model_that_is_taken_out_is_told_until_it_is_back(
    cause: Cause, proof: Proof, kind: str, severity: str, add_model: Any, committed: Any
) -> None:
    row = add_model()
    with committed():
        move_model(model_id=row.id, to="unavailable", cause=cause, reason="seen")
    assert told() == [(kind, severity, "open")]
    with committed():
        move_model(model_id=row.id, to="available", proof=proof)
    assert told() == [(kind, severity, "resolved")]
    with committed():
        move_model(model_id=row.id, to="unavailable", cause=cause, reason="seen again")
    assert told() == [(kind, severity, "resolved"), (kind, severity, "open")]


def test_what_an_operator_does_is_no_news(add_model: Any, committed: Any) -> None:
    with committed():
        move_model(model_id=add_model().id, to="unavailable")
    assert told() == []


def test_a_list_that_cannot_be_read_is_told_once_a_day_until_it_can(committed: Any) -> None:
    def end(outcome: str) -> None:
        signals.discovery_ended.send(
            None, run_id="r", provider="vendor", outcome=outcome, changes={"new": 2}, detail="server: 503"
        )

    for outcome in ("failed", "failed", "skipped"):
        end(outcome)
    assert told() == [("discovery_failed", "warning", "open")]
    end("waiting")
    assert told() == [("discovery_failed", "warning", "resolved"), ("discovery_waiting", "info", "open")]


def test_sources_that_disagree_are_told_once_a_month(add_model: Any) -> None:
    row = add_model()
    for _ in range(2):
        signals.prices_unsettled.send(
            None, model_id=row.id, told={"one": Decimal("0.1"), "two": Decimal("0.2")}, outcome="disagree"
        )
    [alert] = Alert.objects.all()
    assert alert.detail == {"model": "vendor/small", "one": "0.1", "two": "0.2"}


def test_a_receiver_that_fails_stops_nothing(add_model: Any, committed: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(**about: Any) -> None:
        raise RuntimeError("broken")

    signals.model_moved.connect(broken)
    try:
        with committed():
            move_model(model_id=add_model().id, to="unavailable", cause=Cause.DRIFT)
    finally:
        signals.model_moved.disconnect(broken)
    assert told() == [("model_drifted", "critical", "open")]
    assert "broken" in caplog.text
