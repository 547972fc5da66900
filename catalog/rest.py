"""How `/api/v1` speaks, for the doors of all apps: errors, fields, pages, filters.

Owns translation only: `problem_response` (RFC 9457) for whatever a view raises, `StrictFields` (an unknown field is
refused by name, an unchanged read-only one is taken), `checked_rows` for lists of them, `KeysetPagination`,
`StrictFilters` (a query parameter that does nothing is refused), `Versioned` (`ETag` and `If-Match`). Lives in the
lowest Django app because all of them need it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar, cast

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as RowInvalid
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, JsonResponse
from django.utils.http import parse_etags
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework import exceptions, serializers
from rest_framework.pagination import CursorPagination
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView, set_rollback

from catalog.transactions import is_atomic
from core import errors

PROBLEM = "application/problem+json"


def problem_response(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """The answer to what a view raised; None for a defect, which Django logs and answers as a 500."""
    told = _told(error)
    if told is None:
        return None
    if is_atomic(context["view"]):
        set_rollback()
    body, status, headers = told
    body["request_id"] = getattr(context["request"], "request_id", "")
    return Response(body, status=status, headers=headers, content_type=PROBLEM)


def problem_page(request: HttpRequest, error: errors.QuiverError) -> JsonResponse:
    """The same outside of a view: unknown paths and defects."""
    body, status, _ = _quiver(error)
    body["request_id"] = getattr(request, "request_id", "")
    return JsonResponse(body, status=status, content_type=PROBLEM)


Told = tuple[dict[str, Any], int, dict[str, str]]


def _told(error: Exception) -> Told | None:
    if isinstance(error, errors.QuiverError):
        return _quiver(error)
    if isinstance(error, exceptions.ValidationError):
        return _invalid(dict(_flat(error.get_full_details())))
    if isinstance(error, RowInvalid):
        fields = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
        return _invalid({name: [(text, "invalid") for text in texts] for name, texts in fields.items()})
    if isinstance(error, exceptions.MethodNotAllowed):
        return _quiver(errors.MethodNotAllowed(str(error.detail)))
    if isinstance(error, exceptions.UnsupportedMediaType):
        return _quiver(errors.UnsupportedMediaType("The body must be application/json."))
    if isinstance(error, Http404):
        return _quiver(errors.NotFound("There is no such thing, or it is not yours."))
    if isinstance(error, PermissionDenied | exceptions.PermissionDenied):
        return _quiver(errors.KeyNotPermitted(str(error)))
    if isinstance(error, exceptions.APIException):
        body, _, headers = _quiver(errors.InvalidRequest(str(error.detail)))
        return body | {"status": error.status_code}, error.status_code, headers
    return None


def _quiver(error: errors.QuiverError) -> Told:
    body = _problem(error.code, error.status, error.message)
    if error.param is not None:
        body["errors"] = {error.param: [error.message]}
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.InvalidApiKey):
        headers["WWW-Authenticate"] = 'Bearer realm="quiver"'
    return body | dict(error.extra), error.status, headers


def _invalid(found: Mapping[str, list[tuple[str, str]]]) -> Told:
    codes = {code for entries in found.values() for _, code in entries}
    kind = errors.UnknownField if errors.UnknownField.code in codes else errors.InvalidRequest
    detail = " ".join(f"{name}: {text}" if name else text for name, entries in found.items() for text, _ in entries)
    body = _problem(kind.code, kind.status, detail)
    return body | {"errors": {name: [t for t, _ in entries] for name, entries in found.items()}}, kind.status, {}


def _problem(code: str, status: int, detail: str) -> dict[str, Any]:
    title = code.replace("_", " ").capitalize()
    return {"type": f"urn:quiver:error:{code}", "title": title, "status": status, "detail": detail, "code": code}


def _flat(details: Any, path: str = "") -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """DRF's nested error details as pairs of a dotted field name and its messages with their codes."""
    if isinstance(details, dict) and details.keys() == {"message", "code"} and isinstance(details["code"], str):
        yield path, [(details["message"], details["code"])]
    elif isinstance(details, dict):
        for name, inner in details.items():
            own = "" if name == "non_field_errors" else name
            yield from _flat(inner, f"{path}[{own}]" if isinstance(own, int) else ".".join(filter(None, (path, own))))
    elif all("message" in entry for entry in details):
        yield path, [(entry["message"], entry["code"]) for entry in details]
    else:
        for index, inner in enumerate(details):
            yield from _flat(inner, f"{path}[{index}]")


class StrictFields(serializers.Serializer[Any]):
    """Refuses fields it does not know. Read-only ones may come back as they were read, so that GET, edit, PUT works.

    A serializer may take a field under a second name: `also_known_as = {"second": "first"}`.
    """

    also_known_as: Mapping[str, str] = {}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            data = self._with_first_names(dict(data))
            wrong = self._unknown(data) | self._changed_read_only(data)
            if wrong:
                raise exceptions.ValidationError(wrong)
        return super().to_internal_value(data)

    def _with_first_names(self, data: dict[str, Any]) -> dict[str, Any]:
        for second, first in self.also_known_as.items():
            if second in data:
                value = data.pop(second)
                if data.setdefault(first, value) != value:
                    raise exceptions.ValidationError({second: [f"Says something else than `{first}`; send one."]})
        return data

    def _unknown(self, data: Mapping[str, Any]) -> dict[str, Any]:
        known = ", ".join(sorted(name for name, field in self.fields.items() if not field.read_only))
        unknown = errors.UnknownField.code
        return {
            name: [exceptions.ErrorDetail(f"There is no such field; known are {known}.", unknown)]
            for name in data.keys() - self.fields.keys()
        }

    def _changed_read_only(self, data: Mapping[str, Any]) -> dict[str, Any]:
        sent = [name for name, field in self.fields.items() if field.read_only and name in data]
        if not sent:
            return {}
        now = {} if self.instance is None else self.to_representation(self.instance)
        return {
            name: ["This field is read-only; leave it out or send it as it was read."]
            for name in sent
            if name not in now or not _same(self.fields[name], data[name], now[name])
        }


class StrictRows(StrictFields, serializers.ModelSerializer[Any]):
    """The same for fields taken from a model. Uniqueness is left to the services, which answer 409."""


MOST_AT_ONCE = 100
# For `extend_schema(extensions=…)` of a POST that takes one row or a list of them; `config.openapi` says it in full.
TAKES_LISTS = {"x-takes-lists": True}


def checked_rows(fields: type[StrictFields], rows: Any) -> list[dict[str, Any]]:
    """What a list holds, each row checked; an error names the row and the field, as in `[3].amount`."""
    of_lists: dict[str, Any] = {"many": True, "allow_empty": False, "max_length": MOST_AT_ONCE}
    found = fields(data=rows, **of_lists)
    found.is_valid(raise_exception=True)
    return [dict(each) for each in found.validated_data]


def _same(field: serializers.Field[Any, Any, Any, Any], sent: Any, now: Any) -> bool:
    if sent == now:
        return True
    if not isinstance(field, serializers.DecimalField | serializers.DateTimeField):
        return False
    try:
        return bool(field.to_internal_value(sent) == field.to_internal_value(now))
    except exceptions.ValidationError:
        return False


BY_TIME = ("-created_at", "created_at")  # the `orders` of a view; the first is what it does unasked


class KeysetPagination(CursorPagination):
    """`{"results","next","previous"}`, `limit` rows a page. A view orders by `ordering`, or as its caller chooses among
    its `orders`, whose fields are `ordered_by` others where an index has those; pages stay right while rows are being
    added."""

    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"
    offset_cutoff = 1_000_000  # of rows that are alike in what orders them, those beyond would never be shown
    ordering = ("-created_at", "-id")

    def get_page_size(self, request: Request) -> int:
        return page_number(request, "limit", default=self.page_size or 50, most=self.max_page_size or 200)

    def get_ordering(self, request: Request, queryset: QuerySet[Any], view: APIView) -> tuple[str, ...]:
        orders, asked = getattr(view, "orders", ()), request.query_params.get("ordering")
        if asked is None or not orders:
            return cast("tuple[str, ...]", getattr(view, "ordering", self.ordering))
        if asked not in orders:
            raise errors.InvalidRequest(f"`ordering` is {', '.join(orders)}.", param="ordering")
        name, sign = asked.removeprefix("-"), "-" if asked.startswith("-") else ""
        return sign + getattr(view, "ordered_by", {}).get(name, name), f"{sign}id"

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        orders = list(getattr(view, "orders", ()))
        schema = {"type": "string", "enum": orders, "default": orders[0]} if orders else {}
        return [*found, {"name": "ordering", "in": "query", "schema": schema}] if orders else found

    def decode_cursor(self, request: Request) -> Any:
        try:
            return super().decode_cursor(request)
        except exceptions.NotFound as error:
            raise errors.InvalidRequest(
                "`cursor` is not one of ours; take it from `next` or `previous`.", param="cursor"
            ) from error


def page_number(request: Request, name: str, *, default: int, most: int) -> int:
    """A query parameter that is a whole number from 1 to `most`."""
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise errors.InvalidRequest(f"`{name}` must be a whole number from 1 to {most}.", param=name)
    return int(text)


class StrictFilters(DjangoFilterBackend):
    """Refuses query parameters that neither filter nor page: a typo would give the whole list."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        refuse_unknown_parameters(request, view)
        return cast("QuerySet[Any]", super().filter_queryset(request, queryset, view))


def refuse_unknown_parameters(request: Request, view: APIView) -> None:
    """Raises `UnknownField` for a query parameter that the view does not know."""
    filterset = getattr(view, "filterset_class", None)
    known = {"cursor", "limit", *getattr(view, "parameters", ()), *(filterset.base_filters if filterset else ())}
    if getattr(view, "orders", ()):
        known.add("ordering")
    for name in request.query_params:
        if name not in known:
            raise errors.UnknownField(
                f"There is no query parameter {name!r}; known are {', '.join(sorted(known))}.", param=name
            )


class Versioned(APIView):
    """First base of a view of rows that have a version: answers that show one row have an `ETag`, and a change that
    comes with `If-Match` is a 412 once that has passed. The view says in `hold` how others are made to wait.

    The version is a digest of what the row is shown as, so that it tells of everything that belongs to it, in whatever
    table. A view outside of its request's transaction changes rows in `with self.unchanged()`.
    """

    # Action → the action whose answer shows what it changes. Actions that are missing here have no version.
    versions: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("retrieve", "create", "update", "partial_update", "destroy"), "retrieve")
    )
    volatile: ClassVar[frozenset[str]] = frozenset()  # fields that nobody's change is lost over, such as when last seen

    def hold(self) -> None:
        """Makes whoever else would change the row wait until this transaction ends, with the locks that the services
        take and in their order. A row that is missing is told by reading it."""
        raise NotImplementedError

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if is_atomic(self):
            self.check_version()

    def check_version(self) -> None:
        """Raises `PreconditionFailed` when the row is not what `If-Match` names, and holds it when it is."""
        asked, shows = self.request.headers.get("If-Match"), self.versions.get(self._action)
        if asked is None or shows is None or self._action == "create" or self.request.method in SAFE_METHODS:
            return
        self.hold()
        now = self._version_of(getattr(self, shows)(self.request, **self.kwargs).data)
        # A proxy that compresses answers makes a tag weak; what it names is the same row.
        named = {each.removeprefix("W/") for each in parse_etags(asked)}
        if not named & {"*", now}:
            raise errors.PreconditionFailed("This was changed since you read it; GET it again and decide anew.")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """The transaction of a change, for views outside of their request's."""
        with transaction.atomic():
            self.check_version()
            yield

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        # A list has no version of its own.
        if self._action in self.versions and response.status_code in (200, 201) and isinstance(response.data, Mapping):
            response["ETag"] = self._version_of(response.data)
        return super().finalize_response(request, response, *args, **kwargs)

    @property
    def _action(self) -> str:
        return getattr(self, "action", None) or ""

    def _version_of(self, shown: Mapping[str, Any]) -> str:
        lasting = {name: value for name, value in shown.items() if name not in self.volatile}
        text = json.dumps(lasting, cls=JSONEncoder, sort_keys=True)
        return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def actor_of(request: Request) -> str:
    """Who asks, in the words of rows that remember it: the key's id, never the key."""
    grant = getattr(request.user, "grant", None)
    return f"key {grant.key_id}" if grant is not None else str(request.user)
