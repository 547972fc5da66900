"""The breakers' metrics of one process. Credentials are no label: of several, the worst state is shown. Routes of
tenants' own credentials are left out: a key that a tenant mistyped is no outage."""

from __future__ import annotations

from core import metrics
from core.metrics import BoundedLabel
from embeddings.breaker import State
from embeddings.routes import is_own, parts

_MOST_REGIONS = 100  # tenants may write down their own

Labels = tuple[str, str, str]


class BreakerMetrics:
    def __init__(self) -> None:
        self._region = BoundedLabel(_MOST_REGIONS)
        self._states: dict[Labels, dict[str, State]] = {}

    def show(self, route: str, state: State) -> None:
        if is_own(parts(route).credential_id):
            return
        labels = self._labels(route)
        states = self._states.setdefault(labels, {})
        states[route] = state
        metrics.breaker_state.labels(*labels).set(max(states.values()))

    def forget(self, route: str) -> None:
        states = self._states.get(self._labels(route), {})
        states.pop(route, None)

    def count(self, route: str, new: State) -> None:
        """Once for all processes: by the one that decided it."""
        if is_own(parts(route).credential_id):
            return
        metrics.breaker_transitions.labels(*self._labels(route), new.name.lower()).inc()

    def _labels(self, route: str) -> Labels:
        provider, _, model, region = parts(route)
        return provider, model, self._region(region)
