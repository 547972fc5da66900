"""What a process knows of keys and tenants: never mixed versions, no change lost, fresh or said to be stale."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from uuid import UUID

import pytest

from catalog.deployments import Catalog
from core.changes import Change
from core.errors import InvalidApiKey, KeyNotPermitted, Starting
from embeddings.configuration import Configuration, RowsAway
from tenants.settings import TenantSettings
from tenants.snapshots import TenantConfig
from tests.embeddings.building import choice, deployment, grant

ACME = UUID(int=1)
KEY, OTHER = b"digest of acme's key", b"digest of another key"
SECONDS = 10.0


class FakeRows:
    """A database in memory. `hold(name)` makes reads by that name wait, inside, after they have read."""

    def __init__(self) -> None:
        self.small = deployment("small")
        self.version = 1
        self.catalog_version = 1
        self.name = "small"
        self.keys = {KEY: grant(), OTHER: grant(key_id=UUID(int=8))}
        self.is_away = False
        self.broken = ""  # the read that fails for a reason of its own
        self.has_tenant = True
        self.reads: list[str] = []
        self._held: dict[str, tuple[threading.Event, threading.Event]] = {}

    def hold(self, name: str) -> tuple[threading.Event, threading.Event]:
        """Two events: a read has its value, and it may return with it."""
        self._held[name] = threading.Event(), threading.Event()
        return self._held[name]

    def change(self, **facts: object) -> None:
        """Changes rows of the tenant, and its version with them."""
        self.version += 1
        for name, value in facts.items():
            setattr(self, name, value)

    def find_key(self, digest):
        found = self.keys.get(digest)
        return self._read("find_key", found and replace(found, tenant_version=self.version if found.tenant_id else 0))

    def load_catalog(self):
        model = replace(self.small, name=self.name)
        return self._read("load_catalog", Catalog(self.catalog_version, {model.model_id: model}))

    def load_tenant(self, tenant_id):
        models = (choice(self.small).configured,)
        config = TenantConfig(tenant_id, "acme", "standard", False, TenantSettings(), self.version, models)
        return self._read("load_tenant", (config, ()) if self.has_tenant else None)

    def versions(self, tenant_ids):
        return self._read("versions", (self.catalog_version, dict.fromkeys(tenant_ids, self.version)))

    def _read(self, name, value):
        self.reads.append(name)
        if self.is_away:
            raise RowsAway
        if name == self.broken:
            raise ValueError("this row makes no sense")
        if name in self._held:
            has_read, may_return = self._held.pop(name)
            has_read.set()
            may_return.wait(SECONDS)
        return value


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rows():
    return FakeRows()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def configuration(rows, clock):
    """Not polling by itself."""
    made = Configuration(rows, poll_s=0.01, stale_s=300, clock=clock)
    yield made
    await made.close()


async def has(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS)


async def until(look) -> None:
    async with asyncio.timeout(SECONDS):
        while not look():
            await asyncio.sleep(0.005)


async def test_what_was_read_once_is_known_without_reading(configuration, rows):
    await configuration.refresh()
    found = await configuration.find(KEY)
    read = len(rows.reads)
    assert configuration.known(KEY) == found == await configuration.find(KEY)
    assert (len(rows.reads), found[1].config.slug) == (read, "acme")
    assert found[1].choices[0].deployment.name == "small"


async def test_unknown_and_platform_keys_are_refused(configuration, rows):
    rows.keys[b"platform"] = grant(tenant_id=None)
    with pytest.raises(InvalidApiKey):
        await configuration.find(b"unknown")
    with pytest.raises(KeyNotPermitted):
        await configuration.find(b"platform")
    rows.has_tenant = False
    with pytest.raises(InvalidApiKey):
        await configuration.find(KEY)


async def test_a_change_makes_every_key_of_the_tenant_old_at_once(configuration, rows):
    await configuration.refresh()
    await configuration.find(KEY)
    await configuration.find(OTHER)
    rows.change()
    del rows.keys[OTHER]
    configuration.apply(Change(ACME))
    assert configuration.known(KEY) is None
    with pytest.raises(InvalidApiKey):
        await configuration.find(OTHER)
    key, snapshot = await configuration.find(KEY)
    assert key.tenant_version == snapshot.config.version == 2


async def test_a_key_and_a_snapshot_of_two_versions_never_meet(configuration, rows):
    """The key is read, then the tenant changes, then the tenant is read."""
    await configuration.refresh()
    has_read, may_return = rows.hold("find_key")
    asking = asyncio.create_task(configuration.find(KEY))
    await has(has_read)
    rows.change()
    may_return.set()
    key, snapshot = await asking
    assert key.tenant_version == snapshot.config.version == 2


async def test_a_key_revoked_between_two_reads_is_refused(configuration, rows):
    await configuration.refresh()
    has_read, may_return = rows.hold("find_key")
    asking = asyncio.create_task(configuration.find(KEY))
    await has(has_read)
    rows.change()
    del rows.keys[KEY]
    may_return.set()
    with pytest.raises(InvalidApiKey):
        await asking


@pytest.mark.parametrize("read", ["find_key", "load_tenant", "load_catalog"])
@pytest.mark.parametrize("change", [Change(ACME), Change()], ids=["tenant", "catalogue"])
async def test_a_change_told_during_a_read_is_not_lost(configuration, rows, read, change):
    has_read, may_return = rows.hold(read)
    asking = asyncio.create_task(configuration.find(KEY))
    await has(has_read)
    rows.change(catalog_version=2, name="renamed")
    configuration.apply(change)
    configuration.apply(Change())
    may_return.set()
    await asking
    key, snapshot = await configuration.find(KEY)
    assert (key.tenant_version, snapshot.config.version, snapshot.catalog_version) == (2, 2, 2)
    assert snapshot.choices[0].deployment.name == "renamed"


async def test_a_change_whose_message_was_lost_is_found_by_comparing_versions(configuration, rows):
    await configuration.refresh()
    await configuration.find(KEY)
    configuration.start()
    assert configuration.known(KEY) is not None
    rows.change()
    await until(lambda: configuration.known(KEY) is None)
    assert (await configuration.find(KEY))[1].config.version == 2
    rows.name, rows.catalog_version = "renamed", 2
    await until(lambda: configuration.known(KEY) is None)
    assert (await configuration.find(KEY))[1].choices[0].deployment.name == "renamed"


async def test_hundreds_that_ask_at_once_read_once(configuration, rows):
    await configuration.refresh()
    has_read, may_return = rows.hold("find_key")
    asking = [asyncio.create_task(configuration.find(KEY)) for _ in range(300)]
    await has(has_read)
    may_return.set()
    found = await asyncio.gather(*asking)
    assert all(each == found[0] for each in found)
    assert [rows.reads.count(name) for name in ("find_key", "load_tenant", "load_catalog")] == [1, 1, 1]


async def test_who_leaves_does_not_take_the_others_reading_along(configuration, rows):
    await configuration.refresh()
    has_read, may_return = rows.hold("find_key")
    leaving, staying = (asyncio.create_task(configuration.find(KEY)) for _ in range(2))
    await has(has_read)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    may_return.set()
    assert (await staying)[0].key_id == rows.keys[KEY].key_id


async def test_without_postgresql_what_is_known_serves_until_it_is_stale(configuration, rows, clock):
    await configuration.refresh()
    await configuration.find(KEY)
    rows.is_away = True
    clock.now += 300
    assert configuration.known(KEY) is not None
    assert configuration.is_confirmed
    with pytest.raises(Starting):
        await configuration.find(OTHER)
    clock.now += 1
    assert (configuration.known(KEY), configuration.is_confirmed) == (None, False)
    with pytest.raises(Starting) as refused:
        await configuration.find(KEY)
    assert (refused.value.status, refused.value.retry_after) == (503, 1)


async def test_while_postgresql_is_away_nobody_queues_for_it(configuration, rows):
    """Finding out takes seconds each time, so one finds out for all, whether they came before or after."""
    await configuration.refresh()
    await configuration.find(KEY)
    has_read, may_return = rows.hold("find_key")
    first = asyncio.create_task(configuration.find(b"first"))
    await has(has_read)
    queued = [asyncio.create_task(configuration.find(b"%d" % number)) for number in range(20)]
    await asyncio.sleep(0)
    rows.is_away = True
    may_return.set()
    outcomes = await asyncio.gather(first, *queued, return_exceptions=True)
    outcomes += await asyncio.gather(*(configuration.find(b"%d" % n) for n in range(20)), return_exceptions=True)
    assert {type(each) for each in outcomes[1:]} == {Starting}
    assert rows.reads.count("find_key") == 3  # acme's, the first, and the one that found out
    assert configuration.known(KEY) is not None


async def test_one_row_that_cannot_be_read_does_not_stop_the_others(configuration, rows):
    await configuration.refresh()
    rows.broken = "load_tenant"
    with pytest.raises(Starting):
        await configuration.find(KEY)
    rows.broken = ""
    assert (await configuration.find(KEY))[1].config.slug == "acme"


async def test_once_postgresql_is_back_all_is_well(configuration, rows):
    rows.is_away = True
    configuration.start()
    with pytest.raises(Starting):
        await configuration.find(KEY)
    assert not configuration.is_confirmed
    rows.is_away = False
    await until(lambda: configuration.is_confirmed)
    await configuration.find(KEY)
    assert configuration.known(KEY) is not None


async def test_the_memory_for_keys_is_bounded(configuration, rows, monkeypatch):
    monkeypatch.setattr("embeddings.configuration.MOST_KEYS", 2)
    await configuration.refresh()
    for number in range(5):
        rows.keys[b"%d" % number] = grant()
        await configuration.find(b"%d" % number)
    assert configuration.statistics()["keys"] == 2
    assert configuration.known(b"4") is not None
