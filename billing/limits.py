"""Limits of the data plane: hold before a provider is called, settle or release after it. The port and its engine."""

from __future__ import annotations

from billing.limit_terms import HoldAsk, LimitTerms, Refused, Standing
from billing.redis_pipe import RedisPipe

__all__ = ["Hold", "HoldAsk", "LimitTerms", "Limits", "Refused", "Standing", "Tightest"]


class Tightest:
    """What is left of the tightest limit of a measure, for the `x-ratelimit-*` headers."""

    __slots__ = ("limit", "remaining", "resets_s")

    def __init__(self, limit: int, remaining: int, resets_s: float) -> None:
        self.limit = limit
        self.remaining = remaining
        self.resets_s = resets_s  # from now


class Hold:
    """What one request has reserved. Settled or released once, or it expires."""

    pool: int | None  # goes into the usage row: `UsageRecord.pool`
    tokens: int
    nano: int
    would_refuse: tuple[LimitTerms, ...]  # soft and shadow limits that this request passes

    def tightest(self, measure: str) -> Tightest | None:
        """Of `requests` or `tokens`; None where nothing limits it, or nothing is known (Redis away)."""
        raise NotImplementedError


class Limits:
    """One per process. Scripts of `billing.limit_scripts.SCRIPTS` must be on the pipe."""

    def __init__(self, conninfo: str, pipe: RedisPipe, *, lease_s: float, rate_window_s: float = 60.0) -> None: ...

    def start(self) -> None: ...

    async def close(self) -> None: ...

    async def hold(self, ask: HoldAsk, *, replacing: Hold | None = None) -> Hold:
        """Raises `Refused` (a hard limit; `replacing` is then still held) or `LimitsUnavailable`."""
        raise NotImplementedError

    def settle(self, hold: Hold, *, tokens: int, nano: int, requests: int = 1) -> None:
        """To be called once the usage row is committed, with what it charges. Returns at once."""

    def release(self, hold: Hold) -> None:
        """Gives everything back: no row charges this request."""

    async def standing(self, ask: HoldAsk) -> list[Standing]:
        """How the limits of `ask` stand now; holds nothing."""
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        raise NotImplementedError
