"""The catalogue as the data plane sees it: frozen values, swapped whole. Pure; `catalog.loading` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from providers.base import Endpoint, Kind


@dataclass(frozen=True, slots=True)
class PricePoint:
    """Nano-dollars per million tokens from a moment on."""

    effective_from: datetime
    nano_per_million: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """One catalogue row with everything that a request needs of it."""

    model_id: UUID
    name: str
    identifier: str
    provider: str  # slug
    kind: Kind
    endpoints: tuple[Endpoint, ...]  # one per enabled credential; empty: none was added yet
    is_provider_enabled: bool
    space: str
    epoch: int
    dimensions: int
    allowed_dimensions: frozenset[int]
    takes_dimensions: bool
    is_matryoshka: bool  # declared, and measured or vouched for
    max_tokens: int
    max_items: int  # per call
    max_tokens_per_call: int
    tokenizer: str
    quality_score: float | None
    minimum_tier: str
    state: str
    deprecated_at: datetime | None
    sunset_at: datetime | None
    successor: str | None  # name
    created_at: datetime
    prices: tuple[PricePoint, ...]  # newest first
    batch_window_s: float = 0.0  # how long texts gather while others of their tenant are under way
    mixes_tenants: bool = False  # a call may carry texts of several tenants
    unavailable_cause: str = ""  # a word of `catalog.lifecycle.Cause`, while the state is unavailable
    is_delisted: bool = False  # its vendor's lists have lacked it, so that calls which pass do not bring it back
    template: Endpoint | None = None  # as its provider is called, without a credential

    def price_at(self, moment: datetime) -> int | None:
        """Nano-dollars per million tokens in force, or None: unpriced."""
        for point in self.prices:
            if point.effective_from <= moment:
                return point.nano_per_million
        return None

    def can_answer_with(self, dimensions: int) -> bool:
        """Whether vectors of this width are this model's own or a legitimate cut of them."""
        return (
            dimensions == self.dimensions
            or dimensions in self.allowed_dimensions
            or (self.is_matryoshka and dimensions < self.dimensions)
        )


@dataclass(frozen=True, slots=True)
class Catalog:
    version: int
    deployments: dict[UUID, Deployment]
