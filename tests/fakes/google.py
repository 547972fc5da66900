"""A fake Gemini API over real HTTP: `batchEmbedContents` and the list of models.

Switches and faults: see `tests.fakes.server`. As with Google, several parts in one content are one vector, narrower
vectors come un-normalised, nothing counts tokens, and a wrong key is a 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiohttp import web
from numpy.typing import NDArray

from tests.fakes import server
from tests.fakes.server import ROW_FAULTS, WIRE_FAULTS, FakeServer, main
from tests.fakes.vectors import count_tokens, native_vector, unit

GEMINI_1 = "gemini-embedding-001"
GEMINI_2 = "gemini-embedding-2"
WIDTHS = {GEMINI_1: 3072, GEMINI_2: 3072}
MAX_TOKENS = {GEMINI_1: 2048, GEMINI_2: 8192}
MAX_ITEMS = 100
TASK_TYPES = {"RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "CLASSIFICATION", "CLUSTERING", "SEMANTIC_SIMILARITY"}
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


@dataclass(frozen=True)
class Refusal(server.Refusal):
    """An error of Google's APIs (google.rpc.Status)."""

    status: int
    word: str
    message: str
    reason: str = ""
    details: list[dict[str, object]] = field(default_factory=list)

    def body(self) -> Mapping[str, object]:
        info = [{"@type": ERROR_INFO, "reason": self.reason, "domain": "googleapis.com"}] if self.reason else []
        return {
            "error": {"code": self.status, "message": self.message, "status": self.word, "details": info + self.details}
        }


def invalid(message: str, reason: str = "") -> Refusal:
    return Refusal(400, "INVALID_ARGUMENT", message, reason)


def expected_vector(
    model: str, text: str, dimensions: int | None = None, task: str = "RETRIEVAL_DOCUMENT"
) -> NDArray[Any]:
    """What a caller of ours gets: narrower vectors brought to unit length."""
    task = "" if model == GEMINI_2 else task
    return unit(native_vector(model, text, WIDTHS[model], task)[:dimensions])


@dataclass
class FakeGoogle(FakeServer):
    FAULTS: ClassVar[frozenset[str]] = WIRE_FAULTS | ROW_FAULTS.keys()

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.post("/{version:v1|v1beta}/models/{model}:batchEmbedContents", self.embeddings),
            web.get("/{version:v1|v1beta}/models", self.models),
        ]

    async def models(self, request: web.Request) -> web.StreamResponse:
        found = [
            {
                "name": f"models/{model}",
                "displayName": model.replace("-", " ").title(),
                "inputTokenLimit": MAX_TOKENS[model],
                "supportedGenerationMethods": ["embedContent", "countTokens"],
            }
            for model in WIDTHS
        ]
        chat = {"name": "models/gemini-9-pro", "supportedGenerationMethods": ["generateContent"]}
        return await self.listed(request, {"models": [*found, chat]})

    def authenticate(self, request: web.Request, body: bytes) -> None:
        given = request.headers.get("x-goog-api-key", "")
        if given != self.switches.key:
            raise invalid(f"API key not valid: {given}. Please pass a valid API key.", "API_KEY_INVALID")

    def items(self, payload: dict[str, Any]) -> int:
        return len(payload["requests"])

    def answer(self, request: web.Request, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        model = request.match_info["model"]
        if model not in WIDTHS:
            raise Refusal(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        if len(payload["requests"]) > MAX_ITEMS:
            raise invalid("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n")
        rows = [self._embed(model, each, fault) for each in payload["requests"]]
        rows = ROW_FAULTS[fault](rows) if fault in ROW_FAULTS else rows
        return {"embeddings": [{"values": row} for row in rows]}

    def _embed(self, model: str, request: dict[str, Any], fault: str) -> list[float]:
        if request["model"] != f"models/{model}" or request.keys() - {
            "model",
            "content",
            "taskType",
            "outputDimensionality",
        }:
            raise invalid("Request contains an invalid argument.")
        texts = [part["text"] for part in request["content"]["parts"]]
        task, dimensions = request.get("taskType", ""), request.get("outputDimensionality")
        if not all(texts):
            raise invalid("* EmbedContentRequest.content: content is empty")
        if task and (task not in TASK_TYPES or model == GEMINI_2):
            raise invalid(f"Invalid value at 'task_type': {task}")
        tokens = sum(map(count_tokens, texts))
        if tokens > MAX_TOKENS[model]:
            raise invalid(f"The input token count ({tokens}) exceeds the maximum number of tokens allowed (2048).")
        if self.is_poisoned(texts):
            raise invalid(f"the text {self.switches.poison!r} was refused")
        # All parts of a content are one vector, however many texts they were to the caller.
        native = native_vector(model, "\n".join(texts), WIDTHS[model], task)
        return native[: None if fault == "ignores_dimensions" else dimensions].tolist()


if __name__ == "__main__":
    main(FakeGoogle, __doc__)
