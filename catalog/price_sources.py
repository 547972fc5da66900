"""Where prices, widths and dates of models come from: one small port, five sources.

A source says what it knows as `Quote`s and decides nothing; what is done about them is `catalog.pricing`. Vendors' own
lists of models carry no prices.
Failure: a source that cannot be reached or makes no sense raises `SourceUnreadable`, whole: half a table would look
like prices that ended.
"""

from __future__ import annotations

import csv
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

from catalog.addresses import check_base_url
from catalog.discovery import embeds
from core.errors import InvalidRequest

SNAPSHOT = Path(__file__).parent / "data" / "embedding_prices.json"
MOST_BYTES = 20 * 1024 * 1024
TIMEOUT_S = 20.0
_MILLION = Decimal(1_000_000)
_PLACES = Decimal("1e-9")
# The table's and genai-prices' names of vendors → ours. Any other name stays: it is compared with a provider's slug.
_OF_TABLE: Mapping[str, tuple[str, ...]] = {
    "gemini": ("google",),
    "vertex_ai-embedding-models": ("vertex",),
    "vertex_ai": ("vertex",),
}
_OF_GENAI: Mapping[str, tuple[str, ...]] = {
    "aws": ("bedrock",),
    "google": ("google", "vertex"),
    "voyageai": ("voyage",),
}
_PREFIXED = {"openai", "bedrock", "vertex_ai-embedding-models"}  # whose names carry no vendor in front, or a region's


class SourceUnreadable(Exception):
    """The source has nothing that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What one source says of one model. `vendor` is a kind of provider or, for all others, a name like its slug."""

    source: str
    vendor: str
    identifier: str
    usd_per_million: Decimal | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    ends_on: date | None = None


class PriceSource(Protocol):
    """One place that knows prices."""

    name: str

    def read(self) -> list[Quote]:
        """All that it knows. Raises `SourceUnreadable`."""
        ...


class Table:
    """A JSON table in the shipped snapshot's format: from a file, or from an address."""

    def __init__(self, place: Path | str = SNAPSHOT, name: str = "snapshot") -> None:
        self.name = name
        self._place = place

    def read(self) -> list[Quote]:
        try:
            is_file = isinstance(self._place, Path) or "://" not in self._place
            content = Path(self._place).read_bytes() if is_file else _fetch(str(self._place))
            found = json.loads(content, parse_float=Decimal)
        except (OSError, ValueError, InvalidRequest) as error:
            raise SourceUnreadable(f"{self.name}: {error}") from error
        if not isinstance(found, dict) or not found:
            raise SourceUnreadable(f"{self.name}: no table of models")
        return [quote for key, entry in found.items() for quote in self._quotes(key, entry)]

    def _quotes(self, key: str, entry: Any) -> Iterator[Quote]:
        if not isinstance(entry, dict):
            raise SourceUnreadable(f"{self.name}: {key!r} is no entry")
        vendor = str(entry.get("litellm_provider", ""))
        identifier = _identifier(key, vendor)
        if identifier is None:
            return
        cost = entry.get("input_cost_per_token")
        usd = None if cost is None else _money(self.name, key, Decimal(cost) * _MILLION)
        for ours in _OF_TABLE.get(vendor, (vendor,)):
            yield Quote(
                self.name,
                ours,
                identifier,
                usd,
                _whole(entry.get("output_vector_size")),
                _whole(entry.get("max_input_tokens")),
                _day(self.name, key, entry.get("deprecation_date")),
            )


class GenaiPrices:
    """The package genai-prices: a second opinion."""

    name = "genai-prices"

    def read(self) -> list[Quote]:
        from genai_prices.data import providers  # three seconds and 30 MB: only where it is asked

        return [quote for provider in providers for model in provider.models for quote in self._quotes(provider, model)]

    def _quotes(self, provider: Any, model: Any) -> Iterator[Quote]:
        prices = model.prices
        if isinstance(prices, list):  # several, by date or hour: none of them is the price
            return
        usd = prices.input_mtok
        if usd is None or not isinstance(usd, Decimal | int | float):
            return
        amount = _money(self.name, model.id, Decimal(str(usd)))
        for vendor in _OF_GENAI.get(provider.id, (provider.id,)):
            for identifier in filter(embeds, sorted({model.id, *_equals(model.match)})):
                yield Quote(self.name, vendor, identifier, amount, None, model.context_window)


class CsvUpload:
    """A list that an operator uploads: `provider,model_identifier,cost_per_million_tokens` and, if known,
    `dimensions` and `max_tokens`; `provider` is a slug or a kind."""

    def __init__(self, text: str, name: str = "upload") -> None:
        self.name = name
        self._text = text

    def read(self) -> list[Quote]:
        rows = csv.DictReader(io.StringIO(self._text.lstrip("\ufeff")))
        wanted = {"provider", "model_identifier", "cost_per_million_tokens"}
        if not wanted <= set(rows.fieldnames or ()):
            raise SourceUnreadable(f"{self.name}: the first line must name {', '.join(sorted(wanted))}")
        found = []
        for number, row in enumerate(rows, 2):
            where = f"line {number}"
            if not row["provider"] or not row["model_identifier"]:
                raise SourceUnreadable(f"{self.name}: {where} names no provider or no model")
            try:
                usd = _money(self.name, where, Decimal(row["cost_per_million_tokens"] or "x"))
                width, most = (int(row[name]) if row.get(name) else None for name in ("dimensions", "max_tokens"))
            except (InvalidOperation, ValueError) as error:
                raise SourceUnreadable(f"{self.name}: {where} holds what is no number") from error
            found.append(Quote(self.name, row["provider"].strip(), row["model_identifier"].strip(), usd, width, most))
        return found


def read_all(sources: Iterable[PriceSource]) -> tuple[list[Quote], list[str]]:
    """What all of them say, and what is wrong with those that say nothing."""
    quotes: list[Quote] = []
    wrong: list[str] = []
    for source in sources:
        try:
            quotes += source.read()
        except SourceUnreadable as error:
            wrong.append(str(error))
    return quotes, wrong


def _identifier(key: str, vendor: str) -> str | None:
    """The vendor's own id; None for prices of one region, which hold there alone."""
    if vendor in _PREFIXED:
        return None if "/" in key else key
    _, slash, rest = key.partition("/")
    if not slash:
        return key
    return None if vendor == "azure" and "/" in rest else rest


def _fetch(address: str) -> bytes:
    """A document from an address that is no metadata service's, without following anybody elsewhere."""
    check_base_url(address)
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(address, timeout=TIMEOUT_S) as answer:
        content: bytes = answer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    return content


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        raise urllib.error.URLError(f"it leads elsewhere ({code}), which is not followed")


def _money(source: str, where: str, usd: Decimal) -> Decimal:
    if not usd.is_finite() or usd < 0:
        raise SourceUnreadable(f"{source}: the price of {where} is {usd}")
    return usd.quantize(_PLACES).normalize() + 0


def _whole(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number > 0 else None


def _day(source: str, where: str, value: Any) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(str(value))
    except ValueError as error:
        raise SourceUnreadable(f"{source}: the date of {where} is {value!r}") from error


def _equals(clause: Any) -> Iterator[str]:
    """The names that a clause of genai-prices' takes for a model as they stand."""
    if hasattr(clause, "equals"):
        yield clause.equals
    for part in getattr(clause, "or_", ()):
        yield from _equals(part)
