"""The data plane's operations, and the operational paths, in OpenAPI: no view of Django's serves them.

The fields of a request are read from the struct that reads requests, so that they cannot differ; answers are described
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from core.errors import public_errors
from embeddings.requests import Body

_TAGS = ["v1"]
_KEY: list[dict[str, list[str]]] = [{"ApiKey": []}]
_HEADERS = {
    "X-Request-Timeout-Ms": ("integer", "Shortens the deadline.", {"minimum": 1}),
    "Idempotency-Key": ("string", "The same request again is charged once and answered alike.", {"maxLength": 255}),
    "X-Require-Embedding-Space": ("string", "`space` or `space@dimensions`; anything else is a 422.", {}),
    "X-Agent-Id": ("string", "A registered agent of the tenant; a key that is bound to one fixes it.", {}),
    "Cache-Control": ("string", "`no-cache`: not from the cache; `no-store`: nor into it.", {}),
}
_TOLD = {
    "X-Request-Id": "Also the id of the usage record.",
    "X-Embedding-Model": "Who answered.",
    "X-Embedding-Provider": "Whose model it is.",
    "X-Embedding-Space": "Vectors of one space may be compared.",
    "X-Embedding-Dimensions": "Of each vector.",
    "X-Embedding-Cost-Usd": "What was charged.",
    "X-Embedding-Cached": "Texts from the cache, of all: `3/8`.",
    "X-Embedding-Attempts": "Calls to providers, failed ones too.",
}
_STATUSES = {
    400: "A field or header is missing, wrong or unknown, or a text is too long.",
    401: "No key, or one that is mistyped, unknown, revoked or expired.",
    402: "A limit of the day or month, or the cost that is allowed, would be passed; or the model has no price.",
    403: "The key may not do this, or the tenant is suspended.",
    404: "The model is not configured, or the agent is unknown.",
    405: "Another method is needed.",
    409: "The request with this `Idempotency-Key` is still running.",
    413: "The body is too large.",
    415: "The body must be JSON.",
    422: "The space is not the one required, or the `Idempotency-Key` was used for another request.",
    429: "A limit per minute would be passed; `Retry-After` says when it works again.",
    502: "The provider refused or failed.",
    503: "No model that may answer is usable now, or the platform is starting or stopping.",
    504: "Nothing answered within the deadline.",
}
_INPUT = {
    "description": "A text, texts, or token ids; 1 to 2048 items, at most 300,000 tokens.",
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 2048},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
            "maxItems": 2048,
        },
    ],
}
_EXAMPLE = {"model": "text-embedding-3-small", "input": ["The quick brown fox"], "input_type": "document"}


def add_data_plane(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A hook of drf-spectacular's: adds paths and schemas."""
    result["components"]["schemas"] |= _schemas()
    embedding = _operation(
        "Turn texts into vectors",
        "create_embedding",
        "EmbeddingRequest",
        "EmbeddingAnswer",
        (400, 401, 402, 403, 404, 405, 409, 413, 415, 422, 429, 502, 503, 504),
        headers=_HEADERS,
        told=_TOLD,
    )
    estimate = _operation(
        "What a request would cost, and who would answer",
        "estimate_embedding",
        "EmbeddingRequest",
        "EmbeddingEstimate",
        (400, 401, 402, 403, 404, 405, 413, 415, 422, 429, 503, 504),
        headers={name: _HEADERS[name] for name in ("X-Agent-Id", "X-Require-Embedding-Space")},
    )
    listed = _operation("The models that this key may use", "list_models", None, "ModelList", (401, 403, 405, 503))
    one = _operation("One model", "get_model", None, "Model", (401, 403, 404, 405, 503))
    path = {"type": "string", "minLength": 1, "example": "text-embedding-3-small"}
    named = "A name, the vendor's identifier, or `provider/name`; slashes may stay as they are."
    one["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": path, "description": named}]
    result["paths"] |= {
        "/v1/embeddings": {"post": embedding},
        "/v1/embeddings/estimate": {"post": estimate},
        "/v1/models": {"get": listed},
        "/v1/models/{id}": {"get": one},
        "/livez": {"get": _plain("Whether the process lives", "livez", {"200": "It does."})},
        "/readyz": {
            "get": _plain("Whether all it needs is there", "readyz", {"200": "It is.", "503": "It is not; see which."})
        },
    }
    return result


def _operation(
    summary: str,
    name: str,
    takes: str | None,
    answers: str,
    statuses: Iterable[int],
    *,
    headers: dict[str, tuple[str, str, dict[str, Any]]] | None = None,
    told: dict[str, str] | None = None,
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "OK", "content": _json(answers)}
    if told:
        answer["headers"] = {k: {"description": text, "schema": {"type": "string"}} for k, text in told.items()}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": _TAGS,
        "security": _KEY,
        "parameters": [
            {"name": each, "in": "header", "description": text, "schema": {"type": kind, **bounds}}
            for each, (kind, text, bounds) in (headers or {}).items()
        ],
        "responses": {
            "200": answer,
            **{str(code): {"description": _STATUSES[code], "content": _json("EmbeddingError")} for code in statuses},
        },
    }
    if takes is not None:
        found["requestBody"] = {"required": True, "content": _json(takes, example=_EXAMPLE)}
    return found


def _plain(summary: str, name: str, statuses: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["health"],
        "security": [],
        "responses": {code: {"description": text, "content": content} for code, text in statuses.items()},
    }


def _json(schema: str, **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, **more}}


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components([Body], ref_template="#/components/schemas/{name}")
    body = found["Body"]
    body["description"] = "OpenAI's request, and Quiver's own optional fields. An unknown field is a 400."
    body["properties"]["input"] = _INPUT
    body["properties"]["max_cost_usd"] = {
        "oneOf": [{"type": "number", "minimum": 0}, {"type": "string"}, {"type": "null"}],
        "description": "Dearer candidates are refused.",
    }
    text, count, flag = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
    maybe = {"oneOf": [text, {"type": "null"}]}
    vector = {"oneOf": [{"type": "array", "items": {"type": "number"}}, text]}
    item = _object({"object": text, "index": count, "embedding": vector, "code": text, "message": text}, 2)
    attempt = _object({"model": text, "provider": text, "outcome": text, "ms": {"type": "number"}})
    usage = _object({"prompt_tokens": count, "total_tokens": count})
    answered = {"provider": text, "model": text, "space": text, "dimensions": count, "cost_usd": text, "cached": count}
    ended = {"oneOf": [_object({"date": maybe, "sunset": maybe, "successor": maybe}), {"type": "null"}]}
    quiver = _object({**answered, "attempts": _list(attempt), "request_id": text, "deprecation": ended}, 8)
    candidate = _object({"model": text, "provider": text, "space": text, "reasons": _list(text)})
    dropped = _object({"model": text, "provider": maybe, "reason": text})
    figure = {"oneOf": [count, text]}
    limit = _object(
        {
            "scope": text,
            "kind": text,
            "limit": figure,
            "used": figure,
            "held": figure,
            "remaining": figure,
            "resets_at": text,
        }
    )
    estimate = {"tokens": count, "cost_usd": text, "cached": count, "candidates": _list(candidate)}
    detail = {
        "provider": text,
        "identifier": text,
        "space": text,
        "dimensions": count,
        "allowed_dimensions": _list(count),
        "matryoshka": flag,
        "max_tokens": count,
        "cost_per_million_tokens": maybe,
        "state": text,
        "is_default": flag,
        "deprecation": ended,
    }
    codes = sorted({error.code for error in public_errors()})
    error = _object(
        {"message": text, "type": text, "code": {"type": "string", "enum": codes}, "param": maybe, "request_id": text}
    )
    return {
        "EmbeddingRequest": body,
        "EmbeddingAnswer": _object(
            {"object": text, "data": _list(item), "model": text, "usage": usage, "quiver": quiver}
        ),
        "EmbeddingEstimate": _object({**estimate, "dropped": _list(dropped), "limits": _list(limit)}),
        "Model": _object({"id": text, "object": text, "created": count, "owned_by": text, "quiver": _object(detail)}),
        "ModelList": _object({"object": text, "data": _list({"$ref": "#/components/schemas/Model"})}),
        "EmbeddingError": {**_object({"error": error}), "description": "OpenAI's form. `code` is stable."},
    }


def _object(properties: dict[str, Any], required: int | None = None) -> dict[str, Any]:
    """The first so many properties are always there; all of them unless said otherwise."""
    return {"type": "object", "properties": properties, "required": list(properties)[:required]}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}
