"""What the benchmarks stand on is there; what they measure is theirs."""

from __future__ import annotations

import pytest

from benchmarks import rows
from tenants.keys import digest
from tenants.loading import find_key


@pytest.mark.django_db
def test_their_rows_can_be_written_and_their_keys_are_let_in() -> None:
    keys = rows.main("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1").split()
    grants = [find_key(digest(each)) for each in keys]
    assert [each.scopes if each else None for each in grants] == [{"embeddings"}] * 2
