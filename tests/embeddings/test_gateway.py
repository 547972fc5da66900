"""The gateway whole, with small stand-ins for its ports: order, money, deadlines, what is left behind."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from core.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    LedgerUnavailable,
    NoModelAvailable,
    ProviderCapacity,
    ProviderError,
    ProviderTimeout,
    QuiverError,
)
from embeddings.gateway import Gateway
from embeddings.snapshot import TenantSnapshot
from embeddings.tokens import BYTES
from providers.failures import MEANING, FailureKind
from tests.embeddings.building import call, choice, deployment, endpoint, request, snapshot, token_request
from tests.embeddings.fakes import (
    answering,
    broken,
    failing,
    right,
    vectors_for,
)
from tests.embeddings.planes import Plane, until

CALLERS_FAULTS = [kind for kind, meaning in MEANING.items() if meaning.callers_fault]
OTHER_ROUTES = [kind for kind, meaning in MEANING.items() if meaning.other_route]
NEVER_SENT = (FailureKind.BUSY, FailureKind.NOT_NOW, FailureKind.NOT_CALLABLE)
FLOATS = np.array([[0.5, 1, 2, 3]], dtype=np.float32)
WRONG = {
    "fewer": np.ones((1, 4), np.float32),
    "more": np.ones((3, 4), np.float32),
    "narrow": np.ones((2, 3), np.float32),
    "wide": np.ones((2, 5), np.float32),
    "nan": np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]], np.float32),
    "infinite": np.array([[1, 1, 1, 1], [1, np.inf, 1, 1]], np.float32),
    "zero": np.array([[1, 1, 1, 1], [0, 0, 0, 0]], np.float32),
}


@pytest.fixture
async def plane():
    made = Plane()
    yield made
    await made.idle()  # whatever a story did, nothing is held, waited for or under way
    await made.close()


@pytest.fixture
def gateway(plane):
    return plane.gateway


@pytest.fixture
def ledger(plane):
    return plane.ledger


@pytest.fixture
def providers(plane):
    return plane.providers


@pytest.fixture
def observer(plane):
    return plane.observer


def two_providers() -> TenantSnapshot:
    return snapshot(choice(deployment("m", provider="a")), choice(deployment("m", provider="b")))


async def refusal_of(gateway: Gateway, asked, by) -> QuiverError:
    with pytest.raises(QuiverError) as refused:
        await gateway.embed(asked, by)
    return refused.value


# The order of things


async def test_an_answer_has_a_row_of_its_own(gateway, ledger, observer):
    by = call(snapshot(choice(deployment("small"))))
    answer = await gateway.embed(request("a", "b", task_type="t"), by)
    row = ledger.rows[by.request_id]
    assert answer.usage is row
    assert np.array_equal(answer.vectors, vectors_for(["a", "b"], 4))
    assert (row.status, row.items, row.tokens, row.provider_tokens, row.estimated) == ("ok", 2, 2, 2, False)
    assert (row.model, row.provider, row.space, row.dimensions) == ("small", "openai", "small", 4)
    assert (row.task_type, row.attempts, row.key_id) == ("t", 1, by.key.key_id)
    assert [(c.request_id, c.outcome, c.upstream_id) for c in ledger.calls.values()] == [(row.id, "ok", "up-1")]
    assert [(tenant, usage.id) for tenant, usage, _ in observer.told] == [("acme", row.id)]


@pytest.mark.parametrize("kind", OTHER_ROUTES)
async def test_a_failure_goes_to_the_next_candidate(gateway, providers, ledger, kind):
    providers.behaviours["a"] = failing(kind)
    by = call(two_providers())
    answer = await gateway.embed(request(model="m"), by)
    assert answer.deployment.provider == "b"
    assert [(a.provider, a.outcome) for a in answer.attempts] == [("a", kind.value), ("b", "ok")]
    left_a_row = [] if kind in NEVER_SENT else [kind.value]
    assert sorted(c.outcome for c in ledger.calls.values()) == sorted([*left_a_row, "ok"])


@pytest.mark.parametrize("kind", CALLERS_FAULTS)
async def test_the_callers_fault_ends_the_chain(gateway, providers, kind):
    providers.behaviours["a"] = failing(kind)
    refused = await refusal_of(gateway, request(model="m"), call(two_providers()))
    assert (refused.status, refused.param, refused.extra["index"]) == (400, "input", 0)
    assert providers.asked("b") == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FailureKind.CREDENTIAL, ProviderError),
        (FailureKind.CAPACITY, ProviderCapacity),
        (FailureKind.TIMEOUT, ProviderTimeout),
        (FailureKind.TOO_LONG, ContextLengthExceeded),
    ],
)
async def test_the_last_failure_is_told_in_our_own_words(gateway, providers, ledger, kind, error):
    providers.behaviours["openai"] = failing(kind, status=401)
    by = call(snapshot(choice(deployment("small"))))
    refused = await refusal_of(gateway, request(), by)
    assert type(refused) is error
    assert "as told" not in refused.message
    assert [a["outcome"] for a in refused.extra["attempts"]] == [kind.value]
    row = ledger.rows[by.request_id]
    assert (row.status, row.tokens, row.cost_nano, row.attempts) == (error.code, 0, 0, 1)
    assert [c.outcome for c in ledger.calls.values()] == [kind.value]


async def test_what_a_vendor_asks_to_wait_is_passed_on(gateway, providers):
    providers.behaviours["openai"] = failing(FailureKind.CAPACITY, retry_after=17.2)
    assert (await refusal_of(gateway, request(), call(snapshot(choice())))).retry_after == 17


async def test_a_provider_that_cannot_be_called_is_passed_over(gateway, providers):
    providers.refused.add("a")
    answer = await gateway.embed(request(model="m"), call(two_providers()))
    assert [a.outcome for a in answer.attempts] == ["not_callable", "ok"]


async def test_without_anybody_to_call_no_model_is_available(gateway, providers, ledger, observer):
    providers.refused.add("openai")
    refused = await refusal_of(gateway, request(), call(snapshot(choice())))
    assert type(refused) is NoModelAvailable
    assert ledger.rows == {}  # nobody was called
    assert [usage.status for _, usage, _ in observer.told] == ["no_model_available"]


async def test_a_defect_of_ours_leaves_a_trace_and_no_charge(gateway, providers, ledger, observer):
    providers.behaviours["a"] = failing(FailureKind.SERVER)
    providers.behaviours["b"] = broken
    by = call(two_providers())
    with pytest.raises(IndexError):
        await gateway.embed(request(model="m"), by)
    assert (ledger.rows[by.request_id].status, ledger.rows[by.request_id].cost_nano) == ("internal_error", 0)
    assert [usage.status for _, usage, _ in observer.told] == ["internal_error"]


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_answer_is_a_failure_never_an_answer(gateway, providers, ledger, wrong):
    providers.behaviours["a"] = answering(wrong)
    answer = await gateway.embed(request("x", "y", model="m"), call(two_providers()))
    assert [(a.provider, a.outcome) for a in answer.attempts] == [("a", "bad_answer"), ("b", "ok")]
    assert np.array_equal(answer.vectors, vectors_for(["x", "y"], 4))


async def test_credentials_rotate_and_stand_in_for_each_other(gateway, providers):
    of = snapshot(choice(deployment(endpoints=(endpoint(credential="c1"), endpoint(credential="c2")))))
    for text in "abcd":
        await gateway.embed(request(text), call(of))
    assert [len(providers.made["openai", c].asked) for c in ("c1", "c2")] == [2, 2]
    providers.made["openai", "c1"].behaviour = failing(FailureKind.CREDENTIAL)
    outcomes = [[a.outcome for a in (await gateway.embed(request(text), call(of))).attempts] for text in "ef"]
    assert sorted(outcomes) == [["credential", "ok"], ["ok"]]


# Deadlines


async def test_a_passed_deadline_calls_nobody(gateway, providers, ledger):
    refused = await refusal_of(gateway, request(), call(snapshot(choice()), seconds=0.0))
    assert (type(refused), providers.made, ledger.rows) == (ProviderTimeout, {}, {})


async def test_a_call_gets_what_is_left_of_the_deadline_or_the_providers_own_limit(gateway, providers):
    of = snapshot(choice(deployment(endpoints=(endpoint(timeout_s=2.0),))))
    await gateway.embed(request("a"), call(of, seconds=1.0))
    await gateway.embed(request("b"), call(of, seconds=60.0))
    short, long = providers.made["openai", "c1"].timeouts
    assert 0.5 < short <= 1.0
    assert long == 2.0


async def test_a_caller_that_goes_leaves_the_call_that_was_sent_to_run_on(plane, gateway, providers, ledger):
    providers.behaviours["a"] = failing(FailureKind.SERVER)
    of = two_providers()
    waiting = providers.get(of.choices[1].deployment.endpoints[0])
    waiting.gate.clear()
    by = call(of)
    task = asyncio.create_task(gateway.embed(request("x", model="m"), by))
    await until(lambda: waiting.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    waiting.gate.set()
    await plane.idle()
    assert (ledger.rows[by.request_id].status, ledger.rows[by.request_id].cost_nano) == ("cancelled", 0)
    again = await gateway.embed(request("x", model="m"), call(of))
    assert (again.usage.cached, len(waiting.asked)) == (0, 2)  # nobody paid for it, so nobody gets it for nothing


# The ledger


async def test_no_provider_is_called_while_the_ledger_is_down(gateway, providers, ledger, observer):
    ledger.is_up = False
    refused = await refusal_of(gateway, request(), call(snapshot(choice())))
    assert (type(refused), providers.made) == (LedgerUnavailable, {})
    assert [usage.status for _, usage, _ in observer.told] == ["ledger_unavailable"]


async def test_what_is_not_committed_is_not_answered(plane, gateway, providers, ledger, observer):
    ledger.fails_at_commit = True
    by = call(snapshot(choice()))
    refused = await refusal_of(gateway, request(), by)
    assert type(refused) is LedgerUnavailable
    assert (ledger.rows[by.request_id].status, ledger.rows[by.request_id].cost_nano) == ("ledger_unavailable", 0)
    assert [usage.status for _, usage, _ in observer.told] == ["ledger_unavailable"]
    # The row may be committed all the same: what it charges is not free before the ledger is asked.
    assert len(plane.limits.left) == 1


# Money


@pytest.mark.parametrize(("counted", "charged"), [(1, 1), (2, 2), (3, 2), (10**6, 2)])
async def test_charged_is_what_the_provider_counted_but_never_more_than_was_held(gateway, providers, counted, charged):
    providers.behaviours["openai"] = right(tokens=counted)
    row = (await gateway.embed(request("hello world"), call(snapshot(choice(deployment(price=10**9)))))).usage
    assert (row.tokens, row.provider_tokens, row.held_tokens, row.estimated) == (charged, counted, 2, False)
    assert row.cost_nano == charged * 1000


@pytest.mark.parametrize(
    ("facts", "tokens"),
    [({}, 2), ({"tokenizer": BYTES}, 3)],  # exact; eleven bytes, four a token
    ids=["known tokenizer", "unknown tokenizer"],
)
async def test_a_missing_count_is_estimated(gateway, providers, facts, tokens):
    providers.behaviours["openai"] = right(tokens=None)
    row = (await gateway.embed(request("hello world"), call(snapshot(choice(deployment(**facts)))))).usage
    assert (row.tokens, row.provider_tokens, row.estimated) == (tokens, None, True)


async def test_only_the_candidate_that_answered_is_charged(gateway, providers):
    of = snapshot(
        choice(deployment("m", provider="a", price=9 * 10**9)), choice(deployment("m", provider="b", price=10**6))
    )
    providers.behaviours["a"] = answering(FLOATS[:, :2], tokens=2)  # it will send a bill
    row = (await gateway.embed(request("hello world", model="m"), call(of))).usage
    assert (row.provider, row.cost_nano) == ("b", 2)


async def test_more_tokens_than_a_request_may_have_are_refused(gateway, providers):
    of = snapshot(choice(deployment(max_tokens=600)))
    refused = await refusal_of(gateway, token_request([1] * 501, [1] * 500), call(of))
    assert (type(refused), refused.param, providers.made) == (InvalidRequest, "input", {})
    await gateway.embed(token_request([1] * 500, [1] * 500), call(of))


# What is sent


async def test_texts_beyond_the_caps_are_split_and_come_back_in_order(gateway, providers, ledger):
    providers.behaviours["openai"] = right(tokens=1)
    texts = [f"text {index}" for index in range(50)]
    answer = await gateway.embed(request(*texts), call(snapshot(choice(deployment(max_items=3)))))
    assert np.array_equal(answer.vectors, vectors_for(texts, 4))
    assert max(len(each.inputs) for each in providers.asked()) == 3
    assert (answer.usage.tokens, len(ledger.calls), len(answer.attempts)) == (17, 17, 1)


async def test_one_part_without_a_count_makes_the_whole_an_estimate(gateway, providers):
    counts = iter([1, None, 1])
    providers.behaviours["openai"] = lambda asked: right(tokens=next(counts))(asked)
    row = (await gateway.embed(request("a", "b", "c"), call(snapshot(choice(deployment(max_items=1)))))).usage
    assert (row.tokens, row.provider_tokens, row.estimated) == (3, None, True)


def second_fails(providers) -> None:
    outcomes = iter([right(tokens=1), failing(FailureKind.SERVER), right(tokens=1)])
    providers.behaviours["a"] = lambda asked: next(outcomes)(asked)


async def test_one_failed_part_sends_the_whole_to_another_space(gateway, providers, ledger):
    of = snapshot(choice(deployment("m", provider="a", max_items=1)), choice(deployment("n", provider="b")))
    second_fails(providers)
    answer = await gateway.embed(request("x", "y", "z"), call(of))
    assert [each.inputs for each in providers.asked("b")] == [["x", "y", "z"]]
    assert np.array_equal(answer.vectors, vectors_for(["x", "y", "z"], 4))
    assert [c.outcome for c in ledger.calls.values()].count("server") == 1


async def test_in_the_same_space_only_what_failed_is_sent_again_and_charged(gateway, providers, ledger):
    of = snapshot(choice(deployment("m", provider="a", max_items=1)), choice(deployment("m", provider="b")))
    second_fails(providers)
    providers.behaviours["b"] = right(tokens=1)
    answer = await gateway.embed(request("x", "y", "z", model="m"), call(of))
    assert [each.inputs for each in providers.asked("b")] == [["y"]]
    assert np.array_equal(answer.vectors, vectors_for(["x", "y", "z"], 4))
    assert [c.outcome for c in ledger.calls.values()].count("server") == 1
    assert (answer.deployment.provider, answer.usage.tokens, answer.usage.cached) == ("b", 1, 0)


async def test_token_arrays_go_as_they_are_or_as_text(gateway, providers):
    hello_world = [15339, 1917]
    await gateway.embed(token_request(hello_world), call(snapshot(choice(deployment()))))
    await gateway.embed(token_request(hello_world), call(snapshot(choice(deployment(tokenizer=BYTES)))))
    assert [each.inputs for each in providers.asked()] == [[hello_world], ["hello world"]]


async def test_dimensions_are_sent_to_who_takes_them_and_only_when_they_differ(gateway, providers):
    of = snapshot(choice(deployment(takes_dimensions=True, allowed_dimensions=frozenset({2}))))
    await gateway.embed(request(dimensions=2), call(of))
    await gateway.embed(request(dimensions=4), call(of))
    await gateway.embed(request("another"), call(of))
    assert [(each.dimensions, each.width) for each in providers.asked()] == [(2, 2), (None, 4), (None, 4)]


async def test_a_matryoshka_vector_is_cut_and_brought_back_to_unit_length(gateway, providers):
    providers.behaviours["openai"] = right(native=4)
    answer = await gateway.embed(request("x", dimensions=2), call(snapshot(choice(deployment(is_matryoshka=True)))))
    native = vectors_for(["x"], 4)[:, :2]
    assert (answer.dimensions, answer.usage.dimensions, answer.vectors.dtype) == (2, 2, np.float32)
    assert np.allclose(answer.vectors, native / np.linalg.norm(native))
    assert [each.dimensions for each in providers.asked()] == [None]


async def test_dropped_dimensions_are_noticed_where_nothing_may_be_cut(gateway, providers):
    providers.behaviours["openai"] = right(native=4)
    of = snapshot(choice(deployment(takes_dimensions=True, allowed_dimensions=frozenset({2}))))
    refused = await refusal_of(gateway, request("x", dimensions=2), call(of))
    assert [a["outcome"] for a in refused.extra["attempts"]] == ["bad_answer"]


async def test_truncation_sends_and_charges_what_fits(gateway, providers):
    providers.behaviours["openai"] = right(tokens=99)
    of = snapshot(choice(deployment(max_tokens=2)))
    row = (await gateway.embed(request("one two three", truncate=True), call(of))).usage
    assert [each.inputs for each in providers.asked()] == [["one two"]]
    assert (row.tokens, row.held_tokens) == (2, 2)


async def test_large_inputs_go_the_same_way_through_the_thread(gateway, providers):
    text = "word " * 4000
    of = snapshot(choice(deployment(max_tokens=900)))
    with pytest.raises(ContextLengthExceeded):
        await gateway.embed(request(text), call(of))
    assert (await refusal_of(gateway, request(text, truncate=True), call(of))).code == "invalid_request"
    heavy = request(*[f"word{number}{' ' * 700}word" for number in range(20)], truncate=True)
    answer = await gateway.embed(heavy, call(snapshot(choice(deployment(max_tokens=5)))))
    assert answer.vectors.shape == (20, 4)
    assert answer.usage.held_tokens == 100
