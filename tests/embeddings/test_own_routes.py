"""Whose credential a request is called with, what it costs then, and where the call goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from core.errors import NoModelAvailable, ProviderError, QuotaExceeded
from embeddings.explaining import described, shown_dropped
from embeddings.ways import BEHIND_WAY, OWN_WAY, PLATFORMS_WAY
from providers.base import OWN, EmbedCall, Endpoint, Kind
from providers.failures import FailureKind, ProviderFailure
from tenants.own_routes import OwnRoutes, own_routes
from tenants.snapshots import OwnCredential
from tests.embeddings.building import call, choice, deployment, endpoint, limit, request, snapshot
from tests.embeddings.fakes import FakeProviders, right
from tests.embeddings.planes import Plane

OURS = endpoint(credential=f"{OWN}ours")
ONLY, FIRST, LAST = OwnRoutes((OURS,), (), True), OwnRoutes((OURS,)), OwnRoutes((), (OURS,))


@pytest.fixture
async def plane():
    made = Plane()
    yield made
    await made.idle()
    await made.close()


def tenant(own: OwnRoutes | None, **words):
    """With one model at OpenAI, which the platform can call as well."""
    of = words.pop("of", None) or choice(deployment(), is_default=True)
    return snapshot(of, own={} if own is None else {"openai": own}, **words)


def called(providers: FakeProviders) -> list[str]:
    """The credentials that were called with, in order of their first call."""
    return [credential for (_, credential), made in providers.made.items() if made.asked]


def refuse(providers: FakeProviders, *credentials: str) -> None:
    """These credentials are not known at the vendor."""

    def unknown(asked: EmbedCall):
        raise ProviderFailure(FailureKind.CREDENTIAL, "as told", status=401)

    for credential in credentials:
        providers.get(endpoint(credential=credential)).behaviour = unknown


async def ways_of(plane: Plane, own: OwnRoutes | None, **words):
    _, chain = await plane.gateway.chain(request(), call(tenant(own, **words)))
    return chain


@pytest.mark.parametrize(
    ("own", "credentials", "ways"),
    [
        (None, ["c1"], [""]),
        (ONLY, [OURS.credential_id], [OWN_WAY]),
        (FIRST, [OURS.credential_id, "c1"], [OWN_WAY, PLATFORMS_WAY]),
        (LAST, ["c1", OURS.credential_id], ["", BEHIND_WAY]),
        (OwnRoutes((OURS,), (endpoint(credential="own:late"),), True), [OURS.credential_id, "own:late"], [OWN_WAY] * 2),
    ],
)
async def test_the_tenants_word_orders_the_ways(plane, own, credentials, ways):
    chain = await ways_of(plane, own)

    assert [each.choice.endpoints[0].credential_id for each in chain.candidates] == credentials
    assert [each.way for each in chain.candidates] == ways
    assert all(described(each)["reasons"][1:] == [each.way] for each in chain.candidates if each.way)


async def test_what_may_not_serve_is_told_with_its_reason(plane):
    [left_out] = (await ways_of(plane, ONLY)).dropped

    assert "nothing else may serve" in shown_dropped(left_out)["reason"]


async def test_a_credential_that_does_not_open_leads_to_nothing_dearer(plane):
    broken = OwnRoutes((), (), True)

    with pytest.raises(NoModelAvailable, match="cannot be opened") as refused:
        await plane.gateway.embed(request(), call(tenant(broken)))

    assert len(refused.value.extra["dropped"]) == 2
    assert called(plane.providers) == []


async def test_a_provider_without_the_platforms_credential_serves_who_has_one(plane):
    bare = choice(deployment(endpoints=()), is_default=True)

    await plane.gateway.embed(request(), call(tenant(FIRST, of=bare)))
    with pytest.raises(NoModelAvailable, match="No credential"):
        await plane.gateway.embed(request("other"), call(tenant(None, of=bare)))

    assert called(plane.providers) == [OURS.credential_id]


@pytest.mark.parametrize(("own", "payer", "nano"), [(None, "platform", 40), (ONLY, "tenant", 0), (FIRST, "tenant", 0)])
async def test_nobody_pays_twice(plane, own, payer, nano):
    answer = await plane.gateway.embed(request(), call(tenant(own)))

    assert (answer.usage.paid_by, answer.usage.cost_nano, answer.usage.tokens) == (payer, nano, 2)


async def test_an_unpriced_model_costs_nothing_here_where_the_tenant_pays_its_provider(plane):
    answer = await plane.gateway.embed(request(), call(tenant(ONLY, of=choice(deployment(price=None)))))

    assert (answer.usage.paid_by, answer.usage.cost_nano) == ("tenant", 0)


async def test_limits_of_tokens_hold_and_those_of_money_have_nothing_to_count(plane):
    tokens, money = limit("tokens", 2), limit("usd", 10)
    limited = tenant(ONLY, limits=(tokens, money))

    await plane.gateway.embed(request("one"), call(limited))
    with pytest.raises(QuotaExceeded):
        await plane.gateway.embed(request("two words"), call(limited))


async def test_only_means_that_the_platform_never_serves(plane):
    refuse(plane.providers, OURS.credential_id)

    with pytest.raises(ProviderError):
        await plane.gateway.embed(request(), call(tenant(ONLY)))

    assert called(plane.providers) == [OURS.credential_id]


async def test_first_means_that_the_platform_serves_at_its_price_when_the_own_one_fails(plane):
    refuse(plane.providers, OURS.credential_id)

    answer = await plane.gateway.embed(request(), call(tenant(FIRST)))

    assert called(plane.providers) == [OURS.credential_id, "c1"]
    assert (answer.usage.paid_by, answer.usage.cost_nano) == ("platform", 40)
    assert [attempt.outcome for attempt in answer.attempts] == ["credential", "ok"]


async def test_last_means_that_the_own_one_serves_when_the_platforms_fails(plane):
    refuse(plane.providers, "c1")

    answer = await plane.gateway.embed(request(), call(tenant(LAST)))

    assert called(plane.providers) == ["c1", OURS.credential_id]
    assert (answer.usage.paid_by, answer.usage.cost_nano) == ("tenant", 0)


async def test_the_breaker_of_one_credential_says_nothing_of_another(plane):
    refuse(plane.providers, OURS.credential_id)
    limited = tenant(FIRST)
    for number in range(30):
        await plane.gateway.embed(request(f"text {number}"), call(limited))
    tried = len(plane.providers.made["openai", OURS.credential_id].asked)

    await plane.gateway.embed(request("of another tenant"), call(tenant(None)))

    assert tried < 30, "the own credential's breaker opened"
    assert len(plane.providers.made["openai", "c1"].asked) == 31


async def test_slots_of_a_credential_are_its_own(plane):
    busy = replace(OURS, max_concurrency=1)
    held = plane.providers.get(busy)
    held.gate.clear()
    ours = call(tenant(OwnRoutes((busy,), (), True)))
    waiting = plane.gateway.embed(request("waits"), ours)

    under_way = asyncio.create_task(waiting)
    while not held.asked:
        await asyncio.sleep(0)
    answer = await plane.gateway.embed(request("passes by"), call(tenant(None)))
    held.gate.set()
    await under_way

    assert answer.usage.paid_by == "platform"
    assert plane.dispatcher.statistics()["openai"]["slots"] == busy.max_concurrency + endpoint().max_concurrency


async def test_texts_of_two_credentials_never_share_a_call(plane):
    mixing = replace(deployment(), mixes_tenants=True, batch_window_s=0.05)
    plane.providers.behaviours["openai"] = right(tokens=1)
    await asyncio.gather(
        *(
            plane.gateway.embed(request(f"{own is None} {n}"), call(tenant(own, of=choice(mixing))))
            for own in (None, ONLY)
            for n in range(20)
        )
    )

    texts = {key: [t for c in made.asked for t in c.inputs] for (_, key), made in plane.providers.made.items()}
    assert {text.split()[0] for text in texts["c1"]} == {"True"}
    assert {text.split()[0] for text in texts[OURS.credential_id]} == {"False"}
    assert len(texts["c1"]) == len(texts[OURS.credential_id]) == 20


# Where a call goes


def own(provider: str = "vendor", use: str = "only", number: int = 1, **words) -> OwnCredential:
    return OwnCredential(UUID(int=number), provider, use, words.pop("secret", {"api_key": "sk-own"}), **words)


def template(kind: Kind, **words) -> Endpoint:
    return Endpoint("vendor", kind, **words)


def test_an_own_endpoint_is_the_providers_with_another_secret():
    found = own_routes([own()], {"vendor": template(Kind.OPENAI, base_url="https://gate.example", max_concurrency=3)})

    [ours] = found["vendor"].first
    assert (ours.base_url, ours.max_concurrency) == ("https://gate.example", 3)
    assert dict(ours.secret) == {"api_key": "sk-own"}
    assert (ours.is_own, ours.slots) == (True, f"vendor/own:{UUID(int=1)}")
    assert "sk-own" not in repr(found)


def test_a_resource_of_azure_is_a_host_of_its_own():
    found = own_routes([own(resource="acme")], {"vendor": template(Kind.AZURE, base_url="https://ours.example")})

    assert found["vendor"].first[0].base_url == "https://acme.openai.azure.com"


@pytest.mark.parametrize(("region", "base_url"), [("", "https://in.eu"), ("eu-1", "https://in.eu"), ("us-1", "")])
def test_another_region_leads_to_the_vendors_own_address_there(region, base_url):
    there = template(Kind.BEDROCK, base_url="https://in.eu", region="eu-1")

    [ours] = own_routes([own(region=region)], {"vendor": there})["vendor"].first

    assert (ours.region, ours.base_url) == (region or "eu-1", base_url)


def test_one_that_is_only_forbids_the_platform_whatever_the_others_say():
    asked = [own(use="last", number=1), own(use="only", number=2, secret=None), own(use="first", number=3)]

    routes = own_routes(asked, {"vendor": template(Kind.OPENAI)})["vendor"]

    assert routes.is_only
    assert [each.credential_id for each in routes.first] == [f"own:{UUID(int=3)}"]
    assert [each.credential_id for each in routes.last] == [f"own:{UUID(int=1)}"]


def test_a_credential_for_what_the_tenant_does_not_use_is_left_out():
    assert own_routes([own("elsewhere")], {"vendor": template(Kind.OPENAI)}) == {}
