"""All vendors at once for stories: their fakes, how each is set up over REST, what each answers, and its own SDK."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import boto3
import openai
from google import genai
from google.genai import types
from google.oauth2.service_account import Credentials

from providers.azure import API_VERSION
from providers.vertex_tokens import SCOPE
from tests.fakes import azure, bedrock, google, openai_model, vertex
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeServer
from tests.fakes.vectors import count_tokens

SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
DOCUMENT = types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT")


@dataclass(frozen=True)
class Vendor:
    """One model at one vendor. What is counted and what it costs stands here by hand, not by our own rules."""

    fake: FakeServer
    provider: str  # slug
    model: str  # name and identifier
    usd_per_million: str
    count: Callable[[str], int]
    expected: Callable[[str], Any]
    by_sdk: Callable[[str], list[float]]
    sizes: list[int]  # of the calls that 500 texts make
    estimated: bool = False  # about a token per four bytes, because the vendor gives no count
    facts: dict[str, Any] = field(default_factory=dict)  # of the catalogue's row; empty: it is there already

    def tokens(self, texts: list[str]) -> int:
        """Counted text by text; where nobody counts, estimated for all of them at once."""
        return self.count("".join(texts)) if self.estimated else sum(map(self.count, texts))

    def cost(self, texts: list[str]) -> Decimal:
        """USD, rounded up to the nano-dollar."""
        nano = -(-self.tokens(texts) * Decimal(self.usd_per_million) * 1000 // 1)
        return Decimal(nano) / 10**9


@contextmanager
def all_vendors() -> Iterator[dict[str, Vendor]]:
    """The fakes run until the end of the `with`."""
    with ExitStack() as stack:
        enter = stack.enter_context
        fake_openai, fake_azure, fake_bedrock = (
            enter(FakeOpenAI()),
            enter(azure.FakeAzure()),
            enter(bedrock.FakeBedrock()),
        )
        fake_google, fake_vertex = enter(google.FakeGoogle()), enter(vertex.FakeVertex())
        yield {
            "openai": Vendor(
                fake_openai, "openai", SMALL, "0.02", openai_model.count_tokens,
                lambda text: openai_model.expected_vector(SMALL, text), by_openai(fake_openai), [500],
            ),
            "azure": Vendor(
                fake_azure, "azure", "search-eu", "0.13", openai_model.count_tokens,
                lambda text: openai_model.expected_vector(LARGE, text), by_azure(fake_azure), [500],
                facts={"dimensions": 3072, "tokenizer": "cl100k_base", "cost_per_million_tokens": "0.13"},
            ),
            "titan": Vendor(
                fake_bedrock, "bedrock", bedrock.TITAN_V2, "0.02", count_tokens,
                lambda text: bedrock.expected_vector(bedrock.TITAN_V2, text), by_titan(fake_bedrock), [1] * 500,
            ),
            "cohere": Vendor(
                fake_bedrock, "bedrock", bedrock.COHERE_V3, "0.1", count_tokens,
                lambda text: bedrock.expected_vector(bedrock.COHERE_V3, text, task="search_document"),
                by_cohere(fake_bedrock), [96] * 5 + [20],
            ),
            "gemini": Vendor(
                fake_google, "google", google.GEMINI_1, "0.15", count_tokens,
                lambda text: google.expected_vector(google.GEMINI_1, text), by_gemini(fake_google), [100] * 5,
                estimated=True,
            ),
            "vertex": Vendor(
                fake_vertex, "vertex", vertex.TEXT_5, "0.1", count_tokens,
                lambda text: vertex.expected_vector(vertex.TEXT_5, text), by_vertex(fake_vertex), [250, 250],
            ),
        }  # fmt: skip


def set_up(operate: Callable[..., Any], vendors: dict[str, Vendor]) -> dict[str, str]:
    """What an operator sends to have them all; returns the catalogue's ids by vendor."""
    providers = "/embedding-models/providers"
    region = {"bedrock": bedrock.REGION, "vertex": vertex.REGION}
    for vendor in {each.provider: each for each in vendors.values()}.values():
        words = {"base_url": vendor.fake.base_url, "secret": vendor.fake.secret}
        if vendor.provider == "azure":  # the others come with the catalogue
            operate("POST", providers, {"slug": "azure", "kind": "azure", "api_version": API_VERSION, **words})
        else:
            where = {"region": region[vendor.provider]} if vendor.provider in region else {}
            operate("PATCH", f"{providers}/{vendor.provider}", words | where)
    return {name: _in_catalogue(operate, vendor) for name, vendor in vendors.items()}


def _in_catalogue(operate: Callable[..., Any], vendor: Vendor) -> str:
    path = "/embedding-models/catalog"
    if vendor.facts:
        named = {"provider": vendor.provider, "model_name": vendor.model, "model_identifier": vendor.model}
        return str(operate("POST", path, {**named, **vendor.facts, "activate": True})["id"])
    found = operate("GET", f"{path}?provider={vendor.provider}&limit=100")["models"]
    return str(next(each["id"] for each in found if each["model_identifier"] == vendor.model))


# Each vendor's own SDK, pointed at the fake.


def by_openai(fake: FakeServer) -> Callable[[str], list[float]]:
    sdk = openai.OpenAI(api_key=fake.key, base_url=fake.base_url, max_retries=0)
    return lambda text: sdk.embeddings.create(model=SMALL, input=text).data[0].embedding


def by_azure(fake: FakeServer) -> Callable[[str], list[float]]:
    sdk = openai.AzureOpenAI(api_key=fake.key, azure_endpoint=fake.base_url, api_version=API_VERSION, max_retries=0)
    return lambda text: sdk.embeddings.create(model="search-eu", input=text).data[0].embedding


def _invoked(fake: FakeServer, model: str, body: dict[str, Any]) -> Any:
    sdk: Any = boto3.client(
        "bedrock-runtime",
        region_name=bedrock.REGION,
        endpoint_url=fake.base_url,
        **fake.secret,  # type: ignore[arg-type]
    )
    return json.loads(sdk.invoke_model(modelId=model, body=json.dumps(body))["body"].read())


def by_titan(fake: FakeServer) -> Callable[[str], list[float]]:
    return lambda text: _invoked(fake, bedrock.TITAN_V2, {"inputText": text})["embedding"]


def by_cohere(fake: FakeServer) -> Callable[[str], list[float]]:
    body = {"input_type": "search_document"}
    return lambda text: _invoked(fake, bedrock.COHERE_V3, body | {"texts": [text]})["embeddings"][0]


def by_gemini(fake: FakeServer) -> Callable[[str], list[float]]:
    def embedded(text: str) -> list[float]:
        with genai.Client(api_key=fake.key, http_options=types.HttpOptions(base_url=fake.base_url)) as sdk:
            found = sdk.models.embed_content(model=google.GEMINI_1, contents=text, config=DOCUMENT).embeddings or []
        return found[0].values or []

    return embedded


def by_vertex(fake: vertex.FakeVertex) -> Callable[[str], list[float]]:
    def embedded(text: str) -> list[float]:
        account = Credentials.from_service_account_info(json.loads(fake.service_account), scopes=[SCOPE])
        options = types.HttpOptions(base_url=fake.base_url)
        with genai.Client(
            vertexai=True, project=vertex.PROJECT, location=vertex.REGION, credentials=account, http_options=options
        ) as sdk:
            found = sdk.models.embed_content(model=vertex.TEXT_5, contents=text, config=DOCUMENT).embeddings or []
        return found[0].values or []

    return embedded
