"""Who may call what of the data plane: a line for each path and method of its door, for each operational path, and for
each method of agents' sockets. What has no line fails the build.

`{…}` in what is sent stands for something of the tenant's that is asked about: whoever names another's gets their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EMBED, LOOK = ("embeddings",), ("models:read", "embeddings")
OPEN = "open: it names no row, and is for the platform's own network (README)"


@dataclass(frozen=True)
class Line:
    """A path with a method, or a method of the socket's, which scopes open it (any of them), and what is sent."""

    name: str
    scopes: tuple[str, ...]
    sent: dict[str, Any] | None = field(default_factory=dict)
    suffix: str = ""  # of the path


_TEXT = {"input": "a text of {mark}"}
HTTP = [
    Line("POST /v1/embeddings", EMBED, _TEXT),
    Line("POST /api/v1/embeddings", EMBED, _TEXT),
    Line("POST /v1/embeddings/estimate", EMBED, _TEXT),
    Line("POST /api/v1/embeddings/estimate", EMBED, _TEXT),
    Line("GET /v1/models", LOOK, None),
    Line("GET /v1/models/", LOOK, None, "{model}"),
]
OPERATIONAL = {"/livez": OPEN, "/readyz": OPEN, "/metrics": OPEN}
SOCKETS = ["ws/v1/agents"]
# In the order in which they are asked on one socket; none closes it.
SOCKET = [
    Line("agent.register", EMBED, {"agent_id": "agent-of-{mark}"}),
    Line("agent.heartbeat", EMBED, {"status": "busy"}),
    Line("agent.update", EMBED, {"status": "available"}),
    Line("agent.list", EMBED),
    Line("embedding.generate", EMBED, _TEXT),
    Line("embedding.batch", EMBED, {"items": [{"id": 1, **_TEXT}]}),
    Line("embedding.cancel", EMBED, {"id": 1}),
    Line("embedding.estimate", EMBED, _TEXT),
    Line("models.list", ("embeddings", "models:read")),
    Line("usage.get", EMBED, {"period": "month"}),
    Line("quota.get", EMBED),
    Line("subscribe", EMBED, {"topics": ["models", "quotas", "budgets", "breakers"]}),
    Line("unsubscribe", EMBED, {"topics": ["models"]}),
    Line("ping", EMBED),
    Line("session.authenticate", (), {"api_key": "{key}"}),
]
