"""What agents may say on a socket, and what they are told: one type for the parameters of each method. Pure.

Owns the field names of the protocol. Preferences, capabilities and metadata are checked by who keeps them
(`tenants.preferences`, `tenants.agents`), the fields of a request by `requests.py`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from core.errors import InvalidRequest, QuiverError, UnknownField
from embeddings.requests import MAX_ITEMS, Body, Strategy
from tenants.settings import Fallback

Encoding = Literal["float", "base64", "binary"]
Status = Literal["available", "busy", "offline"]
Topic = Literal["models", "quotas", "budgets", "breakers", "alerts"]
TOPICS: tuple[Topic, ...] = ("models", "quotas", "budgets", "breakers", "alerts")
MOST_BATCH_ITEMS = MAX_ITEMS

_Word = Annotated[str, msgspec.Meta(max_length=200)]
_Short = Annotated[str, msgspec.Meta(max_length=100)]


class Params(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Of any method: an object. An unknown field is refused, never ignored."""


class Nothing(Params):
    """No parameters."""


class Authenticate(Params):
    api_key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Register(Params):
    agent_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    agent_type: _Short | None = None
    name: _Word | None = None
    version: _Short | None = None
    capabilities: list[str] | None = None
    preferences: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    last_event_id: _Short | None = None


class Heartbeat(Params):
    status: Status | None = None


class Update(Params):
    preferences: dict[str, Any] | None = None
    status: Status | None = None


class ListAgents(Params):
    status: Status | None = None
    agent_type: _Short | None = None
    after: _Word | None = None  # the last `agent_id` of the page before
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 100


class Generate(Params):
    input: str | list[str | int | list[int]]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=264)] | None = None
    task_type: Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    input_type: Literal["query", "document", "classification", "clustering", "similarity"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
    optimize: Strategy | None = None
    fallback: Fallback | None = None
    truncate: Literal["error", "end"] | None = None
    max_cost_usd: Decimal | None = None
    encoding: Encoding | None = None  # None: float in text frames, binary in binary ones
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None

    def body(self) -> Body:
        """The same as over HTTP."""
        return Body(
            self.input,
            self.model,
            self.dimensions,
            input_type=self.input_type,
            task_type=self.task_type,
            optimize=self.optimize,
            truncate=self.truncate,
            max_cost_usd=self.max_cost_usd,
            fallback=self.fallback,
        )


class BatchItem(Generate, kw_only=True):
    id: Annotated[str, msgspec.Meta(max_length=200)] | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Batch(Params):
    items: Annotated[list[BatchItem], msgspec.Meta(min_length=1, max_length=MOST_BATCH_ITEMS)]
    encoding: Encoding | None = None


class Cancel(Params):
    id: str | int


class Usage(Params):
    period: Literal["hour", "day", "week", "month"] = "day"


class Topics(Params):
    topics: Annotated[list[Topic], msgspec.Meta(min_length=1, max_length=50)]


_CHOICES = {
    "encoding": "float, base64 or binary",
    "status": "available, busy or offline",
    "topics": f"among {', '.join(TOPICS)}",
    "period": "hour, day, week or month",
    "input_type": "query, document, classification, clustering or similarity",
    "optimize": "priority, cost, latency or quality",
    "truncate": "error or end",
    "fallback": "auto, space or none",
    "task_type": "1 to 100 printable characters",
    "items": f"1 to {MOST_BATCH_ITEMS} objects with an `id` and an `input` each",
}


def refusal(message: str) -> QuiverError:
    """msgspec's refusal in the caller's words: `Expected … - at `$.input[3]`` names the field and the item."""
    place = re.search(r" - at `\$((?:\.\w+|\[[\d.]*\])*)`$", message)
    path = place[1].lstrip(".") if place else ""
    what = message[: place.start()] if place else message
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL)
    if unknown:
        name = _joined(path, unknown[1][:100])
        return UnknownField(f"`{name}` is no parameter of this method; remove it.", param=name)
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing:
        name = _joined(path, missing[1])
        return InvalidRequest(f"`{name}` is missing.", param=name)
    if not path:
        return InvalidRequest(f"`params` must be an object. {what}.", param="params")
    name = re.sub(r"\[.*", "", path.rpartition(".")[2])
    says = f"must be {_CHOICES[name]}" if name in _CHOICES else what
    return InvalidRequest(f"`{path}`: {says}.", param=path)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
