"""Access tokens for a Google service account: the JWT grant (RFC 7523) at its `token_uri`, kept until they run out.

Owns when a token is asked for: once for all who wait, ahead of its end while the old one still serves. The assertion
is sent to `token_uri` and is made out to it alone (`aud`), so that whoever else receives one cannot use it at Google.
Whether a service account may name a `token_uri` of its own is `catalog.upstreams`.

Failure: an endpoint that refuses the account is CREDENTIAL; one that cannot be reached, is busy or answers nonsense
is UNREACHABLE, because nothing was sent to the model. A token that still holds is used while its renewal fails.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from core.clock import utc_now
from providers.failures import FailureKind, ProviderFailure, classify_status
from providers.http_client import HttpClient

TOKEN_URI = "https://oauth2.googleapis.com/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME_S = 3600  # the longest that Google grants
RENEW_S = 300  # before its end, a token is renewed
LEAST_S = 30  # with less than this left, a token may run out under way
PAUSE_S = 5  # between two attempts at a renewal that nobody waits for
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    ends: float


class _Grant(msgspec.Struct):
    access_token: str
    expires_in: float = LIFETIME_S


class _Refused(msgspec.Struct):
    error: str


class AccessTokens:
    """`await get(timeout_s=…)` gives a token that holds. Raises `ValueError` for a service account that cannot be
    used; the message never holds the key. Use inside one event loop."""

    def __init__(self, service_account: str, *, clock: Callable[[], float] = time.time) -> None:
        account = _parsed(service_account)
        self._email: str = account["client_email"]
        self._key_id: str = account["private_key_id"]
        self._token_uri: str = account["token_uri"] or TOKEN_URI
        self.project: str = account["project_id"]
        self._key = _private_key(account["private_key"])
        self._clock = clock
        url = urlsplit(self._token_uri)
        self._client = HttpClient(
            f"{url.scheme}://{url.netloc}",
            headers={"content-type": "application/x-www-form-urlencoded", "user-agent": "quiver"},
            max_connections=1,
            max_answer_bytes=64 * 1024,
        )
        self._request = self._client.prepare("POST", url.path or "/")
        self._token: _Token | None = None
        self._renewal: asyncio.Task[_Token | ProviderFailure] | None = None
        self._pause_ends = 0.0

    async def get(self, *, timeout_s: float) -> str:
        """A token that holds. Raises `ProviderFailure`."""
        now, token = self._clock(), self._token
        if token is not None and now < token.ends - LEAST_S:
            if now >= token.ends - RENEW_S and self._renewal is None and now >= self._pause_ends:
                self._renew()
            return token.value
        renewal = self._renewal or self._renew()
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await asyncio.shield(renewal)  # others wait for it too
        except TimeoutError:
            raise ProviderFailure(FailureKind.UNREACHABLE, "no access token before the deadline") from None
        if isinstance(outcome, ProviderFailure):
            raise ProviderFailure(outcome.kind, outcome.detail, status=outcome.status, retry_after=outcome.retry_after)
        return outcome.value

    def forget(self, value: str) -> None:
        """The vendor refused this token: the next call asks for another."""
        if self._token is not None and self._token.value == value:
            self._token = None

    def close(self) -> None:
        self._client.close()

    def _renew(self) -> asyncio.Task[_Token | ProviderFailure]:
        self._renewal = asyncio.get_running_loop().create_task(self._ask())
        return self._renewal

    async def _ask(self) -> _Token | ProviderFailure:
        """Returns its failure: nobody may be waiting for it."""
        try:
            self._token = await self._granted()
            return self._token
        except ProviderFailure as failure:
            self._pause_ends = self._clock() + PAUSE_S
            return failure
        finally:
            self._renewal = None

    async def _granted(self) -> _Token:
        now = self._clock()
        body = urlencode({"grant_type": GRANT_TYPE, "assertion": self._assertion(int(now))}).encode()
        try:
            answer = await self._client.send(self._request, body, timeout_s=TIMEOUT_S)
        except ProviderFailure as failure:
            raise _unreachable(failure.detail) from None
        if answer.status != 200:
            refusal = classify_status(
                answer.status,
                word=_word_of(answer.body),
                retry_after=answer.header(b"retry-after"),
                now=utc_now(),
            )
            is_ours = 400 <= answer.status < 500 and answer.status not in (408, 429)
            kind = FailureKind.CREDENTIAL if is_ours else FailureKind.UNREACHABLE
            detail = f"token endpoint: {refusal.detail}"
            raise ProviderFailure(kind, detail, status=answer.status, retry_after=refusal.retry_after)
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _unreachable("its answer holds no access token") from None
        if not grant.access_token.isascii() or not grant.access_token.isprintable() or " " in grant.access_token:
            raise _unreachable("its access token cannot be sent")
        return _Token(grant.access_token, now + grant.expires_in)

    def _assertion(self, now: int) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self._key_id}
        claims = {"iss": self._email, "scope": SCOPE, "aud": self._token_uri, "iat": now, "exp": now + LIFETIME_S}
        signed = b".".join(_base64url(msgspec.json.encode(part)) for part in (header, claims))
        return b".".join((signed, _base64url(self._key.sign(signed, PKCS1v15(), SHA256())))).decode()


def token_uri_of(service_account: str) -> str:
    """Where this service account would have us ask for tokens. Raises `ValueError` for one that cannot be used; the
    message never holds the key."""
    account = _parsed(service_account)
    _private_key(account["private_key"])
    return account["token_uri"] or TOKEN_URI


def _word_of(body: bytes) -> str:
    """OAuth's `error`, which is a word (RFC 6749 5.2)."""
    try:
        return msgspec.json.decode(body, type=_Refused).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _parsed(service_account: str) -> Mapping[str, Any]:
    try:
        account = msgspec.json.decode(service_account.encode())
    except (msgspec.DecodeError, UnicodeError):
        account = None
    if not isinstance(account, dict):
        raise ValueError("the service account is not a JSON object")
    names = ("client_email", "private_key", "private_key_id", "token_uri", "project_id")
    fields = {name: account.get(name, "") for name in names}
    if not all(isinstance(value, str) for value in fields.values()):
        raise ValueError("the service account holds something that is not text")
    if not fields["client_email"] or not fields["private_key"]:
        raise ValueError("the service account lacks client_email or private_key")
    return fields


def _private_key(pem: str) -> RSAPrivateKey:
    try:
        # Without the check of its numbers, which takes 50 ms on the loop: a broken key makes signatures nobody accepts.
        key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnicodeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("the service account's private_key is no RSA key")
    return key


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unreachable(why: str) -> ProviderFailure:
    return ProviderFailure(FailureKind.UNREACHABLE, f"token endpoint: {why}")
