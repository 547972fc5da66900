"""TLS against real certificates: whom the client trusts, and for which name."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from providers.failures import FailureKind, ProviderFailure
from providers.http_client import HttpClient
from tests.fakes.certificates import DAY, LOOPBACK, Certificate
from tests.fakes.raw_http import OK, RawServer


async def call(server: RawServer, trust: ssl.SSLContext | None) -> bytes:
    client = HttpClient(server.address, ssl_context=trust)
    return (await client.send(client.prepare("POST", "/"), b"{}", timeout_s=5)).body


async def test_a_trusted_server_is_called(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, LOOPBACK, ends=datetime.now(UTC) + DAY)

    async with RawServer([OK], tls=certificate.server()) as server:
        assert await call(server, certificate.trust()) == b"{}"


async def test_a_certificate_for_another_name_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, x509.DNSName("other.example"), ends=datetime.now(UTC) + DAY)

    async with RawServer([OK], tls=certificate.server()) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(server, certificate.trust())

    assert caught.value.kind is FailureKind.UNREACHABLE
    assert "127.0.0.1" in caught.value.detail
    assert server.requests == []


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, LOOPBACK, ends=datetime.now(UTC) - DAY)

    async with RawServer([OK], tls=certificate.server()) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(server, certificate.trust())

    assert "expired" in caught.value.detail


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, LOOPBACK, ends=datetime.now(UTC) + DAY)

    async with RawServer([OK], tls=certificate.server()) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(server, None)

    assert "self-signed" in caught.value.detail


async def test_a_server_that_does_not_speak_tls_is_unreachable(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, LOOPBACK, ends=datetime.now(UTC) + DAY)

    async with RawServer([OK]) as server:
        client = HttpClient(f"https://127.0.0.1:{server.port}", ssl_context=certificate.trust(), connect_timeout_s=0.5)
        with pytest.raises(ProviderFailure) as caught:
            await client.send(client.prepare("POST", "/"), b"{}", timeout_s=5)

    assert caught.value.kind is FailureKind.UNREACHABLE
