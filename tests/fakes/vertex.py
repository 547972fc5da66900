"""A fake Vertex AI over real HTTP: `:predict`, `:embedContent`, the list of models, and Google's token endpoint.

The token endpoint verifies each assertion with Google's own code; only tokens that it gave out are taken. Switches
and faults: see `tests.fakes.server`, and here `token_status`, `token_body`, `token_latency_s`, `expires_in` for the
token endpoint, `truncates` for an answer that admits to a truncation. Without a task Vertex embeds a query, except with
gemini-embedding-2, which has no tasks.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import google.auth.jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from numpy.typing import NDArray

from tests.fakes.google import TASK_TYPES, Refusal, invalid
from tests.fakes.server import ROW_FAULTS, TOKEN_FAULTS, FakeServer, Switches, main
from tests.fakes.vectors import count_tokens, native_vector, unit

PROJECT = "fake-project"
REGION = "us-central1"
EMAIL = f"quiver@{PROJECT}.iam.gserviceaccount.com"
TEXT_5 = "text-embedding-005"
GEMINI_1 = "gemini-embedding-001"
GEMINI_2 = "gemini-embedding-2"
WIDTHS = {TEXT_5: 768, "text-multilingual-embedding-002": 768, GEMINI_1: 3072, GEMINI_2: 3072}
MAX_TOKENS = 2048
MAX_CALL_TOKENS = 20_000
MAX_ITEMS = 250
GOOGLES_AUDIENCE = "https://oauth2.googleapis.com/token"  # google-auth's, whatever token_uri is
CLOCK_SKEW_S = 7200  # tests move their clock
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@functools.cache
def _private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def expected_vector(
    model: str, text: str, dimensions: int | None = None, task: str = "RETRIEVAL_DOCUMENT"
) -> NDArray[Any]:
    """What a caller of ours gets: narrower vectors brought to unit length."""
    task = "" if model == GEMINI_2 else task
    return unit(native_vector(model, text, WIDTHS[model], task)[:dimensions])


@dataclass
class VertexSwitches(Switches):
    token_status: int = 200
    token_body: str = ""  # instead of a token
    token_latency_s: float = 0.0
    expires_in: int = 3600
    truncates: bool = False


@dataclass
class FakeVertex(FakeServer):
    make_switches: ClassVar[Callable[[], Switches]] = VertexSwitches

    grants: list[dict[str, Any]] = field(default_factory=list)  # the claims of each assertion that was taken
    assertions: int = 0  # how often a token was asked for
    revoked: set[str] = field(default_factory=set)

    @property
    def token_uri(self) -> str:
        return f"{self.address}/token"

    @property
    def service_account(self) -> str:
        """The JSON that Google's console would give."""
        key = _private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "k1",
            "private_key": key,
            "client_email": EMAIL,
            "token_uri": self.token_uri,
        }
        return json.dumps(account)

    @property
    def secret(self) -> dict[str, str]:
        return {"service_account": self.service_account}

    def reset(self) -> None:
        super().reset()
        self.grants.clear()
        self.revoked.clear()
        self.assertions = 0

    def revoke(self) -> None:
        """Takes none of the tokens any more that it gave out so far."""
        self.revoked |= {self._token(number) for number in range(1, len(self.grants) + 1)}

    def routes(self) -> Iterable[web.RouteDef]:
        model = (
            f"/{{version:v1|v1beta1}}/projects/{PROJECT}/locations/{REGION}/publishers/google/models/{{model:[^:]+}}"
        )
        methods = ("predict", "embedContent", "batchEmbedContents")
        return [
            *(web.post(f"{model}:{{method:{method}}}", self.embeddings) for method in methods),
            web.get("/v1beta1/publishers/google/models", self.models),
            web.post("/token", self.token),
        ]

    async def models(self, request: web.Request) -> web.StreamResponse:
        names = [*WIDTHS, "gemini-9-pro"]
        return await self.listed(
            request, {"publisherModels": [{"name": f"publishers/google/models/{name}"} for name in names]}
        )

    async def token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self.assertions += 1
        await asyncio.sleep(self.switches.token_latency_s)
        if self.switches.token_body or self.switches.token_status != 200:
            return web.Response(status=self.switches.token_status, text=self.switches.token_body)
        public = _private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        try:
            audience = [self.token_uri, GOOGLES_AUDIENCE]
            claims = google.auth.jwt.decode(
                str(form["assertion"]), certs=public, audience=audience, clock_skew_in_seconds=CLOCK_SKEW_S
            )
            assert form["grant_type"] == JWT_GRANT
            assert claims["iss"] == EMAIL
        except (ValueError, KeyError, AssertionError):
            told = {"error": "invalid_grant", "error_description": f"Invalid JWT Signature: {form['assertion']}"}
            return web.json_response(told, status=400)
        self.grants.append(dict(claims))
        granted = {"access_token": self._token(len(self.grants)), "token_type": "Bearer"}
        return web.json_response(granted | {"expires_in": self.switches.expires_in})

    def _token(self, number: int) -> str:
        return f"ya29.fake-{id(self)}-{number}"

    def authenticate(self, request: web.Request, body: bytes) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        valid = {self._token(number) for number in range(1, len(self.grants) + 1)} - self.revoked
        if given not in valid:
            raise Refusal(401, "UNAUTHENTICATED", f"Invalid credential {given}.", "ACCESS_TOKEN_TYPE_UNSUPPORTED")

    def items(self, payload: dict[str, Any]) -> int:
        return len(payload.get("instances", [payload]))

    def answer(self, request: web.Request, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        model, method = request.match_info["model"], request.match_info["method"]
        if model not in WIDTHS:
            raise Refusal(404, "NOT_FOUND", f"Publisher Model {model} was not found.")
        if method == "embedContent":
            return self._embed_content(model, payload, fault)
        if method == "batchEmbedContents" or model == GEMINI_2:
            raise invalid("The model does not support this method.")
        return self._predict(model, payload, fault)

    def _predict(self, model: str, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        instances, parameters = payload["instances"], payload.get("parameters", {})
        texts = [each["content"] for each in instances]
        most = 1 if model == GEMINI_1 else MAX_ITEMS
        if len(texts) > most:
            raise invalid(f"{most} instance(s) is allowed per prediction. Actual: {len(texts)}")
        self._check(texts, truncates=parameters.get("autoTruncate", True))
        tasks = [each.get("task_type", "RETRIEVAL_QUERY") for each in instances]
        if not TASK_TYPES.issuperset(tasks):
            raise invalid("Invalid task type.")
        dimensions = None if fault == "ignores_dimensions" else parameters.get("outputDimensionality")
        rows = [
            native_vector(model, text, WIDTHS[model], task)[:dimensions].tolist()
            for text, task in zip(texts, tasks, strict=True)
        ]
        counts: list[object] = [TOKEN_FAULTS.get(fault, count_tokens(text)) for text in texts]
        bent = ROW_FAULTS[fault](rows) if fault in ROW_FAULTS else rows
        counts += counts[-1:] * (len(bent) - len(counts))
        return {
            "predictions": [
                {"embeddings": {"values": row, "statistics": self._statistics(count)}}
                for row, count in zip(bent, counts, strict=False)
            ],
            "metadata": {"billableCharacterCount": sum(map(len, texts))},
        }

    def _embed_content(self, model: str, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        texts = [part["text"] for part in payload["content"]["parts"]]
        config = payload.get("embedContentConfig", {})
        self._check(texts, truncates=config.get("autoTruncate", True))
        dimensions = None if fault == "ignores_dimensions" else config.get("outputDimensionality")
        if "taskType" in config and model == GEMINI_2:
            raise invalid("Invalid task type.")
        task = "" if model == GEMINI_2 else config.get("taskType", "RETRIEVAL_QUERY")
        row = native_vector(model, "\n".join(texts), WIDTHS[model], task)[:dimensions].tolist()
        bent = ROW_FAULTS[fault]([row])[:1] if fault in ROW_FAULTS else [row]
        return {
            "embedding": {"values": bent[0] if bent else []},
            "usageMetadata": {"promptTokenCount": TOKEN_FAULTS.get(fault, sum(map(count_tokens, texts)))},
            "truncated": self.switches.truncates,
        }

    def _statistics(self, count: object) -> dict[str, object]:
        counted = {} if count is None else {"token_count": count}
        return {"truncated": self.switches.truncates, **counted}

    def _check(self, texts: list[str], *, truncates: bool) -> None:
        if not all(texts):
            raise invalid("The text content is empty.")
        counts = [count_tokens(text) for text in texts]
        for count, most in ((max(counts), MAX_TOKENS), (sum(counts), MAX_CALL_TOKENS)):
            if count > most and not truncates:
                raise invalid(
                    f"Unable to submit request because the input token count is {count} but the model supports up to "
                    f"{most}. Reduce the input token count and try again."
                )
        if self.is_poisoned(texts):
            raise invalid(f"the text {self.switches.poison!r} was refused")


if __name__ == "__main__":
    main(FakeVertex, __doc__)
