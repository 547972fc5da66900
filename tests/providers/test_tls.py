"""TLS against real certificates: whom the client trusts, and for which name."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from providers.failures import FailureKind, ProviderFailure
from providers.http_client import HttpClient
from tests.fakes.raw_http import OK, RawServer

DAY = timedelta(days=1)
LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))


class Certificate:
    """A self-signed certificate for one name, on the server's side and as the client's only trust."""

    def __init__(self, folder: Path, name: x509.GeneralName, *, ends: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(ends - 30 * DAY)
            .not_valid_after(ends)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.path = folder / "server.pem"
        self.path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        return context

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))


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
