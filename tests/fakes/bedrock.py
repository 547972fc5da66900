"""A fake Bedrock over real HTTP: Titan v1 and v2, Cohere v3 and v4, and the list of models.

Verifies each signature with AWS's own code. Switches and faults: see `tests.fakes.server`; `key` is the secret access
key, and a bearer is taken where it is `api_key`. Bodies are refused as strictly as Bedrock refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from numpy.typing import NDArray

from tests.fakes import server
from tests.fakes.server import ROW_FAULTS, TOKEN_FAULTS, FakeServer, main
from tests.fakes.vectors import count_tokens, native_vector, unit

ACCESS_KEY_ID = "AKIDFAKE"
API_KEY = "bedrock-api-key-fake"
REGION = "us-east-1"
TITAN_V1 = "amazon.titan-embed-text-v1"
TITAN_V2 = "amazon.titan-embed-text-v2:0"
COHERE_V3 = "cohere.embed-english-v3"
COHERE_V4 = "cohere.embed-v4:0"
WIDTHS = {TITAN_V1: 1536, TITAN_V2: 1024, COHERE_V3: 1024, "cohere.embed-multilingual-v3": 1024, COHERE_V4: 1536}
MAX_TITAN_TOKENS = 8192
MAX_COHERE_V3_CHARACTERS = 2048
MAX_COHERE_TEXTS = 96
INPUT_TYPES = {"search_document", "search_query", "classification", "clustering"}
FIELDS = {
    TITAN_V1: {"inputText"},
    TITAN_V2: {"inputText", "dimensions", "normalize", "embeddingTypes"},
    COHERE_V4: {"texts", "input_type", "truncate", "embedding_types", "output_dimension", "max_tokens"},
}
COHERE_V3_FIELDS = {"texts", "input_type", "truncate", "embedding_types"}
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\S+, SignedHeaders=([^,]+), Signature=(\w+)")


@dataclass(frozen=True)
class Refusal(server.Refusal):
    """An error of AWS's: its type in a header."""

    status: int
    type: str
    message: str

    def body(self) -> Mapping[str, object]:
        return {"message": self.message}

    def headers(self) -> Mapping[str, str]:
        return {"x-amzn-errortype": f"{self.type}:http://internal.amazon.com/coral/com.amazon.bedrock/"}


def malformed(message: str) -> Refusal:
    message = f"Malformed input request: {message}, please reformat your input and try again."
    return Refusal(400, "ValidationException", message)


def expected_vector(model: str, text: str, dimensions: int | None = None, task: str = "") -> NDArray[Any]:
    """`task` for Cohere only; narrower vectors are the native one's cut at unit length."""
    return unit(native_vector(model, text, WIDTHS[model], task)[:dimensions])


@dataclass
class FakeBedrock(FakeServer):
    @property
    def secret(self) -> dict[str, str]:
        return {"aws_access_key_id": ACCESS_KEY_ID, "aws_secret_access_key": self.key}

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.post("/model/{model}/invoke", self.embeddings), web.get("/foundation-models", self.models)]

    async def models(self, request: web.Request) -> web.StreamResponse:
        summaries = [
            {
                "modelArn": f"arn:aws:bedrock:{REGION}::foundation-model/{model}",
                "modelId": model,
                "modelName": model.partition(".")[2],
                "inputModalities": ["TEXT"],
                "outputModalities": ["EMBEDDING"],
            }
            for model in WIDTHS
        ]
        image = {**summaries[0], "modelId": "amazon.titan-embed-image-only", "inputModalities": ["IMAGE"]}
        assert request.query["byOutputModality"] == "EMBEDDING"
        return await self.listed(request, {"modelSummaries": [*summaries, image]})

    def authenticate(self, request: web.Request, body: bytes) -> None:
        given = request.headers.get("authorization", "")
        if given == f"Bearer {API_KEY}":
            return
        signed = _SIGNED.fullmatch(given)
        if signed is None:
            raise Refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        if signed[1] != ACCESS_KEY_ID:
            raise Refusal(403, "UnrecognizedClientException", f"The security token {signed[1]} is invalid.")
        headers = {name: request.headers[name] for name in signed[2].split(";")}
        again = AWSRequest(request.method, self.address + request.raw_path, headers=headers, data=body)
        again.context["timestamp"] = request.headers["x-amz-date"]
        signer = SigV4Auth(Credentials(ACCESS_KEY_ID, self.switches.key), "bedrock", REGION)
        right = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
        if right != signed[3] or not {"host", "x-amz-date"} <= headers.keys():
            raise Refusal(403, "InvalidSignatureException", f"The signature {signed[3]} does not match.")

    def items(self, payload: dict[str, Any]) -> int:
        return len(payload["texts"]) if "texts" in payload else 1

    def answer_headers(self, fault: str) -> dict[str, str]:
        headers = {"x-amzn-requestid": f"req_{len(self.calls)}"}
        body = self.calls[-1].body if self.calls else {}
        tokens = TOKEN_FAULTS.get(
            fault, sum(count_tokens(text) for text in body.get("texts", [body.get("inputText", "")]))
        )
        return headers if tokens is None else headers | {"x-amzn-bedrock-input-token-count": str(tokens)}

    def answer(self, request: web.Request, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        asked = request.match_info["model"]
        model = next((model for model in WIDTHS if asked.endswith(model)), None)  # inference profiles, ARNs
        if model is None:
            raise Refusal(400, "ValidationException", "The provided model identifier is invalid.")
        for name in sorted(payload.keys() - FIELDS.get(model, COHERE_V3_FIELDS)):
            raise malformed(f"#: extraneous key [{name}] is not permitted")
        bend = ROW_FAULTS.get(fault, lambda rows: rows)
        if "titan" in model:
            return self._titan(model, payload, fault, bend)
        return self._cohere(model, payload, fault, bend)

    def _titan(self, model: str, payload: dict[str, Any], fault: str, bend: Any) -> dict[str, Any]:
        text, dimensions = payload["inputText"], payload.get("dimensions")
        if not text:
            raise malformed("#/inputText: expected minLength: 1, actual: 0")
        if dimensions not in (None, 256, 512, 1024):
            raise malformed(f"#/dimensions: {dimensions} is not a valid enum value")
        tokens = count_tokens(text)
        if tokens > MAX_TITAN_TOKENS:
            told = (
                f"400 Bad Request: Too many input tokens. Max input tokens: 8192, request input token count: {tokens}"
            )
            raise Refusal(400, "ValidationException", told)
        self._refuse_poison([text])
        vector = expected_vector(model, text, None if fault == "ignores_dimensions" else dimensions).tolist()
        row = (bend([vector]) or [[]])[0]
        answer: dict[str, Any] = {"embedding": row, "inputTextTokenCount": TOKEN_FAULTS.get(fault, tokens)}
        if answer["inputTextTokenCount"] is None:
            del answer["inputTextTokenCount"]
        return answer if model == TITAN_V1 else answer | {"embeddingsByType": {"float": row}}

    def _cohere(self, model: str, payload: dict[str, Any], fault: str, bend: Any) -> dict[str, Any]:
        texts = payload["texts"]
        if payload.get("input_type") not in INPUT_TYPES:
            raise malformed("#: required key [input_type] not found")
        if len(texts) > MAX_COHERE_TEXTS:
            raise malformed(f"#/texts: expected maximum item count: {MAX_COHERE_TEXTS}, found: {len(texts)}")
        for index, text in enumerate(texts):
            if not text:
                raise malformed(f"#/texts/{index}: expected minLength: 1, actual: 0")
            if model != COHERE_V4 and len(text) > MAX_COHERE_V3_CHARACTERS:
                raise malformed(f"#/texts/{index}: expected maxLength: 2048, actual: {len(text)}")
        self._refuse_poison(texts)
        dimensions = None if fault == "ignores_dimensions" else payload.get("output_dimension")
        rows = bend([expected_vector(model, text, dimensions, payload["input_type"]).tolist() for text in texts])
        answer: dict[str, Any] = {"id": "e1", "texts": texts, "response_type": "embeddings_floats", "embeddings": rows}
        if "embedding_types" in payload:
            answer |= {"response_type": "embeddings_by_type", "embeddings": {"float": rows}}
        return answer

    def _refuse_poison(self, texts: list[str]) -> None:
        if self.is_poisoned(texts):
            raise malformed(f"the text {self.switches.poison!r} was refused")


if __name__ == "__main__":
    main(FakeBedrock, __doc__)
