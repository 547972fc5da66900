"""What a failure means: the whole table, and nothing of a key or a text in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from core.errors import QuiverError, public_errors
from providers.failures import (
    MAX_RETRY_AFTER_S,
    MEANING,
    FailureKind,
    ProviderFailure,
    classify_status,
    parse_retry_after,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def openai_error(message: str = "no", type: str = "invalid_request_error", code: str | int | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": type, "param": None, "code": code}}).encode()


def test_every_kind_has_a_meaning_that_ends_in_a_public_error() -> None:
    assert MEANING.keys() == set(FailureKind)
    assert {meaning.public for meaning in MEANING.values()} <= set(public_errors(QuiverError))


@pytest.mark.parametrize("kind", FailureKind)
def test_a_callers_fault_is_tried_nowhere_else_and_speaks_against_nobody(kind: FailureKind) -> None:
    meaning = MEANING[kind]

    assert not (meaning.callers_fault and (meaning.retry_same or meaning.other_route or meaning.unhealthy))
    assert meaning.callers_fault or meaning.other_route


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, FailureKind.BAD_ANSWER),
        (301, FailureKind.BAD_ANSWER),
        (307, FailureKind.BAD_ANSWER),
        (400, FailureKind.TEXT_REFUSED),
        (401, FailureKind.CREDENTIAL),
        (402, FailureKind.QUOTA),
        (403, FailureKind.CREDENTIAL),
        (404, FailureKind.MODEL_MISSING),
        (405, FailureKind.MODEL_MISSING),
        (406, FailureKind.BAD_ANSWER),
        (408, FailureKind.SERVER),
        (409, FailureKind.SERVER),
        (410, FailureKind.MODEL_MISSING),
        (413, FailureKind.TEXT_REFUSED),
        (415, FailureKind.BAD_ANSWER),
        (422, FailureKind.TEXT_REFUSED),
        (424, FailureKind.SERVER),
        (425, FailureKind.SERVER),
        (429, FailureKind.CAPACITY),
        (431, FailureKind.BAD_ANSWER),
        (500, FailureKind.SERVER),
        (502, FailureKind.SERVER),
        (503, FailureKind.SERVER),
        (504, FailureKind.SERVER),
        (529, FailureKind.SERVER),
    ],
)
def test_a_status_alone_is_classified(status: int, kind: FailureKind) -> None:
    failure = classify_status(status, now=NOW)

    assert (failure.kind, failure.status, failure.detail) == (kind, status, f"HTTP {status}")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, openai_error(type="insufficient_quota", code="insufficient_quota"), FailureKind.QUOTA),
        (429, openai_error(type="requests", code="rate_limit_exceeded"), FailureKind.CAPACITY),
        (400, openai_error(code="billing_hard_limit_reached"), FailureKind.QUOTA),
        (400, openai_error(code="context_length_exceeded"), FailureKind.TOO_LONG),
        (400, openai_error("Invalid 'input': maximum context length is 8192 tokens."), FailureKind.TOO_LONG),
        (400, openai_error("This model's maximum context length is 512 tokens.", code=400), FailureKind.TOO_LONG),
        (400, openai_error(code="model_not_found"), FailureKind.MODEL_MISSING),
        (
            413,
            b'{"error":"`inputs` must have less than 512 tokens. Given: 900","error_type":"Validation"}',
            FailureKind.TOO_LONG,
        ),
        (
            400,
            b'{"object":"error","message":"maximum context length is 512","type":"BadRequestError","code":400}',
            FailureKind.TOO_LONG,
        ),
        (401, openai_error("maximum context length"), FailureKind.CREDENTIAL),
        (400, b'{"message":"The provided model identifier is invalid."}', FailureKind.MODEL_MISSING),
        (400, b'{"message":"Bad text: the provided model identifier is invalid."}', FailureKind.TEXT_REFUSED),
        (
            400,
            b'{"error":{"status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}',
            FailureKind.CREDENTIAL,
        ),
        (400, b'[{"error":{"status":"FAILED_PRECONDITION","details":[7,{"reason":7}]}}]', FailureKind.CREDENTIAL),
        (400, b'{"__type":"com.amazon.coral.service#ServiceQuotaExceededException"}', FailureKind.CAPACITY),
        (500, b"<html>", FailureKind.SERVER),
        (400, b"[]", FailureKind.TEXT_REFUSED),
        (400, b'{"error":null}', FailureKind.TEXT_REFUSED),
        (400, b'{"error":{"code":{},"type":[],"message":7}}', FailureKind.TEXT_REFUSED),
        (400, b"\xff\xfe", FailureKind.TEXT_REFUSED),
        (400, b"[" * 60_000, FailureKind.TEXT_REFUSED),
        (400, b'"' + b"x" * 100_000 + b'"', FailureKind.TEXT_REFUSED),
    ],
)
def test_the_body_says_it_more_precisely(status: int, body: bytes, kind: FailureKind) -> None:
    assert classify_status(status, body, now=NOW).kind is kind


def test_the_detail_keeps_the_vendors_words_and_neither_key_nor_text() -> None:
    body = openai_error("Incorrect API key provided: sk-abc123. Text: hunter2", code="invalid_api_key")

    failure = classify_status(401, body, now=NOW)

    assert failure.detail == "HTTP 401 invalid_request_error invalid_api_key"
    assert "sk-" not in str(failure)


@pytest.mark.parametrize("echo", ["sk-abc123", "my secret text", "x" * 60, "línea"])
def test_a_code_that_is_no_word_is_dropped(echo: str) -> None:
    failure = classify_status(500, openai_error(type=echo, code=echo), now=NOW)

    assert failure.detail == "HTTP 500"


@pytest.mark.parametrize(
    ("value", "milliseconds", "seconds"),
    [
        ("7", "", 7.0),
        ("0", "", 0.0),
        ("1.5", "", 1.5),
        ("7", "250", 0.25),
        ("7", "soon", 7.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", "", 30.0),
        ("Sun, 01 Mar 2026 12:00:30 -0000", "", 30.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", "", 0.0),
        ("Sun, 01 Mar 2099 12:00:00 GMT", "", MAX_RETRY_AFTER_S),
        ("1e300", "", MAX_RETRY_AFTER_S),
        ("inf", "", MAX_RETRY_AFTER_S),
        ("-5", "", None),
        ("nan", "", None),
        ("soon", "", None),
        ("", "", None),
        ("Sun, 99 Mar 2026 12:00:00 GMT", "", None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(value: str, milliseconds: str, seconds: float | None) -> None:
    assert parse_retry_after(value, milliseconds=milliseconds, now=NOW) == seconds


def test_a_long_detail_is_cut() -> None:
    assert len(ProviderFailure(FailureKind.SERVER, "x" * 1000).detail) == 200
