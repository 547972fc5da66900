"""OpenAI's wire: `POST {base}/embeddings`, for OpenAI itself and for every server that speaks like it.

Owns the request's form and the reading of its answer: which vector belongs to which text. Leaves width, finiteness
and zero to `answers.check_vectors`, statuses to `failures.classify_status`, connections to `http_client`.

Two decisions. Vectors are asked for as base64 (a float answer costs ten times as much to read) and read as either,
because some servers ignore the wish. `input_type` is not sent: OpenAI has none, and the compatible servers do not
agree on a name for it, while some refuse a field that they do not know.

Source of the wire: platform.openai.com/docs/api-reference/embeddings.

Failure: every one is a `ProviderFailure`; nothing is retried here.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pybase64

from core.clock import utc_now
from providers.base import (
    EmbedAnswer,
    EmbedCall,
    Endpoint,
    EndpointRefused,
    Kind,
    ListedModel,
    Vectors,
)
from providers.exchange import FLOAT32, bad_answer, encode, exchange, plausible_tokens
from providers.failures import FailureKind, ProviderFailure, classify_status
from providers.http_client import Answer, HttpClient

if TYPE_CHECKING:
    import openai

OPENAI_BASE_URL = "https://api.openai.com/v1"


class _Item(msgspec.Struct):
    index: int
    embedding: msgspec.Raw  # read one by one, so that a huge answer does not hold the interpreter in one go


class _Body(msgspec.Struct):
    data: list[_Item]
    usage: Any = None


class _Info(msgspec.Struct):
    model_id: str
    max_input_length: int | None = None


_decode_info = msgspec.json.Decoder(_Info).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_embedding = msgspec.json.Decoder(str | list[float]).decode


class OpenAIProvider:
    """Adapter for the kinds `openai` and `openai_compatible`. Raises `EndpointRefused` for an unusable endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._base_url = endpoint.base_url or (OPENAI_BASE_URL if endpoint.kind is Kind.OPENAI else "")
        self._key = endpoint.secret.get("api_key", "")
        if not self._base_url:
            raise EndpointRefused(f"{endpoint.slug}: an OpenAI-compatible provider needs a base_url")
        if not self._key and endpoint.kind is Kind.OPENAI:
            raise EndpointRefused(f"{endpoint.slug}: no api_key")
        headers = {"content-type": "application/json", "user-agent": "quiver"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        try:
            self._client = HttpClient(
                self._base_url,
                headers=headers,
                max_connections=endpoint.max_concurrency,
                max_answer_bytes=endpoint.max_answer_bytes,
            )
            self._request = self._client.prepare("POST", "/embeddings")
        except ValueError as error:
            raise EndpointRefused(f"{endpoint.slug}: {error}") from None

    def embed(self, call: EmbedCall, *, timeout_s: float) -> Coroutine[Any, Any, EmbedAnswer]:
        """One call to the vendor. `vectors` are read-only float32 of one width, in the order of `call.inputs`."""
        return ask(self._client, self._request, call, timeout_s=timeout_s)

    async def list_models(self) -> list[ListedModel]:
        """All models of the account or server, by the official SDK: imports it, so not for web workers."""
        import openai

        # The SDK insists on a key (and would take one from the environment); a server without keys gets no header.
        headers: dict[str, Any] = {} if self._key else {"Authorization": openai.Omit()}
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._base_url,
            max_retries=0,
            timeout=self.endpoint.timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # the key goes nowhere else
        )
        try:
            return await list_by_sdk(client, headers)
        except ProviderFailure as failure:
            if failure.status != 404 or self.endpoint.kind is not Kind.OPENAI_COMPATIBLE:
                raise
        return [await self._served()]

    async def _served(self) -> ListedModel:
        """The one model of a text-embeddings-inference server, which has no list: it tells of itself at `/info`."""
        parts = urlsplit(self._base_url)
        client = HttpClient(f"{parts.scheme}://{parts.netloc}", headers={"user-agent": "quiver"}, max_connections=1)
        try:
            answer = await client.send(client.prepare("GET", "/info"), b"", timeout_s=self.endpoint.timeout_s)
        finally:
            client.close()
        if answer.status != 200:
            raise classify_status(answer.status, answer.body, now=utc_now())
        try:
            info = _decode_info(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise bad_answer("neither a list of models nor what /info tells of one") from None
        return ListedModel(info.model_id, max_tokens=info.max_input_length)

    async def close(self) -> None:
        self._client.close()

    def statistics(self) -> Mapping[str, int]:
        return self._client.statistics()


async def ask(client: HttpClient, prepared: bytes, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
    """One call in OpenAI's wire, whoever speaks it."""
    return await exchange(
        client,
        prepared,
        _request_body(call),
        count=len(call.inputs),
        width=call.width,
        timeout_s=timeout_s,
        read=_read,
        id_header=b"x-request-id",
    )


async def list_by_sdk(client: openai.AsyncOpenAI, headers: Mapping[str, Any]) -> list[ListedModel]:
    """The models that OpenAI's own client lists; closes the client."""
    import openai

    try:
        async with client:
            return [_listed(model) async for model in client.models.list(extra_headers=headers)]
    except openai.APIStatusError as error:
        raise classify_status(error.status_code, error.response.content, now=utc_now()) from None
    except openai.APITimeoutError:
        raise ProviderFailure(FailureKind.TIMEOUT, "no list of models in time") from None
    except openai.APIConnectionError as error:
        raise ProviderFailure(FailureKind.UNREACHABLE, f"{type(error.__cause__ or error).__name__}") from None
    except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
        raise bad_answer(f"no list of models: {type(error).__name__}") from None


def _listed(model: Any) -> ListedModel:
    """Some compatible servers say more than OpenAI: vLLM its limit, others their width."""
    more: Mapping[str, Any] = model.model_extra or {}
    return ListedModel(
        identifier=model.id,
        dimensions=_whole(more.get("dimensions", more.get("embedding_size"))),
        max_tokens=_whole(more.get("max_model_len", more.get("context_length"))),
        is_deprecated=more.get("deprecated") is True,
    )


def _whole(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _request_body(call: EmbedCall) -> bytes:
    inputs = call.inputs if isinstance(call.inputs, list | tuple) else list(call.inputs)
    return b'{"input":%b%b' % (encode(inputs), _request_rest(call.identifier, call.dimensions))


@functools.lru_cache(maxsize=4096)
def _request_rest(identifier: str, dimensions: int | None) -> bytes:
    """What follows the texts. An absent field is absent, never null: vendors refuse null."""
    fields: dict[str, Any] = {"model": identifier, "encoding_format": "base64"}
    if dimensions is not None:
        fields["dimensions"] = dimensions
    return b"," + encode(fields)[1:]


def _read(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    """Vectors in the order of the texts: exactly `count` of one width, one for each index."""
    parsed = _decode_body(answer.body)
    items = parsed.data
    if len(items) != count:
        raise bad_answer(f"{count} vectors expected, {len(items)} came")
    if count == 1:
        if items[0].index != 0:
            raise bad_answer("an index is out of range")
        return _matrix(_row(items[0]), 1), _tokens(parsed.usage)
    return _read_vectors(_in_order(items)), _tokens(parsed.usage)


def _in_order(items: Sequence[_Item]) -> list[_Item]:
    ordered: list[_Item | None] = [None] * len(items)
    for item in items:
        if not 0 <= item.index < len(items):
            raise bad_answer("an index is out of range")
        if ordered[item.index] is not None:
            raise bad_answer("an index came twice")
        ordered[item.index] = item
    return [item for item in ordered if item is not None]  # as many as indexes, all different: none is missing


def _read_vectors(items: Sequence[_Item]) -> Vectors:
    rows = [_row(item) for item in items]
    if len({len(row) for row in rows}) > 1:
        raise bad_answer("the vectors have different widths")
    return _matrix(b"".join(rows), len(rows))


def _matrix(rows: bytes, count: int) -> Vectors:
    if not rows:
        raise bad_answer("the vectors are empty")
    return np.frombuffer(rows, dtype=FLOAT32).reshape(count, -1)


def _row(item: _Item) -> bytes:
    """One vector as little-endian float32."""
    raw = bytes(item.embedding)
    embedding = raw[1:-1] if raw[:1] == b'"' and b"\\" not in raw else _decode_embedding(raw)
    if not isinstance(embedding, list):
        try:
            row = pybase64.b64decode(embedding, validate=True)
        except ValueError:  # binascii.Error is one; so is a string that is not ASCII
            raise bad_answer("a vector is not base64") from None
        if len(row) % 4:
            raise bad_answer(f"a vector of {len(row)} bytes is not a row of float32")
        return row
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which check_vectors refuses
        return np.array(embedding, dtype=FLOAT32).tobytes()


def _tokens(usage: Any) -> int | None:
    if not isinstance(usage, dict):
        return None
    return plausible_tokens(usage.get("total_tokens", usage.get("prompt_tokens")))
