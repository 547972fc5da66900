"""What the gateway needs of others, as small as it uses it: a test runs it whole with stand-ins for these."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

from billing.ledger import CallRecord, UsageRecord
from catalog.deployments import Deployment
from embeddings.breaker import Admission
from embeddings.calls import Items, Part, Upstream
from embeddings.gathering import Vector
from embeddings.records import Attempt
from providers.base import Endpoint, InputType


class Ledger(Protocol):
    async def ready(self, *, within_s: float) -> None: ...
    async def commit(self, usage: UsageRecord, calls: tuple[CallRecord, ...], claim_id: UUID | None = None) -> None: ...
    def note(self, usage: UsageRecord, calls: tuple[CallRecord, ...]) -> None: ...


class Cache(Protocol):
    async def get(
        self,
        keys: Sequence[bytes],
        dimensions: int,
        *,
        full_keys: Sequence[bytes] = (),
        full_dimensions: int = 0,
        model: str = "",
    ) -> list[Vector | None]: ...
    def put(self, keys: Sequence[bytes], vectors: Iterable[Vector], ttl_s: int) -> None: ...


class Dispatch(Protocol):
    def lane(
        self,
        endpoint: Endpoint,
        deployment: Deployment,
        *,
        width: int,
        input_type: InputType | None,
        takes_tokens: bool,
    ) -> Upstream: ...
    async def submit(
        self,
        lane: Upstream,
        items: Items,
        counts: Sequence[int],
        *,
        tenant: Hashable,
        deadline: float,
        partial: bool = False,
        when_gone: Callable[[Part], None] | None = None,
    ) -> Part: ...


class Board(Protocol):
    def admit(self, route: str) -> Admission: ...

    @property
    def latencies(self) -> Any: ...


class Observer(Protocol):
    """Is told of every finished request, once, after its answer is certain."""

    def finished(
        self, tenant: str, usage: UsageRecord, calls: Sequence[CallRecord], attempts: Sequence[Attempt] = ()
    ) -> None: ...
