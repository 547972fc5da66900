"""What a program sees when limits are used up: who answers instead, what the refusal says, what is still free.

Each story has a tenant of its own that never asked anything before, so its limits are known from its first request on.
A text of a story has eight tokens and costs 160 nano-dollars.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.scenarios.accounts import add_caller, add_limit, check_books, holds
from tests.up.processes import eventually

pytestmark = pytest.mark.slow
SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
names = itertools.count()
numbers = itertools.count(100)


@pytest.fixture(scope="module")
def others(platform, vendor):
    """The small model at a second provider, in the same space, and another model: ids."""
    platform.add_provider("second", vendor.base_url, vendor.key)
    return {
        "same space": platform.add_model("second", SMALL, space=f"fake/{SMALL}"),
        "another": platform.add_model("second", LARGE, model_identifier=LARGE, dimensions=3072),
    }


@pytest.fixture
def who(platform):
    return add_caller(platform, f"quota-{next(names)}", platform.model_id)


def text() -> str:
    return f"text {next(numbers)} of {next(numbers)} 100"


def embed(platform, who, **words):
    return platform.embed(who.key, **{"input": text(), "dimensions": 8, **words})


def midnight() -> str:
    return f"{(datetime.now(UTC) + timedelta(days=1)):%Y-%m-%d}T00:00:00Z"


def estimate_with_hits(platform, who, body):
    """Once the price of hits has arrived: eight tokens at 1 USD per million are 8,000 nano-dollars."""
    told = platform.ask("POST", "/v1/embeddings/estimate", body, who.key).json
    return told if Decimal(told["cost_usd"] or 0) > Decimal("0.000008") else None


# Who answers instead


def test_the_same_space_elsewhere_answers_for_a_model_that_is_used_up(platform, others, who):
    platform.configure(who.admin_key, others["another"], priority=50)
    platform.configure(who.admin_key, others["same space"])
    add_limit(platform, who, "tokens", "day", 10, "model")
    first, second = embed(platform, who, model=SMALL), embed(platform, who, model=SMALL)
    assert (first.status, first.json["quiver"]["provider"]) == (200, "fake")
    assert (second.status, second.json["quiver"]["provider"]) == (200, "second")
    assert second.json["quiver"]["space"] == first.json["quiver"]["space"]
    assert [each["outcome"] for each in second.json["quiver"]["attempts"]] == ["limit", "ok"]


def test_the_fallback_that_is_written_down_answers_also_from_another_space(platform, others, who):
    platform.configure(who.admin_key, others["another"])
    path = f"/tenant-models/{who.tenant_model_id}"
    platform.operate("PATCH", path, {"fallback_model_id": others["another"], "daily_token_limit": 10}, who.admin_key)
    assert [embed(platform, who, model=SMALL).headers["x-embedding-model"] for _ in range(2)] == [SMALL, LARGE]
    assert embed(platform, who, model=SMALL, fallback="space").error[:2] == (402, "quota_exceeded")
    assert embed(platform, who, model=SMALL, fallback="none").error[:2] == (402, "quota_exceeded")


def test_a_free_choice_goes_on_to_any_other_model(platform, others, who):
    platform.configure(who.admin_key, others["another"])
    add_limit(platform, who, "requests", "month", 1, "model")
    assert [embed(platform, who).headers["x-embedding-model"] for _ in range(2)] == [SMALL, LARGE]
    assert embed(platform, who, model="auto").headers["x-embedding-model"] == LARGE


# What a refusal says


def test_a_named_model_without_a_substitute_is_refused_with_all_there_is_to_know(platform, others, who, vendor):
    platform.configure(who.admin_key, others["another"])
    add_limit(platform, who, "tokens", "day", 10, "model")
    assert embed(platform, who, model=SMALL).status == 200
    vendor.reset()
    answer = embed(platform, who, model=SMALL)
    told = answer.json["error"]
    assert (answer.status, answer.headers["x-should-retry"], told["code"]) == (402, "false", "quota_exceeded")
    assert {name: told[name] for name in ("quota_type", "scope", "limit", "used", "reset_time")} == {
        "quota_type": "daily",
        "scope": "model",
        "limit": 10,
        "used": 8,
        "reset_time": midnight(),
    }
    assert told["suggested_models"] == [LARGE]
    assert vendor.calls == []


def test_a_budget_is_told_in_dollars(platform, who):
    add_limit(platform, who, "usd", "month", "0.0000002")
    assert embed(platform, who).status == 200
    told = embed(platform, who).json["error"]
    assert (told["code"], told["quota_type"], told["scope"]) == ("budget_exceeded", "monthly", "tenant")
    assert (Decimal(told["limit"]), Decimal(told["used"])) == (Decimal("0.0000002"), Decimal("0.00000016"))
    assert told["reset_time"].endswith("-01T00:00:00Z")


def test_a_rate_is_a_429_that_says_how_long_to_wait(platform, who):
    add_limit(platform, who, "requests", "minute", 1, "agent")
    assert embed(platform, who).status == 200
    answer = embed(platform, who)
    told = answer.json["error"]
    assert (answer.status, told["code"], told["scope"]) == (429, "rate_limit_exceeded", "agent")
    assert told["retry_after"] == int(answer.headers["retry-after"])
    assert 1 <= told["retry_after"] <= 61


def test_a_rate_of_all_models_lets_clients_try_again_although_there_are_several(platform, others, who):
    platform.configure(who.admin_key, others["same space"])
    add_limit(platform, who, "requests", "minute", 1)
    assert embed(platform, who, model=SMALL).status == 200
    answer = embed(platform, who, model=SMALL)
    assert (answer.status, len(answer.json["error"]["attempts"])) == (429, 2)
    assert "x-should-retry" not in answer.headers


def test_a_request_larger_than_a_rate_is_not_told_to_wait(platform, who):
    add_limit(platform, who, "tokens", "minute", 7)
    answer = embed(platform, who)
    assert (answer.status, answer.json["error"]["quota_type"]) == (402, "request")
    assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)


@pytest.mark.parametrize("measure", ["tokens", "requests", "usd"])
def test_a_limit_of_nothing_allows_nothing(platform, who, measure):
    add_limit(platform, who, measure, "month", 0)
    assert embed(platform, who).status == 402


@pytest.mark.parametrize("scope", ["agent", "key"])
def test_what_limits_an_agent_or_a_key_limits_nobody_else(platform, who, scope):
    add_limit(platform, who, "requests", "day", 1, scope)
    assert [embed(platform, who).status for _ in range(2)] == [200, 402]
    assert [platform.embed(who.admin_key, input=text()).status for _ in range(2)] == [200, 200]


# What the cache has


def test_hits_are_served_when_nothing_is_left_and_cost_nothing(platform, who):
    known = text()
    add_limit(platform, who, "tokens", "day", 8)
    assert embed(platform, who, input=known).status == 200
    hit = embed(platform, who, input=known)
    assert (hit.status, hit.headers["x-embedding-cached"], hit.json["usage"]["total_tokens"]) == (200, "1/1", 0)
    assert Decimal(hit.headers["x-embedding-cost-usd"]) == 0
    assert embed(platform, who, input=[known, text()]).status == 402
    check_books(platform, who)


def test_hits_at_a_price_are_charged_while_there_is_a_budget_and_free_without_one(platform, who):
    settings = {"settings": {"cache_hit_cost_per_million_tokens": "0.01"}}
    platform.operate("PATCH", f"/tenants/{who.tenant}", settings)
    add_limit(platform, who, "usd", "day", "0.00000025")  # 160 nano-dollars once, then 80 for a hit, then 10 are left
    known = text()
    costs = [embed(platform, who, input=known).headers["x-embedding-cost-usd"] for _ in range(4)]
    assert [int(Decimal(each).scaleb(9)) for each in costs] == [160, 80, 0, 0]
    check_books(platform, who)


# What is told of what is left


def test_the_headers_tell_what_is_left_of_the_tightest_limit(platform, who):
    for measure, period, amount in (("tokens", "day", 100), ("tokens", "month", 50), ("requests", "minute", 5)):
        add_limit(platform, who, measure, period, amount)
    told = [embed(platform, who).headers for _ in range(2)]
    assert [(h["x-ratelimit-limit-tokens"], h["x-ratelimit-remaining-tokens"]) for h in told] == [
        ("50", "42"),
        ("50", "34"),
    ]
    assert [(h["x-ratelimit-limit-requests"], h["x-ratelimit-remaining-requests"]) for h in told] == [
        ("5", "4"),
        ("5", "3"),
    ]
    assert told[0]["x-ratelimit-reset-requests"] == "61s"
    to_the_end = timedelta(seconds=int(told[0]["x-ratelimit-reset-tokens"].removesuffix("s")))
    assert (datetime.now(UTC) + to_the_end + timedelta(seconds=5)).day == 1


def test_an_estimate_tells_the_truth_and_holds_nothing(platform, others, who, vendor):
    platform.configure(who.admin_key, others["another"])
    known = text()
    for scope, measure, amount in (("tenant", "tokens", 100), ("model", "usd", "0.001"), ("key", "requests", 3)):
        add_limit(platform, who, measure, "day", amount, scope)
    assert embed(platform, who, input=known).status == 200
    vendor.reset()
    body = {"input": [known, text()], "dimensions": 8, "max_cost_usd": "0.0000005"}
    told = [platform.ask("POST", "/v1/embeddings/estimate", body, who.key).json for _ in range(3)][-1]
    assert (told["tokens"], Decimal(told["cost_usd"]), told["cached"]) == (8, Decimal("0.00000016"), 1)
    assert [each["model"] for each in told["candidates"]] == [SMALL, LARGE]
    limits = {each["kind"]: (each["limit"], each["used"], each["held"], each["remaining"]) for each in told["limits"]}
    assert limits["tokens_per_day"] == (100, 8, 0, 92)
    assert limits["requests_per_day"] == (3, 1, 0, 2)
    assert [Decimal(each) for each in limits["usd_per_day"]] == [
        Decimal(each) for each in ("0.001", "0.00000016", "0", "0.00099984")
    ]
    assert {each["resets_at"] for each in told["limits"]} == {midnight()}
    assert (vendor.calls, holds(platform, who.tenant)) == ([], 0)


def test_an_estimate_passes_over_who_has_no_room_and_names_the_price_of_hits(platform, others, who):
    platform.configure(who.admin_key, others["another"])
    settings = {"settings": {"cache_hit_cost_per_million_tokens": "1"}}
    platform.operate("PATCH", f"/tenants/{who.tenant}", settings)
    known = text()
    assert embed(platform, who, input=known, model=LARGE).status == 200
    add_limit(platform, who, "tokens", "day", 7, "model")
    body = {"input": [known, text()], "dimensions": 8}
    told = eventually(lambda: estimate_with_hits(platform, who, body))
    assert [each["model"] for each in told["candidates"]] == [LARGE]
    assert [(each["model"], each["provider"]) for each in told["dropped"]] == [(SMALL, "fake")]
    assert "quota" in told["dropped"][0]["reason"]
    answer = embed(platform, who, **body)
    assert answer.json["quiver"]["cost_usd"] == told["cost_usd"]


def test_an_estimate_says_of_a_rate_that_waiting_helps_if_it_does(platform, who):
    add_limit(platform, who, "requests", "minute", 1)
    assert embed(platform, who).status == 200
    (dropped,) = platform.ask("POST", "/v1/embeddings/estimate", {"input": text()}, who.key).json["dropped"]
    assert "wait 61 s" in dropped["reason"]


def test_an_estimate_tells_who_is_dropped_and_why(platform, others, who):
    platform.configure(who.admin_key, others["another"], is_enabled=False)
    body = {"input": text(), "dimensions": 8}
    told = platform.ask("POST", "/v1/embeddings/estimate", body, who.key).json
    assert [(each["model"], each["provider"]) for each in told["candidates"]] == [(SMALL, "fake")]
    assert [(each["model"], "disabled" in each["reason"]) for each in told["dropped"]] == [(LARGE, True)]


# Limits that refuse nobody


@pytest.mark.parametrize(("mode", "kind"), [("soft", "quota_exceeded"), ("shadow", "would_have_refused")])
def test_soft_and_shadow_limits_refuse_nobody_and_tell(platform, who, mode, kind):
    add_limit(platform, who, "tokens", "day", 10, mode=mode)
    assert [embed(platform, who).status for _ in range(3)] == [200] * 3
    platform.run_task("billing.tasks.check_limits")
    alerts = platform.operate("GET", "/alerts", key=who.admin_key)["results"]
    assert [(each["kind"], each["state"]) for each in alerts] == [(kind, "open")]
    check_books(platform, who, may_pass=True)


def test_a_model_over_quota_is_shown_so_and_comes_back_when_it_is_raised(platform, who):
    path, name = f"/tenant-models/{who.tenant_model_id}", {"model": SMALL}
    platform.operate("PATCH", path, {"daily_token_limit": 8}, who.admin_key)
    assert [embed(platform, who, **name).status for _ in range(2)] == [200, 402]
    platform.run_task("billing.tasks.check_limits")
    assert platform.operate("GET", path, key=who.admin_key)["state"] == "quota_exceeded"
    assert embed(platform, who, **name).status == 402
    platform.operate("PATCH", path, {"daily_token_limit": 16}, who.admin_key)
    eventually(lambda: platform.operate("GET", path, key=who.admin_key)["state"] == "enabled")
    assert eventually(lambda: embed(platform, who, **name).status == 200)
    assert embed(platform, who, **name).status == 402


def test_a_request_that_never_fits_says_nothing_of_the_model(platform, who):
    path, name = f"/tenant-models/{who.tenant_model_id}", {"model": SMALL}
    platform.operate("PATCH", path, {"daily_token_limit": 7}, who.admin_key)
    assert embed(platform, who, **name).status == 402
    platform.run_task("billing.tasks.check_limits")
    assert platform.operate("GET", path, key=who.admin_key)["state"] == "enabled"
    assert platform.operate("GET", "/alerts", key=who.admin_key)["results"] == []


def test_a_model_that_has_no_room_for_what_is_asked_is_over_quota_until_it_serves_again(platform, who):
    path, name = f"/tenant-models/{who.tenant_model_id}", {"model": SMALL}
    platform.operate("PATCH", path, {"daily_token_limit": 10}, who.admin_key)
    assert [embed(platform, who, **name).status for _ in range(2)] == [200, 402]
    platform.run_task("billing.tasks.check_limits")
    assert platform.operate("GET", path, key=who.admin_key)["state"] == "quota_exceeded"
    (alert,) = platform.operate("GET", "/alerts", key=who.admin_key)["results"]
    assert (alert["kind"], alert["state"]) == ("quota_exceeded", "open")
    assert alert["title"].startswith("8 tokens of 10 tokens per day used, too little left")
    assert embed(platform, who, input="small", **name).status == 200
    platform.run_task("billing.tasks.check_limits")
    assert platform.operate("GET", path, key=who.admin_key)["state"] == "enabled"
    check_books(platform, who)


# A provider that counts double


def test_what_a_provider_counts_beyond_the_hold_is_the_platforms(platform, who, vendor):
    add_limit(platform, who, "tokens", "day", 30)
    platform.add_provider("generous", vendor.base_url, vendor.key)
    model = platform.add_model("generous", "counted-double")
    platform.configure(who.admin_key, model)
    vendor.switch(fault="counts_double")
    answers = [embed(platform, who, model="counted-double") for _ in range(4)]
    vendor.reset()
    assert [each.status for each in answers] == [200, 200, 200, 402]
    assert [each.json["usage"]["total_tokens"] for each in answers[:3]] == [8, 8, 8]
    rows = platform.rows(
        "SELECT tokens, held_tokens, provider_tokens, (cost_usd * 1e9)::int FROM billing_usagerow "
        f"WHERE tenant_id = '{who.tenant}' AND status = 'ok'"
    )
    assert rows == [(8, 8, 16, 160)] * 3
    line = 'embedding_excess_tokens_total{model="counted-double",provider="generous"} 24.0'
    assert eventually(lambda: line in platform.ask("GET", "/metrics").body.decode())
    # As the task does, a quarter of an hour on: its first looks of a day are at the day before.
    later = "from datetime import timedelta; from core.clock import utc_now; from billing import excess"
    platform.run(f"{later}; excess.check(now=utc_now() + timedelta(minutes=15))")
    told = [each for each in platform.operate("GET", "/alerts")["results"] if each["kind"] == "provider_excess"]
    assert [(each["detail"]["model"], each["detail"]["excess_tokens"]) for each in told] == [("counted-double", 24)]
    check_books(platform, who)
