"""Who counts as the client behind load balancers."""

from __future__ import annotations

from typing import Any

import pytest

from config.proxies import behind


async def client_seen(trusted: list[str], *headers: tuple[bytes, bytes], peer: str = "10.0.0.1") -> str:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    scope = {"type": "http", "client": (peer, 4711), "headers": list(headers)}
    await behind(trusted, application)(scope, None, None)
    return str(seen[0][0])


@pytest.mark.parametrize(
    ("trusted", "forwarded", "found"),
    [
        ([], b"198.51.100.9", "10.0.0.1"),
        (["10.0.0.0/8"], b"198.51.100.9", "198.51.100.9"),
        (["10.0.0.0/8"], b"1.2.3.4, 198.51.100.9", "198.51.100.9"),  # the caller's own claim stands further left
        (["10.0.0.0/8"], b"198.51.100.9, 10.0.0.2", "198.51.100.9"),
        (["10.0.0.0/8"], b"2001:db8::9", "2001:db8::9"),
        (["10.0.0.0/8"], b"nonsense", "10.0.0.1"),
        (["10.0.0.0/8"], b"", "10.0.0.1"),
        (["192.168.0.0/16"], b"198.51.100.9", "10.0.0.1"),
    ],
)
async def test_only_our_proxies_are_believed(trusted: list[str], forwarded: bytes, found: str) -> None:
    assert await client_seen(trusted, (b"x-forwarded-for", forwarded)) == found


async def test_a_header_in_two_parts_is_one() -> None:
    parts = [(b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-for", b"198.51.100.9")]
    assert await client_seen(["10.0.0.0/8"], *parts) == "198.51.100.9"


async def test_a_proxy_on_a_socket_for_both_kinds_of_addresses_is_known() -> None:
    header = (b"x-forwarded-for", b"198.51.100.9")
    assert await client_seen(["10.0.0.0/8"], header, peer="::ffff:10.0.0.1") == "198.51.100.9"


async def test_the_lifespan_has_no_client() -> None:
    seen = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    await behind(["10.0.0.0/8"], application)({"type": "lifespan"}, None, None)
    assert seen == [{"type": "lifespan"}]
