"""What an agent prefers: names, bounds and words of its preferences, and how they are written down. Pure.

Decides what is a sensible value and which field a refusal names. Whether the tenant has such models is for the caller
to say (`check_models`); what preferences do to a request is `embeddings.preferring`. They can only narrow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from core.errors import InvalidRequest, UnknownField
from core.money import nano_from_usd, usd_from_nano

AgentStrategy = Literal["tenant_default", "fixed", "cost", "latency", "quality"]
SLOTS = ("primary", "secondary", "tertiary")
MOST_TASKS = 100
_MOST_USD_PER_REQUEST = 1_000_000
_MOST_USD_PER_MONTH = 99_999_999_999  # what the column of an amount holds
_MOST_TASK = 100  # as `task_type` of a request
_MOST_MODEL = 264  # as `model` of a request

_ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=_MOST_MODEL)]


class Preferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checked preferences; without any, the tenant's own order holds."""

    strategy: AgentStrategy = "tenant_default"
    primary: str | None = None
    secondary: str | None = None
    tertiary: str | None = None
    task_models: Mapping[str, str] = {}
    max_cost_per_request_nano: int | None = None
    monthly_budget_nano: int | None = None
    max_latency_ms: int | None = None
    required_dimensions: int | None = None
    required_space: str | None = None

    @property
    def models(self) -> frozenset[str]:
        """Every model named, as it is written."""
        return frozenset(name for _, name in named_models(self))


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    """The wire's form; `null` stands for absent."""

    strategy: AgentStrategy | None = None
    primary: _ModelName | None = None
    secondary: _ModelName | None = None
    tertiary: _ModelName | None = None
    task_models: dict[str, object] | None = None
    max_cost_per_request_usd: Decimal | None = None
    monthly_budget_usd: Decimal | None = None
    max_latency_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None
    required_dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
    required_space: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None


FIELDS: tuple[str, ...] = _Wire.__struct_fields__
_SAYS = {"strategy": "must be tenant_default, fixed, cost, latency or quality"}


def parse(raw: object, *, within: str = "preferences") -> Preferences:
    """Raises `InvalidRequest` or `UnknownField` naming the field; `within` is what the caller calls the whole, empty
    where the body is nothing else."""
    if not isinstance(raw, Mapping):
        raise InvalidRequest("Preferences are a JSON object.", param=within or None)
    for name in raw:
        if name not in FIELDS:
            shown = str(name)[:100]
            raise UnknownField(
                f"There is no preference {shown!r}; known are {', '.join(FIELDS)}.", param=_path(within, shown)
            )
    try:
        asked = msgspec.convert(dict(raw), _Wire)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), within) from None
    found = Preferences(
        strategy=asked.strategy or "tenant_default",
        primary=asked.primary,
        secondary=asked.secondary,
        tertiary=asked.tertiary,
        task_models=_task_models(asked.task_models or {}, within),
        max_cost_per_request_nano=_nano(
            asked.max_cost_per_request_usd, _MOST_USD_PER_REQUEST, _path(within, "max_cost_per_request_usd")
        ),
        monthly_budget_nano=_nano(asked.monthly_budget_usd, _MOST_USD_PER_MONTH, _path(within, "monthly_budget_usd")),
        max_latency_ms=asked.max_latency_ms,
        required_dimensions=asked.required_dimensions,
        required_space=asked.required_space,
    )
    _check_slots(found, within)
    return found


def to_json(preferences: Preferences) -> dict[str, Any]:
    """All fields, in the form that `parse` takes; money as decimal strings."""
    return {
        "strategy": preferences.strategy,
        "primary": preferences.primary,
        "secondary": preferences.secondary,
        "tertiary": preferences.tertiary,
        "task_models": dict(preferences.task_models),
        "max_cost_per_request_usd": _usd(preferences.max_cost_per_request_nano),
        "monthly_budget_usd": _usd(preferences.monthly_budget_nano),
        "max_latency_ms": preferences.max_latency_ms,
        "required_dimensions": preferences.required_dimensions,
        "required_space": preferences.required_space,
    }


def named_models(preferences: Preferences) -> Iterator[tuple[str, str]]:
    """Each field that names a model, with the name; those of tasks first."""
    for task, name in preferences.task_models.items():
        yield f"task_models.{task}", name
    for slot in SLOTS:
        name = getattr(preferences, slot)
        if name is not None:
            yield slot, name


def check_models(preferences: Preferences, configured: Collection[str], *, within: str = "preferences") -> None:
    """Raises `InvalidRequest` for a model that is not among `configured`, the names as callers use them."""
    for field, name in named_models(preferences):
        if name not in configured:
            raise InvalidRequest(
                f"The tenant has configured no model {name!r}; configure it first, or name another.",
                param=_path(within, field),
                extra={"suggested_models": sorted(configured)[:10]},
            )


def _check_slots(found: Preferences, within: str) -> None:
    taken: dict[str, str] = {}
    for slot in SLOTS:
        name = getattr(found, slot)
        if name is None:
            continue
        if name in taken:
            raise InvalidRequest(
                f"{name!r} is the {taken[name]} already; the {slot} is for when that cannot answer.",
                param=_path(within, slot),
            )
        taken[name] = slot
    if found.strategy == "fixed" and not found.models:
        raise InvalidRequest(
            "`fixed` means these models and no others; name a `primary`, or a model for a task.",
            param=_path(within, "primary"),
        )


def _task_models(given: Mapping[str, object], within: str) -> Mapping[str, str]:
    field = _path(within, "task_models")
    if len(given) > MOST_TASKS:
        raise InvalidRequest(f"At most {MOST_TASKS} tasks have a model of their own.", param=field)
    found: dict[str, str] = {}
    for task, name in given.items():
        if not (1 <= len(task) <= _MOST_TASK and task.isprintable()):
            raise InvalidRequest(f"A task is 1 to {_MOST_TASK} printable characters.", param=field)
        if not (isinstance(name, str) and 1 <= len(name) <= _MOST_MODEL):
            raise InvalidRequest("The name of a model belongs here.", param=f"{field}.{task}")
        found[task] = name
    return found


def _nano(usd: Decimal | None, most: int, field: str) -> int | None:
    if usd is None:
        return None
    if not usd.is_finite() or not 0 <= usd <= most:
        raise InvalidRequest(f"An amount in USD from 0 to {most:,}.", param=field)
    _, digits, exponent = usd.as_tuple()  # no arithmetic: it rounds
    zeros = len(digits) - len(bytes(digits).rstrip(b"\0"))
    if usd and int(exponent) + zeros < -9:
        raise InvalidRequest("At most nine places after the point: a nano-dollar.", param=field)
    return nano_from_usd(usd)


def _usd(nano: int | None) -> str | None:
    return None if nano is None else f"{usd_from_nano(nano).normalize():f}"


def _path(within: str, field: str) -> str:
    return f"{within}.{field}" if within else field


def _refusal(message: str, within: str) -> InvalidRequest:
    """msgspec's refusal in the caller's words: its text ends in ` - at `$.field``."""
    place = re.search(r" - at `(?:key` in `)?\$\.?(\w*)", message)
    name = place[1] if place else ""
    what = _SAYS.get(name) or (message[: place.start()] if place else message)
    return InvalidRequest(f"`{name}`: {what}.", param=_path(within, name) if name else within or None)
