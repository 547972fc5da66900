"""`/api/v1/usage` and `/api/v1/tenant-models/usage`: what was used, added up. Doors for reading."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.periods import start_of
from billing.usage import GROUPS, STEPS, SUMS, Narrowed, Used, sum_usage
from billing.usage_parts import floor_hour
from catalog.rest import StrictFields
from catalog.selectors import check_model
from core.clock import utc_now
from core.errors import InvalidRequest
from tenants.authentication import tenant_of
from tenants.selectors import names_by_key

# How much time may be asked for in steps; minutes are read from the ledger itself.
_LONGEST = {"minute": timedelta(hours=6), "hour": timedelta(days=62), "day": timedelta(days=1100)}
_MOST_ROWS = 10_000
PERIODS = ("hour", "day", "week", "month")


class UsageQuery(StrictFields):
    granularity = serializers.ChoiceField(
        STEPS, default="hour", help_text="At most 6 hours in minutes, 62 days in hours, 1100 days in days."
    )
    group_by = serializers.ChoiceField(list(GROUPS), required=False, help_text="Left out: everything together.")
    model_id = serializers.UUIDField(required=False, help_text="Of this row of the catalogue alone.")
    agent_id = serializers.CharField(required=False, max_length=200, trim_whitespace=False)
    key_id = serializers.UUIDField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        until = attrs.setdefault("to", utc_now())
        longest = _LONGEST[attrs["granularity"]]
        since = attrs.setdefault("from", until - min(longest, timedelta(days=1)))
        if since >= until:
            raise serializers.ValidationError({"from": "Must be before `to`."})
        if until - since > longest:
            raise serializers.ValidationError(
                {"from": f"At most {longest} by the {attrs['granularity']}; ask for less or a coarser granularity."}
            )
        return attrs


# `from` is no name in Python.
_TIMES = {
    "from": serializers.DateTimeField(required=False, help_text="From this moment on; a day before `to`, or 6 hours."),
    "to": serializers.DateTimeField(required=False, help_text="Before this moment; now."),
}
UsageQuery._declared_fields = _TIMES | UsageQuery._declared_fields


class Sums(serializers.Serializer[Any]):
    requests = serializers.IntegerField(help_text="Corrections of prices are none.")
    failed = serializers.IntegerField(help_text="Requests that were not answered.")
    items = serializers.IntegerField(help_text="Texts.")
    cached = serializers.IntegerField(help_text="Texts answered from the cache.")
    tokens = serializers.IntegerField()
    cost_usd = serializers.DecimalField(
        max_digits=20, decimal_places=9, help_text="Corrections of prices included, so it may be negative."
    )


class ByModel(Sums):
    model_id = serializers.UUIDField(allow_null=True, help_text="Null: no model was chosen.")
    model = serializers.CharField()
    provider = serializers.CharField()


class ByAgent(Sums):
    agent_id = serializers.CharField(help_text="Empty: no agent said that it was one.")


class UsedInStep(Sums):
    start = serializers.DateTimeField(help_text="When the step begins, UTC.")
    model_id = serializers.UUIDField(required=False, allow_null=True, help_text="Grouped by `model`.")
    model = serializers.CharField(required=False, help_text="Grouped by `model`.")
    provider = serializers.CharField(required=False, help_text="Grouped by `model` or `provider`.")
    agent_id = serializers.CharField(required=False, help_text="Grouped by `agent`; empty: none.")
    key_id = serializers.UUIDField(required=False, allow_null=True, help_text="Grouped by `key`.")
    key_name = serializers.CharField(required=False, allow_null=True, help_text="Null: there is no such key any more.")
    task_type = serializers.CharField(required=False, help_text="Grouped by `task`; empty: none.")


class UsageSumsFields(serializers.Serializer[Any]):
    granularity = serializers.ChoiceField(STEPS)
    group_by = serializers.ChoiceField(list(GROUPS), allow_null=True)
    total = Sums()
    results = UsedInStep(many=True, help_text="In order of time, then the dearest first. Empty steps are left out.")


UsageSumsFields._declared_fields = {
    "from": serializers.DateTimeField(),
    "to": serializers.DateTimeField(),
    **UsageSumsFields._declared_fields,
}


class UsageView(APIView):
    """What the caller's tenant used."""

    read_scope = write_scope = "usage:read"

    @extend_schema(
        summary="What was used, in steps of time and by model, provider, agent, key or task",
        description=f"One answer, no pages: more than {_MOST_ROWS:,} results are refused with what to do about it. "
        "What has just been answered is in it.",
        parameters=[UsageQuery],
        responses=UsageSumsFields,
    )
    def get(self, request: Request) -> Response:
        query = UsageQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        tenant_id, by = tenant_of(request).id, asked.get("group_by")
        found = sum_usage(
            tenant_id,
            since=asked["from"],
            until=asked["to"],
            by=by,
            step=asked["granularity"],
            narrowed=Narrowed(asked.get("model_id"), asked.get("agent_id"), asked.get("key_id")),
            most=_MOST_ROWS,
        )
        if len(found) > _MOST_ROWS:
            raise InvalidRequest(
                f"More than {_MOST_ROWS:,} results; ask for a shorter time or a coarser granularity.", param="from"
            )
        results = [shown(each) | {"start": each.start} for each in found]
        if by == "key":
            names = names_by_key(tenant_id, {each["key_id"] for each in results if each["key_id"]})
            results = [each | {"key_name": names.get(each["key_id"])} for each in results]
        body = {
            "from": asked["from"],
            "to": asked["to"],
            "granularity": asked["granularity"],
            "group_by": by,
            "total": _total(found),
            "results": results,
        }
        return Response(UsageSumsFields(body).data)


class PeriodQuery(StrictFields):
    period = serializers.ChoiceField(PERIODS, default="day", help_text="The one under way, by UTC's calendar.")
    model_id = serializers.UUIDField(required=False, help_text="The `id` of a row in the catalogue.")


class PeriodFields(serializers.Serializer[Any]):
    period = serializers.ChoiceField(PERIODS)
    start_time = serializers.DateTimeField()
    end_time = serializers.DateTimeField(help_text="Now: what was used until then.")
    total_tokens = serializers.IntegerField()
    total_requests = serializers.IntegerField()
    total_cost = serializers.DecimalField(max_digits=20, decimal_places=9)
    by_model = ByModel(many=True, help_text="The dearest first.")
    by_agent = ByAgent(many=True, help_text="The dearest first.")


class TenantModelUsageView(APIView):
    """What the caller's tenant used in the period under way."""

    read_scope = write_scope = "usage:read"

    @extend_schema(
        summary="What was used in this hour, day, week or month, by model and by agent",
        parameters=[PeriodQuery],
        responses=PeriodFields,
        examples=[
            OpenApiExample(
                "A day",
                {
                    "period": "day",
                    "start_time": "2026-11-26T00:00:00Z",
                    "end_time": "2026-11-26T09:30:00Z",
                    "total_tokens": 800,
                    "total_requests": 100,
                    "total_cost": "0.000016000",
                    "by_model": [],
                    "by_agent": [],
                },
                response_only=True,
            )
        ],
    )
    def get(self, request: Request) -> Response:
        query = PeriodQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        period, model_id = query.validated_data["period"], query.validated_data.get("model_id")
        if model_id is not None:
            check_model(model_id)
        now = utc_now()
        start, narrowed = _start(period, now), Narrowed(model_id=model_id)
        by_model, by_agent = (
            sum_usage(tenant_of(request).id, since=start, until=now, by=by, narrowed=narrowed)
            for by in ("model", "agent")
        )
        total = _total(by_model)
        body = {
            "period": period,
            "start_time": start,
            "end_time": now,
            "total_tokens": total["tokens"],
            "total_requests": total["requests"],
            "total_cost": total["cost_usd"],
            "by_model": [shown(each) for each in by_model],
            "by_agent": [shown(each) for each in by_agent],
        }
        return Response(PeriodFields(body).data)


def shown(used: Used) -> dict[str, Any]:
    """A sum as `Sums` shows it, with what it is of."""
    return {**used.of, **{name: getattr(used, name) for name in SUMS}}


def _total(found: Sequence[Used]) -> dict[str, Any]:
    total: dict[str, Any] = {name: sum(getattr(each, name) for each in found) for name in SUMS}
    return total | {"cost_usd": Decimal(total["cost_usd"])}


def _start(period: str, now: datetime) -> datetime:
    if period == "hour":
        return floor_hour(now)
    if period == "week":
        return start_of("day", now) - timedelta(days=now.weekday())
    return start_of(period, now)
