"""A fake vendor as a provider, and the only price table that there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Writes the only price table that there is; at first it knows the fakes' models."""
    from catalog import prices
    from catalog.price_sources import Table

    path = tmp_path / "table.json"

    def written(entries: dict[str, Any]) -> None:
        path.write_text(json.dumps(entries))
        prices._remembered.cache_clear()

    monkeypatch.setattr(prices, "sources", lambda: [Table(path, "table")])
    written(json.loads((ROOT / "catalog/data/embedding_prices.json").read_text()))
    return written


@pytest.fixture
def openai() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def vendor(openai: FakeOpenAI, table: Any) -> FakeOpenAI:
    """The fake as the provider `vendor`."""
    from catalog.upstreams import add_provider

    add_provider(slug="vendor", kind="openai", base_url=openai.base_url, secret={"api_key": openai.key})
    return openai


@pytest.fixture
def worker() -> Iterator[None]:
    """Tasks run as soon as they are sent."""
    from config.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False
