"""What a vendor's list of models means for our catalogue: new, changed, deprecated, gone. Pure.

Decides which listed models embed, whether a list makes sense at all, the difference to the rows that are known, and
which of its parts may be applied without asking. Who lists and who writes is `catalog.discovery_runs`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum

from providers.base import ListedModel

MOST_LISTED = 20_000
GONE_AFTER = 3  # listings in a row without it: vendors' lists have gaps
TOLD_AHEAD = timedelta(days=180)  # an end that is further away is no news yet
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$")  # what a catalogue row can hold
_EMBEDS = re.compile(
    r"embed|(^|[/@._:-])(bge|e5|gte|gtr|minilm|all-mpnet|instructor|uae-large|stella|jina-clip|voyage)(?=[._:/-]|$)",
    re.I,
)
_RERANKS = re.compile(r"rerank", re.IGNORECASE)


class Kind(StrEnum):
    """The kinds of a change."""

    NEW = "new"
    CHANGED = "changed"
    DEPRECATED = "deprecated"
    GONE = "gone"


class Garbage(Exception):
    """What came is no list of models; the message says why."""


@dataclass(frozen=True, slots=True)
class Known:
    """A catalogue row of the provider."""

    model_id: str
    identifier: str
    name: str
    state: str
    dimensions: int
    max_tokens: int
    missed: int  # listings in a row
    was_listed: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the price sources say of an identifier at this vendor."""

    dimensions: int | None = None
    max_tokens: int | None = None
    ends_on: date | None = None
    usd_per_million: Decimal | None = None  # only where they agree
    source: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `was` and `now` hold the fields that it is about, `waits` why it is not applied by itself."""

    kind: Kind
    identifier: str
    model_id: str | None = None
    was: Mapping[str, object] = field(default_factory=dict)
    now: Mapping[str, object] = field(default_factory=dict)
    waits: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.identifier}"


@dataclass(frozen=True, slots=True)
class Diff:
    """All changes, and which rows were and were not in the list."""

    changes: tuple[Change, ...]
    listed: frozenset[str]  # model ids
    missed: frozenset[str]


def embeds(identifier: str) -> bool:
    """Whether a name is that of an embedding model: most lists say no more than names."""
    return bool(_EMBEDS.search(identifier)) and not _RERANKS.search(identifier)


def checked(listed: Sequence[ListedModel], *, is_expected: bool) -> dict[str, ListedModel]:
    """The list by identifier. Raises `Garbage` for one that cannot be true; `is_expected`: it must not be empty."""
    if not listed and is_expected:
        raise Garbage("the list is empty, and it was not before")
    if len(listed) > MOST_LISTED:
        raise Garbage(f"the list has {len(listed)} models")
    found: dict[str, ListedModel] = {}
    for each in listed:
        if not isinstance(each.identifier, str) or not _NAME.fullmatch(each.identifier):
            raise Garbage(f"{str(each.identifier)[:80]!r} is no identifier of a model")
        if each.dimensions is not None and not 1 <= each.dimensions <= 65_536:
            raise Garbage(f"{each.identifier} is said to have {each.dimensions} dimensions")
        found.setdefault(each.identifier, each)
    return found


def compare(
    listed: Mapping[str, ListedModel],
    known: Sequence[Known],
    facts: Mapping[str, Facts],
    *,
    ignored: Collection[str],
    today: date,
) -> Diff:
    """The difference between a vendor's list and its rows that are not removed."""
    rows = {row.identifier: row for row in known}
    names = {row.name for row in known}
    changes: list[Change] = []
    for identifier, model in sorted(listed.items()):
        if identifier not in rows and identifier not in ignored and (embeds(identifier) or identifier in facts):
            changes.append(_new(model, facts.get(identifier, Facts()), names))
    seen, missed = set(), set()
    for row in known:
        listing = _listing_of(row, listed)
        if listing is None:
            if row.was_listed:
                missed.add(row.model_id)
                changes += _gone(row)
            continue
        seen.add(row.model_id)
        changes += _changed(row, listing)
        changes += _deprecated(row, listing, facts.get(row.identifier, Facts()), today)
    return Diff(tuple(changes), frozenset(seen), frozenset(missed))


def _listing_of(row: Known, listed: Mapping[str, ListedModel]) -> ListedModel | None:
    """Also where the row names an inference profile of a listed model (`us.cohere.embed-v4:0`), or its ARN."""
    if row.identifier in listed:
        return listed[row.identifier]
    at = max(row.identifier.rfind("/"), row.identifier.find("."))
    return listed.get(row.identifier[at + 1 :]) if at >= 0 else None


def _new(model: ListedModel, facts: Facts, names: Collection[str]) -> Change:
    width = model.dimensions or facts.dimensions
    waits = ""
    if width is None:
        waits = "its width is not known; say it when you accept it"
    elif model.identifier in names:
        waits = "another row has this name"
    elif model.is_deprecated:
        waits = "the vendor is retiring it already"
    now = {
        "name": model.name or model.identifier,
        "dimensions": width,
        "max_tokens": model.max_tokens or facts.max_tokens,
        "usd_per_million": None if facts.usd_per_million is None else f"{facts.usd_per_million:f}",
        "price_source": facts.source,
    }
    return Change(Kind.NEW, model.identifier, now=now, waits=waits)


def _changed(row: Known, listing: ListedModel) -> list[Change]:
    was: dict[str, object] = {}
    now: dict[str, object] = {}
    for name in ("dimensions", "max_tokens"):
        told = getattr(listing, name)
        if told is not None and told != getattr(row, name):
            was[name], now[name] = getattr(row, name), told
    if not now:
        return []
    waits = ""
    if row.state not in ("draft", "testing"):
        waits = "the model is in use"
        if "dimensions" in now:
            waits = "its vectors would be of another width: what answers under this name is another model"
    return [Change(Kind.CHANGED, row.identifier, row.model_id, was, now, waits)]


def _deprecated(row: Known, listing: ListedModel, facts: Facts, today: date) -> list[Change]:
    is_soon = facts.ends_on is not None and facts.ends_on - today <= TOLD_AHEAD
    if row.state not in ("available", "unavailable") or not (listing.is_deprecated or is_soon):
        return []
    ends = facts.ends_on.isoformat() if facts.ends_on is not None and facts.ends_on > today else None
    return [Change(Kind.DEPRECATED, row.identifier, row.model_id, {"state": row.state}, {"ends_on": ends})]


def _gone(row: Known) -> list[Change]:
    if row.missed + 1 < GONE_AFTER or row.state != "available":
        return []
    return [Change(Kind.GONE, row.identifier, row.model_id, {"state": row.state}, {"missed": row.missed + 1})]
