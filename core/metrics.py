"""The metrics of the house (names are part of the public contract), and the rule that labels are bounded.

Owns the Prometheus objects. Several processes share them through files (`PROMETHEUS_MULTIPROC_DIR`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

requests = Counter(
    "embedding_requests_total", "Requests that ended, by outcome.", ["tenant", "model", "provider", "status"]
)
request_seconds = Histogram(
    "embedding_request_duration_seconds", "From the first byte to the answer.", ["model", "provider"], buckets=_SECONDS
)
provider_seconds = Histogram(
    "embedding_provider_duration_seconds", "One call to a provider.", ["model", "provider"], buckets=_SECONDS
)
tokens = Counter("embedding_tokens_total", "Tokens charged.", ["tenant", "model", "provider"])
cost = Counter("embedding_cost_usd_total", "USD charged.", ["tenant", "model", "provider"])
excess_tokens = Counter(
    "embedding_excess_tokens_total",
    "Tokens that providers counted beyond what was held; the platform pays for them.",
    ["model", "provider"],
)
errors = Counter("embedding_errors_total", "Calls to providers that failed.", ["model", "provider", "error_type"])
batch_items = Histogram(
    "embedding_batch_items",
    "Texts in one call to a provider.",
    ["provider"],
    buckets=(1, 2, 4, 8, 16, 32, 96, 256, 1024, 2048),
)
batch_wait_seconds = Histogram(
    "embedding_batch_wait_seconds",
    "How long the first text of a call had waited when it was sent.",
    ["provider"],
    buckets=(0.0001, *_SECONDS),
)
cache_hits = Counter("embedding_cache_hits_total", "Texts answered from the cache.", ["model"])
cache_misses = Counter("embedding_cache_misses_total", "Texts that the cache did not have.", ["model"])
singleflight_joined = Counter(
    "embedding_singleflight_joined_total", "Texts that waited for the same text of another request."
)
quota_usage = Gauge(
    "embedding_quota_usage_ratio",
    "Used of the fullest quota; without a model it is the whole tenant's.",
    ["tenant", "model", "quota_type"],
    multiprocess_mode="mostrecent",
)
budget_usage = Gauge(
    "embedding_budget_usage_ratio", "Used of the tenant's fullest budget.", ["tenant"], multiprocess_mode="mostrecent"
)
model_switches = Counter(
    "embedding_model_switches_total",
    "Requests that went on to another candidate, and why.",
    ["from_model", "to_model", "reason"],
)
requests_active = Gauge("embedding_requests_active", "Requests under way now.", multiprocess_mode="livesum")
provider_calls_active = Gauge(
    "embedding_provider_calls_active", "Calls to providers under way now.", ["provider"], multiprocess_mode="livesum"
)
websocket_connections = Gauge(
    "websocket_connections_active", "Agents' sockets that are open now.", multiprocess_mode="livesum"
)
websocket_messages = Counter(
    "websocket_messages_total", "Frames of agents' sockets, both ways.", ["direction", "method"]
)
ledger_commit_seconds = Histogram("ledger_commit_seconds", "One commit of gathered usage rows.", buckets=_SECONDS)
ledger_rows = Counter("ledger_rows_total", "Usage rows committed.")
holds_active = Gauge("holds_active", "Requests that hold something of their limits now.", multiprocess_mode="livesum")
holds_expired = Counter("holds_expired_total", "Holds whose worker was gone, by what became of them.", ["outcome"])
model_state = Gauge(
    "embedding_model_state",
    "1 for the state a model is in.",
    ["model", "provider", "state"],
    multiprocess_mode="mostrecent",
)
breaker_state = Gauge(
    "circuit_breaker_state",
    "0 closed, 1 half-open, 2 open.",
    ["provider", "model", "region"],
    multiprocess_mode="mostrecent",
)
breaker_transitions = Counter(
    "circuit_breaker_transitions_total", "Changes of breakers' states.", ["provider", "model", "region", "to"]
)


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """The same as `observe` for each value, with one write for each bucket: a write goes to a shared file, and five of
    them for every request are a tenth of its cost."""
    counts = Counts(bisect_left(histogram._upper_bounds, value) for value in values)
    histogram._sum.inc(sum(values))
    for bucket, count in counts.items():
        histogram._buckets[bucket].inc(count)


discovery_runs = Counter("model_discovery_runs_total", "Looks at providers' lists of models.", ["provider", "outcome"])
discovered_models = Gauge(
    "model_discovery_models",
    "Models in the last look's difference, by kind of change.",
    ["provider", "change"],
    multiprocess_mode="mostrecent",
)


class BoundedLabel:
    """Lets the first `most` values through and calls all others `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._most:
            return "other"
        self._seen.add(value)
        return value


def exposition(directory: str | None) -> bytes:
    """All metrics as Prometheus reads them, those of all processes if they share a directory."""
    if directory is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
