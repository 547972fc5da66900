"""A fake Azure OpenAI resource over real HTTP: deployments of the fake OpenAI's models.

Switches and faults: see `tests.fakes.server`. A deployment's name is not the model's, except for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fakes import server
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import main

DEPLOYMENTS = {
    "text-embedding-3-small": "text-embedding-3-small",
    "search-eu": "text-embedding-3-large",
    "old": "text-embedding-ada-002",
}
API_VERSIONS = {"2024-10-21", "2025-04-01-preview"}


@dataclass(frozen=True)
class Refusal(server.Refusal):
    """An error body of Azure's gateway."""

    status: int
    code: str
    message: str

    def body(self) -> Mapping[str, object]:
        return {"error": {"code": self.code, "message": self.message}}


@dataclass
class FakeAzure(FakeOpenAI):
    @property
    def base_url(self) -> str:
        return self.address

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.post("/openai/deployments/{deployment}/embeddings", self.embeddings),
            web.get("/openai/models", self.models),
        ]

    def authenticate(self, request: web.Request, body: bytes) -> None:
        if request.headers.get("api-key") != self.switches.key:
            raise Refusal(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        if request.query.get("api-version") not in API_VERSIONS:
            raise Refusal(404, "404", "Resource not found")

    def answer(self, request: web.Request, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        model = DEPLOYMENTS.get(request.match_info["deployment"])
        if model is None:
            raise Refusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        return super().answer(request, {**payload, "model": model}, fault)  # what the body says does not count


if __name__ == "__main__":
    main(FakeAzure, __doc__)
