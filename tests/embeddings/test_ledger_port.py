"""What the gateway relies on in a ledger, over the stand-in and over the real one on a real PostgreSQL."""

from __future__ import annotations

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from psycopg.conninfo import make_conninfo

from billing.ledger import Ledger
from billing.models import ProviderCall, UsageRow
from core.errors import LedgerUnavailable
from tests.billing.records import provider_call, usage
from tests.embeddings.fakes import FakeLedger

SECONDS = 20.0


class Fake:
    """The stand-in, and what is in it."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()

    async def rows(self) -> list[tuple[str, str, int]]:
        return sorted((row.id, row.status, row.tokens) for row in self.ledger.rows.values())

    async def calls(self) -> list[str]:
        return sorted(self.ledger.calls)

    def go_away(self) -> None:
        self.ledger.is_up = False

    async def close(self) -> None:
        pass


class Real:
    """The real one on the test database."""

    def __init__(self) -> None:
        found = connection.settings_dict
        address = make_conninfo(
            host=found["HOST"], port=found["PORT"], dbname=found["NAME"], user=found["USER"], password=found["PASSWORD"]
        )
        self.ledger = Ledger(address, wait_s=SECONDS)
        self.ledger.start()

    @sync_to_async
    def rows(self) -> list[tuple[str, str, int]]:
        return sorted((str(row.id), row.status, row.tokens) for row in UsageRow.objects.all())

    @sync_to_async
    def calls(self) -> list[str]:
        return sorted(str(call.id) for call in ProviderCall.objects.all())

    def go_away(self) -> None:
        self.ledger = Ledger("postgresql://nobody@127.0.0.1:1/none", wait_s=SECONDS)

    async def close(self) -> None:
        await self.ledger.close()


@pytest.fixture(params=[Fake, Real])
async def port(request, transactional_db):
    made = request.param()
    yield made
    await made.close()
    await sync_to_async(connections.close_all)()  # that of the thread the rows were read in


async def test_a_committed_row_is_there_with_its_calls(port):
    await port.ledger.ready(within_s=SECONDS)
    asked = usage()
    call = provider_call(asked)
    await port.ledger.commit(asked, (call,))
    assert await port.rows() == [(asked.id, "ok", 2)]
    assert await port.calls() == [call.id]


async def test_the_first_row_of_an_id_stands(port):
    asked = usage()
    await port.ledger.commit(asked, ())
    await port.ledger.commit(usage(id=asked.id, created_ms=asked.created_ms, tokens=0, status="cancelled"), ())
    assert await port.rows() == [(asked.id, "ok", 2)]


async def test_a_row_that_nobody_waits_for_is_there_before_the_next_that_somebody_does(port):
    failed = usage(status="provider_error", tokens=0, cost_nano=0)
    port.ledger.note(failed, (provider_call(failed),))
    await port.ledger.commit(usage(), ())
    assert (failed.id, "provider_error", 0) in await port.rows()
    assert len(await port.calls()) == 1


async def test_a_ledger_that_is_away_says_so_in_time(port):
    port.go_away()
    with pytest.raises(LedgerUnavailable):
        await port.ledger.ready(within_s=0.05)
