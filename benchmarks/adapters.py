"""What one call costs this process: each adapter, beside aiohttp's bare round trip for the same answer, and the SDKs.

Every answer is one vector of 1536 floats, base64 from OpenAI and Azure, JSON numbers from the others; the server is a
process of its own. An adapter gives a numpy row and a token count; aiohttp gives bytes that nobody has read yet.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import numpy as np
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.canned import DIMENSIONS
from providers.base import EmbedCall, Endpoint, Kind
from providers.bedrock_signing import Signer
from providers.registry import build

CONCURRENCY = 16
TITAN, COHERE, GEMINI = "amazon.titan-embed-text-v1", "cohere.embed-v4:0", "gemini-embedding-001"
AWS = {"aws_access_key_id": "AKIDBENCH", "aws_secret_access_key": "secret"}
Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """An adapter's call, and the vendor's path for it."""

    name: str
    endpoint: Endpoint
    call: EmbedCall
    path: str


def main(*, seconds: float) -> None:
    with _canned() as address:
        uvloop.run(_report(address, seconds))
    _report_memory()


async def _report(address: str, seconds: float) -> None:
    print(f"{CONCURRENCY} calls at a time, {seconds:g} s each; CPU µs of this process per call, one text, 1536 floats")
    print(f"{'case':<12}{'adapter':>9}{'aiohttp':>9}   SDK")
    sdks = {"azure": _azure_sdk, "titan": _boto3, "gemini": _genai}
    for case in _cases(address):
        provider = build(case.endpoint)
        adapter = await _cost(lambda p=provider, c=case: p.embed(c.call, timeout_s=10), seconds)  # type: ignore[misc]
        bare = await _bare(address + case.path, seconds)
        sdk = await sdks[case.name](address, seconds) if case.name in sdks else ""
        print(f"{case.name:<12}{adapter:>9.0f}{bare:>9.0f}   {sdk}")
        await provider.close()
    _report_signatures()


def _cases(address: str) -> list[Case]:
    def key(kind: Kind, base_url: str) -> Endpoint:
        return Endpoint(kind.value, kind, base_url=base_url, secret={"api_key": "sk-bench"})

    bedrock = Endpoint("bedrock", Kind.BEDROCK, base_url=address, region="us-east-1", secret=AWS)
    vertex = Endpoint(
        "vertex", Kind.VERTEX, base_url=address, region="r", secret={"service_account": _account(address)}
    )
    text = ["a distinct text of some words"]
    cut = EmbedCall(GEMINI, text, DIMENSIONS, dimensions=DIMENSIONS)
    return [
        Case("openai", key(Kind.OPENAI, address), EmbedCall("m", text, DIMENSIONS), "/embeddings"),
        Case("azure", key(Kind.AZURE, address), EmbedCall("m", text, DIMENSIONS), "/embeddings"),
        Case("titan", bedrock, EmbedCall(TITAN, text, DIMENSIONS), f"/model/{TITAN}/invoke"),
        Case("cohere", bedrock, EmbedCall(COHERE, text, DIMENSIONS), "/model/cohere/invoke"),
        Case("gemini", key(Kind.GOOGLE, address), cut, f"/v1/models/{GEMINI}:batchEmbedContents"),
        Case("vertex", vertex, cut, f"/v1/models/{GEMINI}:predict"),
    ]


def _account(address: str) -> str:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({"client_email": "e", "private_key": pem, "project_id": "p", "token_uri": f"{address}/token"})


async def _cost(call: Call, seconds: float) -> float:
    """CPU µs per call, with `CONCURRENCY` callers."""
    await call()
    ends = time.monotonic() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < ends:
            await call()
            done += 1

    before = time.process_time()
    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return (time.process_time() - before) / done * 1e6


async def _bare(url: str, seconds: float) -> float:
    body = b'{"input":"a distinct text of some words","model":"m"}'
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    headers = {"content-type": "application/json", "authorization": "Bearer k"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def call() -> bytes:
            async with session.post(url, data=body) as answer:
                return await answer.read()

        return await _cost(call, seconds)


async def _azure_sdk(address: str, seconds: float) -> str:
    import openai

    async with openai.AsyncAzureOpenAI(api_key="k", azure_endpoint=address, api_version="v", max_retries=0) as client:
        cost = await _cost(lambda: client.embeddings.create(model="m", input="a text"), seconds)
    return f"openai, async: {cost:.0f}"


async def _boto3(address: str, seconds: float) -> str:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    config = Config(max_pool_connections=CONCURRENCY, retries={"total_max_attempts": 1})
    client: Any = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=address, config=config, **AWS)

    def invoke() -> object:
        answer = client.invoke_model(modelId=TITAN, body='{"inputText":"a text"}')
        return np.array(json.loads(answer["body"].read())["embedding"], np.float32)

    with ThreadPoolExecutor(CONCURRENCY) as threads:
        loop = asyncio.get_running_loop()
        cost = await _cost(lambda: loop.run_in_executor(threads, invoke), seconds)
    return f"boto3 in threads: {cost:.0f}"


async def _genai(address: str, seconds: float) -> str:
    from google import genai
    from google.genai import types

    client = genai.Client(api_key="k", vertexai=False, http_options=types.HttpOptions(base_url=address)).aio
    cost = await _cost(lambda: client.models.embed_content(model=GEMINI, contents="a text"), seconds)
    await client.aclose()
    return f"google-genai, async: {cost:.0f}"


def _report_signatures() -> None:
    from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
    from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
    from botocore.credentials import Credentials  # type: ignore[import-untyped]

    path, body, now = "/model/m%3A0/invoke", b'{"inputText":"a text"}', datetime(2026, 3, 1, tzinfo=UTC)
    signer = Signer(access_key_id="A", secret_access_key="s", region="r", service="bedrock", host="h")
    botocores = SigV4Auth(Credentials("A", "s"), "bedrock", "r")
    headers = {"content-type": "application/json"}
    ours = _repeated(lambda: signer.headers(path, body, content_type="application/json", now=now))
    theirs = _repeated(lambda: botocores.add_auth(AWSRequest("POST", f"https://h{path}", headers=headers, data=body)))
    print(f"signature alone: ours {ours:.0f}, botocore's {theirs:.0f}")


def _repeated(work: Callable[[], object], times: int = 5000) -> float:
    before = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - before) / times * 1e6


def _report_memory() -> None:
    """Each in a process of its own, on top of what every web worker has."""
    print("memory, MB on top of the HTTP client, numpy and AES-GCM:")
    adapters = "providers.azure providers.bedrock providers.google providers.vertex"
    for names in (adapters, "botocore.auth", "google.oauth2.service_account", "boto3", "openai", "google.genai"):
        print(f"  {names}: {_memory_of(names):.1f}")


def _memory_of(names: str) -> float:
    program = (
        "import asyncio, importlib, sys, resource, msgspec, numpy, core.sealing, providers.http_client;"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize();"
        "before = rss(); [importlib.import_module(name) for name in sys.argv[1:]]; print((rss() - before) / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", program, *names.split()], capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def _canned() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.canned"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()
