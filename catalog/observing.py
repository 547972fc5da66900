"""The metric of models' states, for a process that reads the catalogue."""

from __future__ import annotations

from collections.abc import Mapping

from core import metrics

_most = metrics.BoundedLabel(5000)
_shown: dict[tuple[str, str], str] = {}


def observe_states(states: Mapping[tuple[str, str], str]) -> None:
    """Shows each model (its name, its provider's slug) in its state, and none any longer in the one it left."""
    for model, was in list(_shown.items()):
        now = states.get(model, "removed")
        if now != was:
            metrics.model_state.labels(*model, was).set(0)
            metrics.model_state.labels(*model, now).set(1)
            _shown[model] = now
    for model, state in states.items():
        told = "/".join(model)
        if model not in _shown and _most(told) == told:
            metrics.model_state.labels(*model, state).set(1)
            _shown[model] = state
