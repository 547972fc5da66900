"""Access tokens against the fake's token endpoint, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import pytest

from providers.failures import FailureKind, ProviderFailure
from providers.vertex_tokens import PAUSE_S, RENEW_S, SCOPE, AccessTokens
from tests.fakes.vertex import EMAIL, FakeVertex


@dataclass
class Clock:
    """Stands still until it is moved. Starts at the present: an assertion from another time is refused."""

    now: float

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def tokens(vertex: FakeVertex, clock: Clock) -> AccessTokens:
    return AccessTokens(vertex.service_account, clock=clock)


async def renewal_to_end(tokens: AccessTokens) -> None:
    """Waits for a renewal that the last call began."""
    assert tokens._renewal is not None
    await asyncio.wait_for(asyncio.shield(tokens._renewal), 5)


async def failure_of(tokens: AccessTokens, timeout_s: float = 5.0) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        await tokens.get(timeout_s=timeout_s)
    return caught.value


async def test_an_assertion_is_signed_and_made_out_to_the_endpoint_alone(
    tokens: AccessTokens, vertex: FakeVertex, clock: Clock
) -> None:
    await tokens.get(timeout_s=5)

    [claims] = vertex.grants
    assert (claims["iss"], claims["scope"], claims["aud"]) == (EMAIL, SCOPE, vertex.token_uri)
    assert (claims["iat"], claims["exp"] - claims["iat"]) == (int(clock.now), 3600)


async def test_all_who_wait_share_one_grant(tokens: AccessTokens, vertex: FakeVertex) -> None:
    vertex.switch(token_latency_s=0.05)

    given = await asyncio.gather(*(tokens.get(timeout_s=5) for _ in range(50)))

    assert len(set(given)) == 1
    assert vertex.assertions == 1


async def test_who_goes_away_takes_the_grant_from_nobody(tokens: AccessTokens, vertex: FakeVertex) -> None:
    vertex.switch(token_latency_s=0.05)
    first = asyncio.create_task(tokens.get(timeout_s=5))
    await asyncio.sleep(0)

    first.cancel()
    token = await tokens.get(timeout_s=5)

    assert token
    assert vertex.assertions == 1


async def test_a_token_is_renewed_before_its_end_while_it_serves(tokens: AccessTokens, clock: Clock) -> None:
    first = await tokens.get(timeout_s=5)
    clock.now += 3600 - RENEW_S + 1

    still = await tokens.get(timeout_s=5)
    await renewal_to_end(tokens)
    renewed = await tokens.get(timeout_s=5)

    assert still == first
    assert renewed != first


async def test_a_renewal_that_fails_is_noticed_by_nobody_while_the_old_token_holds(
    tokens: AccessTokens, vertex: FakeVertex, clock: Clock
) -> None:
    first = await tokens.get(timeout_s=5)
    vertex.switch(token_status=503)
    clock.now += 3600 - RENEW_S + 1

    assert await tokens.get(timeout_s=5) == first
    await renewal_to_end(tokens)
    assert await tokens.get(timeout_s=5) == first
    assert vertex.assertions == 2  # it pauses before it tries again
    clock.now += PAUSE_S
    assert await tokens.get(timeout_s=5) == first
    await renewal_to_end(tokens)
    assert vertex.assertions == 3


async def test_a_token_that_has_run_out_is_waited_for(tokens: AccessTokens, clock: Clock) -> None:
    first = await tokens.get(timeout_s=5)
    clock.now += 3600

    assert await tokens.get(timeout_s=5) != first


async def test_a_token_that_was_refused_is_not_given_out_again(tokens: AccessTokens) -> None:
    first = await tokens.get(timeout_s=5)

    tokens.forget(first)

    assert await tokens.get(timeout_s=5) != first


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (400, '{"error":"invalid_grant"}', FailureKind.CREDENTIAL, "HTTP 400 invalid_grant"),
        (401, '{"error":"deleted_client"}', FailureKind.CREDENTIAL, "HTTP 401 deleted_client"),
        (429, "", FailureKind.UNREACHABLE, "HTTP 429"),
        (503, "<html>", FailureKind.UNREACHABLE, "HTTP 503"),
        (200, "<html>", FailureKind.UNREACHABLE, "its answer holds no access token"),
        (200, '{"id_token":"x"}', FailureKind.UNREACHABLE, "its answer holds no access token"),
        (200, '{"access_token":"a\\r\\nx: y"}', FailureKind.UNREACHABLE, "its access token cannot be sent"),
    ],
)
async def test_what_the_endpoint_does_wrong(
    tokens: AccessTokens, vertex: FakeVertex, status: int, body: str, kind: FailureKind, detail: str
) -> None:
    vertex.switch(token_status=status, token_body=body)

    failure = await failure_of(tokens)

    assert (failure.kind, failure.detail) == (kind, f"token endpoint: {detail}")
    assert not failure.meaning.maybe_billed


async def test_an_endpoint_that_nobody_serves_is_unreachable(vertex: FakeVertex) -> None:
    account = json.loads(vertex.service_account) | {"token_uri": "http://127.0.0.1:9/token"}

    failure = await failure_of(AccessTokens(json.dumps(account)))

    assert failure.kind is FailureKind.UNREACHABLE


async def test_a_slow_endpoint_uses_up_no_more_than_the_callers_time(tokens: AccessTokens, vertex: FakeVertex) -> None:
    vertex.switch(token_latency_s=0.3)

    failure = await failure_of(tokens, timeout_s=0.05)

    assert (failure.kind, failure.detail) == (FailureKind.UNREACHABLE, "no access token before the deadline")


@pytest.mark.parametrize("token_uri", ["ftp://x/token", "not an address", "https://user:password@x/token"])
def test_a_token_uri_that_is_no_address_is_refused(vertex: FakeVertex, token_uri: str) -> None:
    account = json.loads(vertex.service_account) | {"token_uri": token_uri}

    with pytest.raises(ValueError, match="the address must"):
        AccessTokens(json.dumps(account))
