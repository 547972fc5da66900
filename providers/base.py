"""The port between Quiver and every vendor's wire: one upstream call, at most one batch of texts.

Owns the words that the gateway and the adapters share. Splitting by caps is `splitting.py`, what a failure means
is `failures.py`, which adapter serves which kind is `registry.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # shape (texts, dimensions)
OWN = "own:"  # begins the id of a credential that is a tenant's own


class Kind(StrEnum):
    """What a provider speaks."""

    OPENAI = "openai"
    AZURE = "azure"
    OPENAI_COMPATIBLE = "openai_compatible"
    BEDROCK = "bedrock"
    GOOGLE = "google"
    VERTEX = "vertex"
    LOCAL = "local"


class InputType(StrEnum):
    """What a text is embedded for; adapters translate into their vendor's words."""

    QUERY = "query"
    DOCUMENT = "document"
    CLASSIFICATION = "classification"
    CLUSTERING = "clustering"
    SIMILARITY = "similarity"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to call: one provider with one of its credentials.

    `secret` holds what CONTRACT calls `secret` (`api_key`, `aws_access_key_id`, ...), in clear, in memory only.
    Two equal endpoints share one adapter and its connections.
    """

    slug: str
    kind: Kind
    base_url: str = ""  # empty: the vendor's own address
    region: str = ""
    project: str = ""
    api_version: str = ""
    credential_id: str = ""  # names the credential in rows and logs; never the secret
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_items: int = 2048  # per call
    max_tokens_per_call: int = 300_000
    max_concurrency: int = 64  # calls at a time, per process
    timeout_s: float = 30.0
    max_answer_bytes: int = 64 * 1024 * 1024

    # Equal for endpoints that are the same in everything, the secret by value; a digest, so it may be logged.
    identity: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = [getattr(self, each.name) for each in fields(self) if each.init and each.name != "secret"]
        text = repr((parts, sorted(self.secret.items())))
        object.__setattr__(self, "identity", hashlib.sha256(text.encode()).hexdigest())

    @property
    def is_own(self) -> bool:
        """Whether it is called with a tenant's own credential, not with the platform's."""
        return self.credential_id.startswith(OWN)

    @property
    def slots(self) -> str:
        """Whose slots its calls take: those of the provider, for all credentials of the platform; a tenant's own
        credential has its own."""
        return f"{self.slug}/{self.credential_id}" if self.is_own else self.slug


class EndpointRefused(ValueError):
    """The endpoint cannot be served as configured: no adapter for its kind, a malformed address, no secret.
    The message is for operators; it never holds the secret."""


class EmbedCall(msgspec.Struct, frozen=True, gc=False):
    """One upstream call. Either texts or token arrays (cl100k), never mixed; already within the caps."""

    identifier: str  # the vendor's id of the model
    inputs: Sequence[str] | Sequence[Sequence[int]]
    width: int  # how many floats each vector must have
    dimensions: int | None = None  # sent to the vendor; None: it answers with its native width
    input_type: InputType | None = None


class EmbedAnswer(msgspec.Struct, frozen=True, gc=False):
    """What one upstream call gave. `vectors[i]` belongs to `inputs[i]`; its width is the vendor's, unchecked."""

    vectors: Vectors
    tokens: int | None  # the vendor's count for the whole call; None: it gave none, or nonsense
    upstream_id: str = ""  # the vendor's request id


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as a vendor lists it."""

    identifier: str
    name: str = ""
    dimensions: int | None = None
    max_tokens: int | None = None
    is_deprecated: bool = False  # the vendor says that it ends


class Provider(Protocol):
    """One endpoint's adapter. Lives as long as its endpoint is configured, inside one event loop."""

    endpoint: Endpoint

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        """Makes one upstream call, never retried here. Raises `failures.ProviderFailure`, nothing else."""
        ...

    async def list_models(self) -> list[ListedModel]:
        """What the vendor offers. May use the vendor's SDK: not for web workers. Raises `ProviderFailure`."""
        ...

    async def close(self) -> None:
        """Closes idle connections; calls under way finish."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Open, idle and waiting, for tests and metrics."""
        ...
