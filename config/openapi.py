"""What drf-spectacular cannot see: how a key is sent, and the errors that every path may answer with."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter
from rest_framework.permissions import SAFE_METHODS

from catalog.rest import MOST_AT_ONCE, Versioned
from core.errors import public_errors

_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. `code` is stable; `docs/errors.md` lists all.",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people: what is wrong and what to do."},
        "code": {"type": "string", "enum": sorted({error.code for error in public_errors()})},
        "request_id": {"type": "string", "format": "uuid"},
        "errors": {
            "type": "object",
            "description": "Messages by field.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
    "example": {
        "type": "urn:quiver:error:unknown_field",
        "title": "Unknown field",
        "status": 400,
        "detail": "nmae: There is no such field; known are name, slug, tier.",
        "code": "unknown_field",
        "request_id": "0199e0c4-7a52-7c3e-8f52-0d6d1f5f3a11",
        "errors": {"nmae": ["There is no such field; known are name, slug, tier."]},
    },
}
_STATUSES = {
    "400": "A field or parameter is missing, wrong or unknown; `errors` names it.",
    "401": "No key, or one that is mistyped, unknown, revoked or expired.",
    "402": "The model has no price and the tenant has not opted in to that, or it costs more than is allowed.",
    "403": "The key lacks a scope or may not be used from here, or the tenant is suspended.",
    "404": "There is no such thing, or it is another tenant's.",
    "409": "The state of things does not allow it now.",
    "412": "It was changed since `If-Match` was read.",
    "422": "A model did not pass its probes, or the vector space is not the one required.",
    "429": "Too many of these; `Retry-After` says when it works again.",
    "503": "No model that may answer is usable now; `dropped` says why for each.",
}


_TAG = OpenApiParameter(
    "ETag", str, OpenApiParameter.HEADER, response=[200, 201], description="The version of what the answer shows."
)
_MATCH = OpenApiParameter(
    "If-Match", str, OpenApiParameter.HEADER, description="An `ETag`: change only what is still that version; else 412."
)


class Schema(AutoSchema):
    """Adds to operations on rows with a version what it is told and compared by."""

    def get_override_parameters(self) -> list[Any]:
        action = getattr(self.view, "action", None)
        if not isinstance(self.view, Versioned) or action not in self.view.versions:
            return []
        told = [] if self.method == "DELETE" else [_TAG]
        return told if self.method in SAFE_METHODS or action == "create" else [*told, _MATCH]


class ApiKeyScheme(OpenApiAuthenticationExtension):
    target_class = "tenants.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "`qv_live_…`; `X-API-Key` is taken as well."}


def describe_lists(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Says of a POST that takes lists what it takes and answers: one row, or a list of them."""
    for operations in result["paths"].values():
        for operation in operations.values():
            if operation.pop("x-takes-lists", False):
                for body in (operation["requestBody"], operation["responses"]["201"]):
                    content = body["content"]["application/json"]
                    one = content["schema"]
                    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_AT_ONCE}
                    content["schema"] = {"oneOf": [one, many]}
    return result


def describe_errors(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Adds the problem answers to every operation that needs a key."""
    result["components"]["schemas"]["Problem"] = _PROBLEM
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            takes_match = any(each["name"] == "If-Match" for each in operation.get("parameters", ()))
            for status in _possible(path, method) + ["412"] * takes_match:
                operation["responses"][status] = {"description": _STATUSES[status], "content": content}
    return result


# Lists that a query parameter narrows to one row's, which may be missing.
_NAMES_ROWS = ("/api/v1/embedding-models/providers/health", "/api/v1/tenant-models/usage")


def _possible(path: str, method: str) -> list[str]:
    if not path.startswith("/api/v1/"):
        return []
    found = ["400", "401", "403"]
    if "{" in path or method == "post" or path in _NAMES_ROWS:
        found.append("404")
    if method != "get":
        found.append("409")
    if path.startswith("/api/v1/embedding-models/catalog") and method in ("post", "put", "patch"):
        found.append("422")
    if path == "/api/v1/embedding-models/select":
        found += ["402", "422", "503"]
    if path.endswith("/alert-channels/{id}/test"):
        found.append("429")
    return found
