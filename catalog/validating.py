"""Measures models with their probes and acts on what it finds: release, quarantine, return.

Owns the order: questions to the provider between transactions, then one transaction with the check's row, the event
and the move. A released row whose vectors are not those of its space's reference drifted: it is taken out, and the
space's epoch rises, so that no vector of the drift is answered from the cache.
Failure: a provider that does not answer has not drifted; the check failed, and the row stays as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import F

from audit.services import covering, record
from catalog import events
from catalog.equality import FailedProbe, Measured, differences
from catalog.lifecycle import Cause, Proof
from catalog.loading import deployment_of, is_delisted
from catalog.models import Capability, EmbeddingModel, ModelCheck, State, VectorSpace
from catalog.moves import blame_drift, find_model, locked_model, move_model
from catalog.probes import probes_for, short_probes
from catalog.probing import ask
from catalog.publishing import catalog_changed
from catalog.references import find_reference, is_first, keep_reference, sharers
from catalog.selectors import price_now
from catalog.validation import NATIVE, Claims, Question, Reading, Verdict, judge, plan
from core.clock import utc_now
from core.errors import Conflict, ValidationFailed

_EXACT = "cl100k_base"


@dataclass(frozen=True, slots=True)
class _Outcome:
    verdict: Verdict
    drifted: tuple[FailedProbe, ...]
    is_reference: bool  # its vectors become the space's
    measured: Measured | None
    tokens: int
    probes: int

    @property
    def failed(self) -> tuple[FailedProbe, ...]:
        return (*self.verdict.failed, *self.drifted)


def validate_model(*, model_id: UUID, actor: str = events.SYSTEM) -> ModelCheck:
    """Asks all probes now. A row in testing may be released once it passed; a released one that drifted is taken out,
    one that was out for drift and is equal again comes back."""
    row = find_model(model_id)
    if row.state == State.REMOVED:
        raise Conflict("The model is removed; there is nothing to validate.")
    outcome = _measure(row)
    with transaction.atomic():
        with covering():
            check = _conclude(row, outcome, ModelCheck.Kind.VALIDATION, actor)
        after = {"passed": check.passed, "state": check.model.state}
        record("model.validated", tenant_id=None, subject="model", subject_id=model_id, after=after)
    return check


def recheck_model(*, model_id: UUID, actor: str = events.SYSTEM) -> ModelCheck:
    """The same with the short texts and their native vectors alone: for every day."""
    row = find_model(model_id)
    return _conclude(row, _measure(row, is_short=True), ModelCheck.Kind.RECHECK, actor)


def activate_model(*, model_id: UUID, actor: str = events.SYSTEM) -> EmbeddingModel:
    """Walks a draft through testing to available when its probes pass, else back to draft with `ValidationFailed`. Each
    step is committed and told by itself, for the next one may never come."""
    if find_model(model_id).state != State.TESTING:
        move_model(model_id=model_id, to=State.TESTING, reason="being validated", actor=actor)
    check = validate_model(model_id=model_id, actor=actor)
    first = None if check.passed else check.failed[0]
    to, reason = (
        (State.AVAILABLE, "its probes passed") if first is None else (State.DRAFT, f"probe failed: {first['got']}")
    )
    with transaction.atomic():
        with covering():
            row = move_model(model_id=model_id, to=to, reason=reason, actor=actor)
        after = {"state": row.state, "probes_failed": len(check.failed)}
        record("model.activated", tenant_id=None, subject="model", subject_id=model_id, after=after)
    if first is None:
        return row
    raise ValidationFailed(
        f"The model is kept as draft {model_id} because {len(check.failed)} of its probes failed; of {first['probe']} "
        f"{first['expected']} was expected, {first['got']} came. Mend it and PATCH it with `activate: true`.",
        param=next((each["field"] for each in check.failed if each["field"]), None),
        extra={"id": str(model_id), "probes": check.failed},
    )


def _measure(row: EmbeddingModel, *, is_short: bool = False) -> _Outcome:
    deployment, is_exact = deployment_of(row), row.tokenizer == _EXACT
    claims = Claims(
        dimensions=row.dimensions,
        allowed_dimensions=tuple(row.allowed_dimensions),
        takes_dimensions=deployment.takes_dimensions,
        is_matryoshka=Capability.MATRYOSHKA in row.capabilities,
        is_exact=is_exact,
    )
    probes = (short_probes if is_short else probes_for)(row.max_tokens, is_exact=is_exact)
    if not probes:
        lacking = FailedProbe("all", "a model that takes a sentence", f"max_tokens is {row.max_tokens}")
        return _Outcome(Verdict((lacking,)), (), False, None, 0, 0)
    questions = [Question(NATIVE, probes)] if is_short else plan(claims, probes)
    readings = ask(deployment, questions)
    verdict = judge(claims, readings)
    tokens = sum(_tokens(each) for each in readings)
    measured = _measured(readings[0], row.dimensions)
    if measured is None:
        return _Outcome(verdict, (), False, None, tokens, len(probes))
    others = sharers(row)
    reference = None if is_first(row) else find_reference(row)
    if reference is None and others:
        reference = _reference_of_another(others, measured.width)
        if reference is None:
            told = FailedProbe(
                "space",
                f"a reference of {row.space.slug} to compare with",
                "none: of its models that are there, none could be measured; validate one of them first",
            )
            return _Outcome(verdict, (told,), False, measured, tokens, len(probes))
    if reference is None:
        return _Outcome(verdict, (), not is_short and not verdict.failed, measured, tokens, len(probes))
    found = differences(reference, measured, f"the reference of {row.space.slug}")
    return _Outcome(verdict, tuple(found), False, measured, tokens, len(probes))


def _reference_of_another(others: list[EmbeddingModel], width: int) -> Measured | None:
    """Measures the first of them that answers, and keeps that as the space's reference."""
    for other in others:
        if other.dimensions < width or other.unavailable_cause == Cause.DRIFT:
            continue
        probes = probes_for(other.max_tokens, is_exact=other.tokenizer == _EXACT)
        measured = _measured(ask(deployment_of(other), [Question(NATIVE, probes)])[0], other.dimensions)
        if measured is not None:
            return measured if keep_reference(other, measured) else find_reference(other)
    return None


def _measured(reading: Reading, width: int) -> Measured | None:
    vectors = reading.vectors
    if vectors is None or vectors.shape != (len(reading.question.probes), width):
        return None
    return Measured(tuple(each.name for each in reading.question.probes), vectors)


def _tokens(reading: Reading) -> int:
    """What it cost: the provider's count, else the likely one; nothing where nothing came."""
    if reading.vectors is None:
        return 0
    return reading.tokens if reading.tokens is not None else sum(each.cl100k for each in reading.question.probes)


@transaction.atomic
def _conclude(row: EmbeddingModel, outcome: _Outcome, kind: str, actor: str) -> ModelCheck:
    """The check's row, and what follows from it for the row as it is by now."""
    price, measured_at = price_now(row, utc_now()), row.updated_at
    row = locked_model(row.id)
    check = ModelCheck.objects.create(
        model=row,
        kind=kind,
        passed=not outcome.failed,
        failed=[asdict(each) for each in outcome.failed],
        probes=outcome.probes,
        tokens=outcome.tokens,
        cost_usd=None if price is None else (price * outcome.tokens / Decimal(1_000_000)).quantize(Decimal("1e-9")),
        actor=actor,
    )
    told = f"{len(outcome.failed)} probes failed" if outcome.failed else f"{outcome.probes} probes passed"
    if kind == ModelCheck.Kind.VALIDATION:
        events.note(row.id, "validated" if check.passed else "not validated", actor=actor, reason=told)
    # What was changed in the meantime was not measured.
    if row.updated_at == measured_at:
        if outcome.is_reference and outcome.measured is not None and not keep_reference(row, outcome.measured):
            raise Conflict(
                f"Another model of {row.space.slug} was measured at the same moment; validate this one again."
            )
        _keep_facts(row, outcome, is_passed=check.passed and kind == ModelCheck.Kind.VALIDATION)
        _move(row, outcome, actor)
    row.refresh_from_db(fields=["state"])  # it is shown with the check
    return check


def _move(row: EmbeddingModel, outcome: _Outcome, actor: str) -> None:
    is_on_trial = row.state == State.UNAVAILABLE and row.unavailable_cause == Cause.PROVIDER
    if outcome.drifted and (row.state in (State.AVAILABLE, State.DEPRECATED) or is_on_trial):
        _quarantine(row, outcome.drifted, actor)
    elif not outcome.failed and row.state == State.UNAVAILABLE:
        if _is_gone(row):
            reason = "it answers, whatever its vendor lists"
        elif row.unavailable_cause == Cause.DRIFT:
            reason = "its vectors are those of its space again"
        else:
            return
        move_model(model_id=row.id, to=State.AVAILABLE, reason=reason, actor=actor, proof=Proof.EQUALITY)


def _is_gone(row: EmbeddingModel) -> bool:
    """Whether it is out because its vendor's lists lack it."""
    return row.unavailable_cause == Cause.PROVIDER and is_delisted(row)


def _keep_facts(row: EmbeddingModel, outcome: _Outcome, *, is_passed: bool) -> None:
    changes: dict[str, object] = {}
    if is_passed:
        changes["validated_at"] = utc_now()
    if outcome.verdict.cuts:
        changes["cuts"] = outcome.verdict.cuts
    if changes:
        EmbeddingModel.objects.filter(id=row.id).update(**changes)
        catalog_changed()


def _quarantine(row: EmbeddingModel, drifted: tuple[FailedProbe, ...], actor: str) -> None:
    worst = min(drifted, key=lambda each: each.got)
    reason = f"drifted: {len(drifted)} probes differ from {row.space.slug}, {worst.probe} by a cosine of {worst.got}"
    VectorSpace.objects.filter(id=row.space_id).update(epoch=F("epoch") + 1)  # forget what it answered meanwhile
    events.note(row.id, "drifted", actor=actor, reason=reason)
    if row.state == State.UNAVAILABLE:
        blame_drift(model_id=row.id, reason=reason, actor=actor)
        return
    # The diagram leads from deprecated to removed alone; a wrong vector is worse than an early end.
    to = State.UNAVAILABLE if row.state == State.AVAILABLE else State.REMOVED
    move_model(model_id=row.id, to=to, reason=reason, actor=actor, cause=Cause.DRIFT, force=True)
