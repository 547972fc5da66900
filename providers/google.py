"""The Gemini API's wire: `POST {base}/{version}/models/{model}:batchEmbedContents`, for one text as for many.

Owns one request per text, always: several texts in one content become **one** vector (Google's own SDK does that to a
list of strings for gemini-embedding-2), so N texts are N requests and anything but N vectors is a failure. A narrower
vector comes at the length that the cut left it and is brought back to unit length here, as Google's guide asks.
Leaves statuses to `failures`, connections to `http_client`. The API gives no token counts: `tokens` is None.

An input type is sent in Google's words; an unstated one is a document, here, at Vertex and at Cohere, because the two
Googles differ in what they do with none (docs/decisions/0010-an-unstated-input-type-is-a-document.md).
gemini-embedding-2 has no task types: there the task is part of the prompt, and a text is not ours to rewrite.

Source of the wire: ai.google.dev/api/embeddings, ai.google.dev/gemini-api/docs/embeddings.

Failure: every one is a `ProviderFailure`; nothing is retried here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np

from core.clock import utc_now
from providers.base import EmbedAnswer, EmbedCall, Endpoint, EndpointRefused, InputType, ListedModel, Vectors
from providers.exchange import bad_answer, encode, exchange, read_rows, texts_of
from providers.failures import FailureKind, ProviderFailure, classify_status
from providers.http_client import Answer, HttpClient

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

BASE_URL = "https://generativelanguage.googleapis.com"
API_VERSION = "v1beta"  # `v1` takes the same request
TASK_TYPES = {
    InputType.QUERY: "RETRIEVAL_QUERY",
    InputType.DOCUMENT: "RETRIEVAL_DOCUMENT",
    InputType.CLASSIFICATION: "CLASSIFICATION",
    InputType.CLUSTERING: "CLUSTERING",
    InputType.SIMILARITY: "SEMANTIC_SIMILARITY",
}


class Embedding(msgspec.Struct):
    values: msgspec.Raw


class _Body(msgspec.Struct):
    embeddings: list[Embedding]


_decode = msgspec.json.Decoder(_Body).decode


class GoogleProvider:
    """Adapter for the kind `google`. Raises `EndpointRefused` for an unusable endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._key = endpoint.secret.get("api_key", "")
        self._version = quote(endpoint.api_version or API_VERSION, safe="")
        self._prepared: dict[str, bytes] = {}  # by model: as many as the catalogue has
        if not self._key:
            raise EndpointRefused(f"{endpoint.slug}: no api_key")
        headers = {"content-type": "application/json", "user-agent": "quiver", "x-goog-api-key": self._key}
        try:
            self._client = HttpClient(
                endpoint.base_url or BASE_URL,
                headers=headers,
                max_connections=endpoint.max_concurrency,
                max_answer_bytes=endpoint.max_answer_bytes,
            )
        except ValueError as error:
            raise EndpointRefused(f"{endpoint.slug}: {error}") from None

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        """One call to the vendor; `tokens` is None."""
        prepared = self._prepared.get(call.identifier)
        if prepared is None:
            path = f"/{self._version}/models/{quote(call.identifier, safe='')}:batchEmbedContents"
            prepared = self._prepared[call.identifier] = self._client.prepare("POST", path)
        return await exchange(
            self._client,
            prepared,
            _request_body(call),
            count=len(call.inputs),
            width=call.width,
            timeout_s=timeout_s,
            read=_read if call.dimensions is None else _read_cut,
            id_header=b"x-request-id",
        )

    async def list_models(self) -> list[ListedModel]:
        """The models that embed, by the official SDK: imports it, so not for web workers."""
        return await asyncio.to_thread(self._list)

    def _list(self) -> list[ListedModel]:
        from google import genai
        from google.genai import types

        options = types.HttpOptions(
            base_url=self.endpoint.base_url or None,
            api_version=self._version,
            timeout=round(self.endpoint.timeout_s * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
            client_args={"follow_redirects": False},  # the credential goes nowhere else
        )
        client = genai.Client(api_key=self._key, vertexai=False, http_options=options)
        return listed_by_sdk(client, lambda model: "embedContent" in (model.supported_actions or ()))

    async def close(self) -> None:
        self._client.close()

    def statistics(self) -> Mapping[str, int]:
        return self._client.statistics()


def listed_by_sdk(client: genai.Client, embeds: Callable[[types.Model], bool]) -> list[ListedModel]:
    """The models that Google's own client lists and that embed; closes the client."""
    import httpx2
    from google.auth.exceptions import GoogleAuthError
    from google.genai import errors

    try:
        with client:
            return [
                ListedModel(
                    (model.name or "").rpartition("/")[2], model.display_name or "", None, model.input_token_limit
                )
                for model in client.models.list(config={"query_base": True})
                if embeds(model)
            ]
    except errors.APIError as error:
        raise classify_status(error.code, encode(error.details), now=utc_now()) from None
    except httpx2.TimeoutException:
        raise ProviderFailure(FailureKind.TIMEOUT, "no list of models in time") from None
    except httpx2.HTTPError as error:
        raise ProviderFailure(FailureKind.UNREACHABLE, type(error).__name__) from None
    except GoogleAuthError as error:
        raise ProviderFailure(FailureKind.CREDENTIAL, f"no access token: {type(error).__name__}") from None
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise bad_answer(f"no list of models: {type(error).__name__}") from None


def task_type(call: EmbedCall) -> str | None:
    """The input type in Google's words, for models that have task types."""
    if call.identifier.startswith("gemini-embedding-2"):
        return None
    return TASK_TYPES[call.input_type or InputType.DOCUMENT]


def to_unit_length(vectors: Vectors) -> Vectors:
    """What is zero or not finite stays so, for `check_vectors` to refuse."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = np.divide(vectors, lengths, where=lengths > 0, out=vectors.copy())
    return unit


def _request_body(call: EmbedCall) -> bytes:
    fields: dict[str, Any] = {"model": f"models/{call.identifier}"}
    task = task_type(call)
    if task is not None:
        fields["taskType"] = task
    if call.dimensions is not None:
        fields["outputDimensionality"] = call.dimensions
    return encode({"requests": [{**fields, "content": {"parts": [{"text": text}]}} for text in texts_of(call)]})


def _read(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    return read_rows([each.values for each in _decode(answer.body).embeddings], count), None


def _read_cut(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    vectors, tokens = _read(answer, count)
    return to_unit_length(vectors), tokens
