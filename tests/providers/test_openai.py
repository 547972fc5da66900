"""The OpenAI adapter against the fake: what it sends, what it accepts, what each fault becomes."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.tokens import encoding
from providers.answers import check_vectors
from providers.base import EmbedCall, Endpoint, EndpointRefused, InputType, Kind, ListedModel
from providers.exchange import MAX_INLINE_BYTES
from providers.failures import FailureKind, ProviderFailure
from providers.openai import OpenAIProvider
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_model import expected_vector

SMALL = "text-embedding-3-small"
TEXTS = ["one", "two", "three"]


async def failure_of(provider: OpenAIProvider, call: EmbedCall, timeout_s: float = 5.0) -> ProviderFailure:
    """How a call fails, in the adapter or at the check that follows it."""
    with pytest.raises(ProviderFailure) as caught:
        await embed_and_check(provider, call, timeout_s)
    return caught.value


async def embed_and_check(provider: OpenAIProvider, call: EmbedCall, timeout_s: float) -> None:
    answer = await provider.embed(call, timeout_s=timeout_s)
    check_vectors(answer.vectors, count=len(call.inputs), width=call.width, cut=False)


async def test_texts_become_their_vectors(openai: OpenAIProvider) -> None:
    answer = await openai.embed(EmbedCall(SMALL, TEXTS, 1536), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors, [expected_vector(SMALL, text) for text in TEXTS])
    assert (answer.vectors.dtype, answer.tokens, answer.upstream_id) == (np.float32, 3, "req_1")


async def test_token_arrays_become_the_vectors_of_their_texts(openai: OpenAIProvider) -> None:
    tokens = [encoding().encode_ordinary(text) for text in TEXTS]

    answer = await openai.embed(EmbedCall(SMALL, tokens, 1536), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors, [expected_vector(SMALL, text) for text in TEXTS])


async def test_absent_fields_are_absent_and_the_input_type_stays_home(openai: OpenAIProvider, fake: FakeOpenAI) -> None:
    await openai.embed(EmbedCall(SMALL, ["x"], 1536, input_type=InputType.QUERY), timeout_s=5)

    [call] = fake.calls
    assert call.body == {"input": ["x"], "model": SMALL, "encoding_format": "base64"}
    assert call.headers["authorization"] == f"Bearer {fake.key}"


async def test_dimensions_are_sent(openai: OpenAIProvider, fake: FakeOpenAI) -> None:
    answer = await openai.embed(EmbedCall(SMALL, ["x"], 256, dimensions=256), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors, [expected_vector(SMALL, "x", 256)])
    assert fake.calls[0].body["dimensions"] == 256


async def test_an_answer_too_large_to_read_on_the_loop_is_read_all_the_same(openai: OpenAIProvider) -> None:
    texts = [f"text {number}" for number in range(80)]

    answer = await openai.embed(EmbedCall(SMALL, texts, 1536), timeout_s=30)

    assert answer.vectors.nbytes > MAX_INLINE_BYTES * 3 / 4
    np.testing.assert_array_equal(answer.vectors, [expected_vector(SMALL, text) for text in texts])


@pytest.mark.parametrize("fault", ["shuffled", "ignores_base64"])
async def test_what_can_be_put_right_is(openai: OpenAIProvider, fake: FakeOpenAI, fault: str) -> None:
    fake.switch(fault=fault)

    answer = await openai.embed(EmbedCall(SMALL, TEXTS, 1536), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors, [expected_vector(SMALL, text) for text in TEXTS])


@pytest.mark.parametrize("fault", ["usage_missing", "usage_negative", "usage_huge", "usage_text"])
async def test_a_count_that_cannot_be_is_no_count(openai: OpenAIProvider, fake: FakeOpenAI, fault: str) -> None:
    fake.switch(fault=fault)

    answer = await openai.embed(EmbedCall(SMALL, TEXTS, 1536), timeout_s=5)

    assert answer.tokens is None


@pytest.mark.parametrize(
    "fault",
    [
        "empty_data",
        "fewer",
        "more",
        "duplicate_index",
        "index_out_of_range",
        "index_missing",
        "wrong_width",
        "mixed_width",
        "zero_vector",
        "nan_base64",
        "not_base64",
        "torn_base64",
        "null_vector",
        "html",
        "invalid_json",
        "nan",
        "redirect",
        "gzip",
        "gzip_bomb",
        "string_numbers",
        "ignores_dimensions",
    ],
)
@pytest.mark.parametrize("texts", [TEXTS[:2], TEXTS], ids=["two", "three"])
async def test_a_wrong_answer_is_a_failure(
    openai: OpenAIProvider, fake: FakeOpenAI, fault: str, texts: list[str]
) -> None:
    fake.switch(fault=fault)

    failure = await failure_of(openai, EmbedCall(SMALL, texts, 256, dimensions=256))

    assert failure.kind is FailureKind.BAD_ANSWER


@pytest.mark.parametrize("fault", ["empty_data", "more", "index_out_of_range", "nan_base64", "zero_vector", "html"])
async def test_a_wrong_answer_to_one_text_is_a_failure(openai: OpenAIProvider, fake: FakeOpenAI, fault: str) -> None:
    fake.switch(fault=fault)

    failure = await failure_of(openai, EmbedCall(SMALL, ["one"], 1536))

    assert failure.kind is FailureKind.BAD_ANSWER


@pytest.mark.parametrize("fault", ["reset", "reset_after_headers", "reset_in_body", "short_body"])
async def test_a_broken_connection_is_a_disconnection(openai: OpenAIProvider, fake: FakeOpenAI, fault: str) -> None:
    fake.switch(fault=fault)

    failure = await failure_of(openai, EmbedCall(SMALL, ["one"], 1536))

    assert failure.kind is FailureKind.DISCONNECTED


@pytest.mark.parametrize("fault", ["hang", "drip"])
async def test_a_silent_server_is_a_timeout(openai: OpenAIProvider, fake: FakeOpenAI, fault: str) -> None:
    fake.switch(fault=fault)

    failure = await failure_of(openai, EmbedCall(SMALL, ["one"], 1536), timeout_s=0.1)

    assert failure.kind is FailureKind.TIMEOUT


async def test_an_answer_beyond_the_cap_is_not_read(endpoint: Endpoint, fake: FakeOpenAI) -> None:
    fake.switch(fault="huge_body")
    small = Endpoint("o", Kind.OPENAI, base_url=endpoint.base_url, secret=endpoint.secret, max_answer_bytes=100_000)

    failure = await failure_of(OpenAIProvider(small), EmbedCall(SMALL, ["one"], 1536))

    assert (failure.kind, failure.detail) == (FailureKind.BAD_ANSWER, "the body exceeds 100000 bytes")


async def test_an_answer_far_larger_than_what_was_asked_for_is_not_read(
    openai: OpenAIProvider, fake: FakeOpenAI
) -> None:
    fake.switch(fault="huge_body", huge_bytes=60_000_000)

    failure = await failure_of(openai, EmbedCall(SMALL, ["one"], 1536))

    assert (failure.kind, failure.detail[:16]) == (FailureKind.BAD_ANSWER, "the body exceeds")


async def test_the_vendors_wish_to_wait_is_passed_on(openai: OpenAIProvider, fake: FakeOpenAI) -> None:
    fake.switch(fault="status", status=429, retry_after="7")

    failure = await failure_of(openai, EmbedCall(SMALL, ["one"], 1536))

    assert (failure.kind, failure.status, failure.retry_after) == (FailureKind.CAPACITY, 429, 7.0)


async def test_a_refused_text_is_the_callers_and_stays_out_of_the_detail(
    openai: OpenAIProvider, fake: FakeOpenAI
) -> None:
    fake.switch(poison="hunter2")

    failure = await failure_of(openai, EmbedCall(SMALL, ["fine", "my password is hunter2"], 1536))

    assert failure.kind is FailureKind.TEXT_REFUSED
    assert failure.upstream_id == "req_1"
    assert "hunter2" not in str(failure)


async def test_a_text_that_is_too_long_says_so(openai: OpenAIProvider) -> None:
    failure = await failure_of(openai, EmbedCall(SMALL, ["word " * 9000], 1536))

    assert failure.kind is FailureKind.TOO_LONG


async def test_an_unknown_model_is_missing(openai: OpenAIProvider) -> None:
    failure = await failure_of(openai, EmbedCall("text-embedding-9", ["one"], 1536))

    assert failure.kind is FailureKind.MODEL_MISSING


async def test_half_a_surrogate_pair_is_the_callers(openai: OpenAIProvider, fake: FakeOpenAI) -> None:
    failure = await failure_of(openai, EmbedCall(SMALL, ["\ud800"], 1536))

    assert failure.kind is FailureKind.TEXT_REFUSED
    assert fake.calls == []


async def test_a_wrong_key_is_ours_to_mend_and_is_never_repeated(fake: FakeOpenAI) -> None:
    provider = OpenAIProvider(
        Endpoint("o", Kind.OPENAI, base_url=fake.base_url, secret={"api_key": "sk-wrong-and-secret"})
    )

    embedding = await failure_of(provider, EmbedCall(SMALL, ["one"], 1536))
    with pytest.raises(ProviderFailure) as listing:
        await provider.list_models()

    assert embedding.kind is listing.value.kind is FailureKind.CREDENTIAL
    assert "sk-wrong" not in f"{embedding} {listing.value} {provider.endpoint!r} {provider.endpoint.identity}"


async def test_models_are_listed_by_the_sdk(openai: OpenAIProvider) -> None:
    models = await openai.list_models()

    assert models[0].identifier == SMALL


async def test_a_compatible_server_may_say_more_of_its_models(openai: OpenAIProvider, fake: FakeOpenAI) -> None:
    told = {"max_model_len": 512, "dimensions": 384, "deprecated": True}
    nonsense = {"max_model_len": "many", "dimensions": -1, "deprecated": "no"}
    names = ("good", "odd", "bare")
    fake.switch(
        listed=[
            {"id": name, "object": "model", "created": 1, "owned_by": "x", **more}
            for name, more in zip(names, (told, nonsense, {}), strict=True)
        ]
    )

    assert await openai.list_models() == [
        ListedModel("good", "", 384, 512, is_deprecated=True),
        ListedModel("odd"),
        ListedModel("bare"),
    ]


async def test_a_server_without_a_list_tells_of_its_one_model(fake: FakeOpenAI) -> None:
    fake.switch(info={"model_id": "BAAI/bge-m3", "max_input_length": 8192, "model_dtype": "float16"})
    tei = OpenAIProvider(Endpoint("tei", Kind.OPENAI_COMPATIBLE, base_url=fake.base_url))

    assert await tei.list_models() == [ListedModel("BAAI/bge-m3", max_tokens=8192)]


async def test_openai_itself_has_a_list_or_fails(fake: FakeOpenAI, openai: OpenAIProvider) -> None:
    fake.switch(info={"model_id": "x"})

    with pytest.raises(ProviderFailure) as listing:
        await openai.list_models()

    assert listing.value.status == 404


async def test_a_server_with_neither_fails(fake: FakeOpenAI) -> None:
    fake.switch(fault="status", status=404)
    nobody = OpenAIProvider(Endpoint("tei", Kind.OPENAI_COMPATIBLE, base_url=fake.base_url))

    with pytest.raises(ProviderFailure) as listing:
        await nobody.list_models()

    assert listing.value.status == 404


async def test_a_compatible_server_needs_no_key(fake: FakeOpenAI) -> None:
    fake.switch(key="")
    provider = OpenAIProvider(Endpoint("vllm", Kind.OPENAI_COMPATIBLE, base_url=fake.base_url))

    await provider.embed(EmbedCall(SMALL, ["one"], 1536), timeout_s=5)
    models = await provider.list_models()

    assert "authorization" not in fake.calls[0].headers
    assert len(models) == 3


@pytest.mark.parametrize("fault", ["ignores_base64", "ignores_dimensions"])
async def test_a_compatible_server_that_ignores_a_wish_gives_right_vectors_or_none(
    fake: FakeOpenAI, fault: str
) -> None:
    endpoint = Endpoint("vllm", Kind.OPENAI_COMPATIBLE, base_url=fake.base_url, secret={"api_key": fake.key})
    fake.switch(fault=fault)

    answer = await OpenAIProvider(endpoint).embed(EmbedCall(SMALL, ["x"], 256, dimensions=256), timeout_s=5)

    asked_for = {"ignores_base64": 256, "ignores_dimensions": 1536}[fault]
    np.testing.assert_array_equal(answer.vectors, [expected_vector(SMALL, "x", asked_for)])
    with pytest.raises(ProviderFailure):
        check_vectors(answer.vectors, count=1, width=1792 - asked_for, cut=False)


async def test_a_list_that_is_refused_is_classified(openai: OpenAIProvider, fake: FakeOpenAI) -> None:
    fake.switch(fault="status", status=503)

    with pytest.raises(ProviderFailure) as caught:
        await openai.list_models()

    assert caught.value.kind is FailureKind.SERVER


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        (Endpoint("o", Kind.OPENAI), "no api_key"),
        (Endpoint("c", Kind.OPENAI_COMPATIBLE), "needs a base_url"),
        (Endpoint("c", Kind.OPENAI_COMPATIBLE, base_url="vllm:8000"), "must look like"),
        (Endpoint("o", Kind.OPENAI, secret={"api_key": "k\r\nx: y"}), "a header must not hold"),
    ],
)
def test_an_unusable_endpoint_is_refused_when_it_is_built(endpoint: Endpoint, reason: str) -> None:
    with pytest.raises(EndpointRefused, match=reason):
        OpenAIProvider(endpoint)
