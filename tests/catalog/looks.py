"""Looks at a vendor's list of models."""

from __future__ import annotations

from typing import Any

from catalog import discovery_runs
from catalog.discovery_runs import begin_runs
from catalog.models import DiscoveryRun


def look(slug: str = "vendor") -> DiscoveryRun:
    """One run of one provider, done."""
    [row] = begin_runs(slug=slug, actor="a test")
    discovery_runs.run(row.id)
    return DiscoveryRun.objects.get(id=row.id)


def keys(run: DiscoveryRun) -> list[tuple[str, str]]:
    return [(each["key"], each["state"]) for each in run.changes]


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1, "owned_by": "fake", **more}
