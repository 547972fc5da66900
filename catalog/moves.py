"""The only writer of a model's state and of its end: every move along the lifecycle's edges.

Each move is a conditional UPDATE, an event with who and why, and a signal after the commit. What the edges are is
`catalog.lifecycle`; what a row says about its model is `catalog.services`; whether tenants still use it is asked of the
apps above by a signal.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from audit.facts import facts as facts_of
from audit.services import record
from catalog import events, lifecycle, signals
from catalog.lifecycle import Cause, Proof
from catalog.models import Capability, Cuts, EmbeddingModel, ModelCheck, State
from catalog.publishing import catalog_changed
from core.clock import utc_now
from core.errors import Conflict, IllegalTransition, InvalidRequest, NotFound

_SUCCESSORS = 0x51C0FFEE  # the advisory lock of whoever names a successor


@transaction.atomic
def move_model(
    *,
    model_id: UUID,
    to: str,
    reason: str = "",
    actor: str = events.SYSTEM,
    cause: Cause = Cause.OPERATOR,
    proof: Proof = Proof.HAND,
    sunset_at: datetime | None = None,
    successor: UUID | None = None,
    force: bool = False,
    now: datetime | None = None,
) -> EmbeddingModel:
    """Moves along one edge of the lifecycle. Of several that move the same row at once, one wins.

    `cause` goes with a move to unavailable, `proof` is what a move to available rests on, `force` removes a model
    before its promised sunset or while tenants use it, `now` is the clock of whoever decided that its time has come.
    """
    row, now = find_model(model_id), now or utc_now()
    before = facts_of(row)
    changes: dict[str, Any] = {"state": to, "state_reason": reason[:200], "updated_at": now, "unavailable_cause": ""}
    if to not in State.values:
        raise InvalidRequest(f"{to!r} is no state; there are {', '.join(State.values)}.", param="to")
    if to == State.DEPRECATED:
        changes |= _sunset(row, sunset_at, successor, now) | {"deprecated_at": now}
    elif sunset_at or successor:
        raise InvalidRequest("Only a move to deprecated takes `sunset_at` and `successor`.", param="to")
    if to == State.UNAVAILABLE:
        changes["unavailable_cause"] = cause.value
    elif to == State.TESTING:
        changes["validated_at"] = None
    elif row.state == State.UNAVAILABLE and to == State.AVAILABLE and proof is not Proof.TRIALS:
        # Somebody knows better than its vendor's lists, which say nothing of it any more until it is in one again.
        changes |= {"listed_at": None, "missed_listings": 0} if row.missed_listings else {}
    elif to == State.AVAILABLE and proof is Proof.VOUCHED and Capability.MATRYOSHKA in row.capabilities:
        changes["cuts"] = Cuts.VOUCHED
    is_legal = to in lifecycle.legal_moves(row.state)
    if is_legal:
        _check_move(row, to, proof, now, force=force)
    still = {"state": row.state, "unavailable_cause": row.unavailable_cause, "validated_at": row.validated_at}
    if not is_legal or not EmbeddingModel.objects.filter(id=model_id, **still).update(**changes):
        # The winner may have moved it between our reading and our writing.
        state = EmbeddingModel.objects.values_list("state", flat=True).get(id=model_id)
        raise IllegalTransition(lifecycle.refusal(state, to), extra={"legal": list(lifecycle.legal_moves(state))})
    return _told(row, before, reason, actor)


@transaction.atomic
def blame_drift(*, model_id: UUID, reason: str, actor: str = events.SYSTEM) -> EmbeddingModel:
    """Of a model that its provider lost and whose vectors turned out to be others: ends its trials on real traffic."""
    row = locked_model(model_id)
    if row.state != State.UNAVAILABLE:
        raise IllegalTransition(f"The model is {row.state}; only an unavailable one has a cause.")
    before = facts_of(row)
    changes = {"unavailable_cause": Cause.DRIFT.value, "state_reason": reason[:200], "updated_at": utc_now()}
    EmbeddingModel.objects.filter(id=model_id).update(**changes)
    return _told(row, before, reason, actor)


def _told(row: EmbeddingModel, before: dict[str, Any], reason: str, actor: str) -> EmbeddingModel:
    """The row as it is by now, of which everybody was told."""
    was = row.state
    row.refresh_from_db()
    now, cause = row.state, row.unavailable_cause
    events.note(row.id, "moved", actor=actor, reason=reason, was=was, now=now, cause=cause)
    catalog_changed()
    transaction.on_commit(
        lambda: signals.model_moved.send_robust(
            EmbeddingModel, model_id=row.id, was=was, now=now, cause=cause, reason=reason, actor=actor
        )
    )
    record("model.moved", tenant_id=None, subject="model", subject_id=row.id, before=before, after=facts_of(row))
    return row


def _check_move(row: EmbeddingModel, to: str, proof: Proof, now: datetime, *, force: bool) -> None:
    """Refuses a move along an edge that exists, when what it rests on is missing."""
    lacking = lifecycle.missing_proof(
        state=row.state,
        to=to,
        cause=row.unavailable_cause,
        proof=proof,
        is_validated=row.validated_at is not None,
        was_validated=row.checks.filter(kind=ModelCheck.Kind.VALIDATION, passed=True).exists(),
    )
    if lacking is not None:
        others = [each for each in lifecycle.legal_moves(row.state) if each != to]
        raise IllegalTransition(lacking, extra={"legal": others})
    if to == State.REMOVED and not force:
        _check_end(row, now)


def _check_end(row: EmbeddingModel, now: datetime) -> None:
    """Refuses to end what tenants were promised, or still use."""
    if row.state == State.DEPRECATED and row.sunset_at and row.sunset_at > now:
        raise Conflict(
            f"Tenants were told that the model answers until {row.sunset_at:%Y-%m-%d %H:%M} UTC; "
            "send `force: true` to remove it before.",
            param="to",
        )
    asked = {"model_ids": [row.id], "since": now - lifecycle.USED_WITHIN}
    answers: list[tuple[Any, Any]] = signals.use_asked.send(EmbeddingModel, **asked)
    if any(row.id in used for _, used in answers):
        raise Conflict(
            "Tenants still sent the model texts within the last day; give them a later sunset, or send `force: true` "
            "to remove it all the same.",
            param="to",
        )


def _sunset(row: EmbeddingModel, sunset_at: datetime | None, successor: UUID | None, now: datetime) -> dict[str, Any]:
    """What a deprecated row says of its end, checked."""
    if sunset_at is not None and sunset_at < now:
        raise InvalidRequest("`sunset_at` must be a moment to come.", param="sunset_at")
    return {"sunset_at": sunset_at, "successor": _successor(row, successor)}


@transaction.atomic
def change_sunset(
    *,
    model_id: UUID,
    sunset_at: datetime | None,
    successor: UUID | None = None,
    reason: str = "",
    actor: str = events.SYSTEM,
) -> EmbeddingModel:
    """Gives a deprecated model another end, or another successor."""
    row = locked_model(model_id)
    if row.state != State.DEPRECATED:
        raise Conflict(f"Only a deprecated model has a sunset; this one is {row.state}.", param="sunset_at")
    before, was = facts_of(row), row.sunset_at
    for name, value in _sunset(row, sunset_at, successor or row.successor_id, utc_now()).items():
        setattr(row, name, value)
    row.save()
    record("model.changed", tenant_id=None, subject="model", subject_id=row.id, before=before, after=facts_of(row))
    told = f"from {was:%Y-%m-%d}" if was else "from none"
    events.note(model_id, "sunset moved", actor=actor, reason=f"{told}: {reason}" if reason else told)
    catalog_changed()
    transaction.on_commit(
        lambda: signals.sunset_moved.send_robust(
            EmbeddingModel, model_id=model_id, was=was, now=sunset_at, reason=reason
        )
    )
    return row


def find_model(model_id: UUID) -> EmbeddingModel:
    """The row, or `NotFound`."""
    row = (
        EmbeddingModel.objects.select_related("provider", "space", "successor")
        .prefetch_related("prices", "provider__credentials")
        .filter(id=model_id)
        .first()
    )
    if row is None:
        raise NotFound(f"The catalogue has no model {model_id}.")
    return row


def locked_model(model_id: UUID) -> EmbeddingModel:
    """The row, locked until the transaction ends, or `NotFound`."""
    row = (
        EmbeddingModel.objects.select_for_update(of=("self",))
        .select_related("provider", "space")
        .filter(id=model_id)
        .first()
    )
    if row is None:
        raise NotFound(f"The catalogue has no model {model_id}.")
    return row


def _successor(row: EmbeddingModel, successor: UUID | None) -> EmbeddingModel | None:
    if successor is None:
        return None
    with connection.cursor() as cursor:  # two that name each other at once would make a circle that neither sees
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SUCCESSORS])
    found = EmbeddingModel.objects.filter(id=successor).exclude(id=row.id).exclude(state=State.REMOVED).first()
    if found is None:
        raise InvalidRequest(
            "`successor` must be the id of another model in the catalogue that is not removed.", param="successor"
        )
    named = EmbeddingModel.objects.exclude(successor=None).values_list("id", "successor_id")
    successors: dict[str, str | None] = {str(one): str(other) for one, other in named}
    if lifecycle.ends_in_a_circle(str(row.id), successors | {str(row.id): str(successor)}):
        raise InvalidRequest(
            f"{found.name} leads back to this model over its own successors; name one that does not.",
            param="successor",
        )
    return found
