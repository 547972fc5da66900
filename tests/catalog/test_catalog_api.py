"""`/api/v1/embedding-models/catalog`, as operators and tenants use it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog import listing_cache
from catalog.models import EmbeddingModel, Price
from tests.conftest import Party

CATALOG = "/api/v1/embedding-models/catalog"


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> None:
    """Rows of tests are never committed, so that no test drops what an earlier one left in Redis."""
    listing_cache.drop()


NOBODY = "00000000-0000-4000-8000-000000000000"
SMALL = {
    "provider": "vendor",
    "model_name": "small-2",
    "model_identifier": "vendor-small-2",
    "dimensions": 8,
}


@pytest.fixture
def vendor(add_model: Callable[..., Any]) -> Any:
    """The provider `vendor` with one model, `small`."""
    return add_model()


def test_a_new_row_is_a_draft_in_a_space_of_its_own(operator: Any, vendor: Any) -> None:
    answer = operator.post(CATALOG, SMALL | {"cost_per_million_tokens": "0.02"})
    assert answer.status_code == 201, answer.json()
    row = answer.json()
    assert (row["state"], row["space"]) == ("draft", "vendor/vendor-small-2")
    assert row["cost_per_million_tokens"] == "0.02"
    assert operator.get(f"{CATALOG}/{row['id']}").json() == row


def test_model_id_is_taken_for_the_identifier(operator: Any, vendor: Any) -> None:
    body = {name: value for name, value in SMALL.items() if name != "model_identifier"} | {"model_id": "v2"}
    assert operator.post(CATALOG, body).json()["model_identifier"] == "v2"


def test_two_identifiers_that_differ_are_refused(operator: Any, vendor: Any) -> None:
    answer = operator.post(CATALOG, SMALL | {"model_id": "another"})
    assert answer.status_code == 400
    assert "model_id" in answer.json()["errors"]


def test_a_name_is_taken_once_per_provider(operator: Any, vendor: Any) -> None:
    answer = operator.post(CATALOG, SMALL | {"model_name": "small"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"provider": "nobody"}, "provider"),
        ({"model_name": "with a space"}, "model_name"),
        ({"model_identifier": ""}, "model_identifier"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "wide"}, "dimensions"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"tokenizer": "words"}, "tokenizer"),
        ({"capabilities": ["flying"]}, "capabilities[0]"),
        ({"allowed_dimensions": [4], "capabilities": []}, "allowed_dimensions"),
        ({"allowed_dimensions": [16], "capabilities": ["matryoshka"]}, "allowed_dimensions"),
        ({"allowed_dimensions": ["four"]}, "allowed_dimensions[0]"),
        ({"minimum_tier": "gold"}, "minimum_tier"),
        ({"quality_score": "101"}, "quality_score"),
        ({"cost_per_million_tokens": "-1"}, "cost_per_million_tokens"),
        ({"cost_per_million_tokens": "10.01"}, "cost_per_million_tokens"),
        ({"cost_per_million_tokens": "NaN"}, "cost_per_million_tokens"),
        ({"space": "no space here"}, "space"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], field: str, operator: Any, vendor: Any) -> None:
    answer = operator.post(CATALOG, SMALL | change)
    problem = answer.json()
    assert answer.status_code == 400, problem
    assert answer["Content-Type"] == "application/problem+json"
    assert list(problem["errors"]) == [field]
    assert problem["request_id"] == answer["X-Request-Id"]


def test_an_unknown_field_has_a_code_of_its_own(operator: Any, vendor: Any) -> None:
    assert operator.post(CATALOG, SMALL | {"colour": "red"}).json()["code"] == "unknown_field"


def test_widths_need_no_capabilities_to_be_said(operator: Any, vendor: Any) -> None:
    assert operator.post(CATALOG, SMALL | {"allowed_dimensions": [4]}).json()["capabilities"] == ["dimensions"]


def test_put_takes_back_what_get_gave(operator: Any, vendor: Any) -> None:
    url = f"{CATALOG}/{vendor.id}"
    row = operator.get(url).json()
    answer = operator.put(url, row | {"max_tokens": 100})
    assert answer.status_code == 200, answer.json()
    assert answer.json() == row | {"max_tokens": 100, "updated_at": answer.json()["updated_at"]}


@pytest.mark.parametrize(
    ("field", "value"),
    [("state", "removed"), ("id", NOBODY), ("cost_per_million_tokens", "9"), ("provider", "openai")],
)
def test_read_only_fields_do_not_change(field: str, value: str, operator: Any, vendor: Any) -> None:
    answer = operator.patch(f"{CATALOG}/{vendor.id}", {field: value})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])


def test_a_price_sent_back_in_other_digits_is_unchanged(operator: Any, vendor: Any) -> None:
    assert operator.patch(f"{CATALOG}/{vendor.id}", {"cost_per_million_tokens": "0.0200"}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_name", "other"), ("model_identifier", "other"), ("dimensions", 16), ("space", "other")],
)
def test_what_vectors_rely_on_is_fixed_once_released(field: str, value: Any, operator: Any, vendor: Any) -> None:
    answer = operator.patch(f"{CATALOG}/{vendor.id}", {field: value})
    assert (answer.status_code, list(answer.json()["errors"])) == (409, [field])
    draft = operator.post(CATALOG, SMALL).json()
    assert operator.patch(f"{CATALOG}/{draft['id']}", {field: value}).json()[field] == value


def test_a_move_names_the_legal_ones(operator: Any, vendor: Any) -> None:
    url = f"{CATALOG}/{vendor.id}/transition"
    answer = operator.post(url, {"to": "removed", "reason": "away"})
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition")
    assert answer.json()["legal"] == ["unavailable", "deprecated"]
    other = operator.post(CATALOG, SMALL).json()["id"]
    gone = operator.post(
        url, {"to": "deprecated", "reason": "old", "sunset_at": "2099-01-01T00:00:00Z", "successor": other}
    ).json()
    assert (gone["state"], gone["sunset_at"], gone["successor"]) == ("deprecated", "2099-01-01T00:00:00Z", other)
    assert gone["deprecated_at"].endswith("Z")


@pytest.mark.parametrize(
    "body",
    [
        {"to": "flying"},
        {"reason": "no aim"},
        {"to": "unavailable"},
        {"to": "unavailable", "reason": ""},
        {"to": "unavailable", "reason": "x", "sunset_at": "2099-01-01T00:00:00Z"},
        {"to": "deprecated", "reason": "x", "successor": NOBODY},
    ],
)
def test_a_move_that_makes_no_sense_is_400(body: dict[str, str], operator: Any, vendor: Any) -> None:
    assert operator.post(f"{CATALOG}/{vendor.id}/transition", body).status_code == 400


def test_a_draft_is_erased_and_a_released_row_retires(operator: Any, vendor: Any) -> None:
    draft = operator.post(CATALOG, SMALL).json()["id"]
    assert operator.delete(f"{CATALOG}/{draft}").status_code == 204
    assert operator.get(f"{CATALOG}/{draft}").status_code == 404
    assert operator.delete(f"{CATALOG}/{vendor.id}").status_code == 204
    assert operator.get(f"{CATALOG}/{vendor.id}").json()["state"] == "removed"


def test_a_configured_row_stays(operator: Any, vendor: Any, acme: Party) -> None:
    acme.api.post("/api/v1/tenant-models", {"model_id": str(vendor.id)})
    answer = operator.delete(f"{CATALOG}/{vendor.id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "in_use")
    assert operator.get(f"{CATALOG}/{vendor.id}").json()["state"] == "available"


def test_a_new_price_counts_from_its_moment(operator: Any, vendor: Any) -> None:
    url = f"{CATALOG}/{vendor.id}"
    later = {"cost_per_million_tokens": "0.05", "source": "letter", "effective_from": "2099-01-01T00:00:00Z"}
    assert operator.post(f"{url}/prices", later).status_code == 201
    assert operator.get(url).json()["cost_per_million_tokens"] == "0.02"
    assert operator.post(f"{url}/prices", {"cost_per_million_tokens": "0", "source": "gift"}).status_code == 201
    assert operator.get(url).json()["cost_per_million_tokens"] == "0"
    listed = operator.get(f"{url}/prices").json()
    assert [each["cost_per_million_tokens"] for each in listed["results"]] == ["0.05", "0", "0.02"]
    assert (listed["next"], listed["previous"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"cost_per_million_tokens": "10.01"}, "invalid_request", "cost_per_million_tokens"),
        ({"cost_per_million_tokens": "-0.1"}, "invalid_request", "cost_per_million_tokens"),
        ({"cost_per_million_tokens": "0.0000000001"}, "invalid_request", "cost_per_million_tokens"),
        ({"effective_from": "2020-01-01T00:00:00Z"}, "invalid_request", "effective_from"),
        ({"effective_from": "2020-01-01T00:00:00Z", "correction": True}, "invalid_request", "reason"),
        ({"effective_from": "2020-01-01T00:00:00Z", "correction": True, "reason": " "}, "invalid_request", "reason"),
        ({"effective_from": "2099-01-01T00:00:00Z", "correction": True}, "invalid_request", "effective_from"),
        ({"correction": True, "reason": "misread"}, "invalid_request", "correction"),
        ({"source": ""}, "invalid_request", "source"),
    ],
)
def test_a_price_that_cannot_be_meant_is_refused(
    change: dict[str, Any], code: str, field: str, operator: Any, vendor: Any
) -> None:
    body = {"cost_per_million_tokens": "0.05", "source": "letter"} | change
    answer = operator.post(f"{CATALOG}/{vendor.id}/prices", body)
    assert (answer.status_code, answer.json()["code"], list(answer.json()["errors"])) == (400, code, [field])


def test_a_high_price_is_taken_when_confirmed(operator: Any, vendor: Any) -> None:
    body = {"cost_per_million_tokens": "100", "source": "letter", "confirm": True}
    assert operator.post(f"{CATALOG}/{vendor.id}/prices", body).json()["cost_per_million_tokens"] == "100"


def test_the_list_filters_and_pages(operator: Any, add_model: Callable[..., Any]) -> None:
    for index in range(5):
        add_model(f"m{index}")
    add_model("sketch", state="draft")
    add_model("elsewhere", provider="other")

    def names(query: str) -> list[str]:
        return [each["model_name"] for each in operator.get(f"{CATALOG}?{query}").json()["models"]]

    assert names("") == ["elsewhere", "m0", "m1", "m2", "m3", "m4"]
    assert names("available_only=false&q=KETCH") == ["sketch"]
    assert names("state=draft") == ["sketch"]
    assert names("provider=other") == ["elsewhere"]
    assert names("type=image") == []
    assert names("limit=2&page=2") == ["m1", "m2"]
    pagination = operator.get(f"{CATALOG}?limit=4&page=2").json()["pagination"]
    assert pagination == {"page": 2, "limit": 4, "total": 6, "pages": 2}


@pytest.mark.parametrize(
    "query", ["limit=101", "limit=0", "page=0", "page=x", "state=lost", "available_only=maybe", "colour=red"]
)
def test_a_query_that_cannot_be_meant_is_400(query: str, operator: Any) -> None:
    answer = operator.get(f"{CATALOG}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


def test_a_list_of_2000_is_one_query_and_a_count_and_nothing_while_it_is_kept(
    operator: Any, vendor: Any, committed: Any
) -> None:
    rows = [
        EmbeddingModel(
            provider=vendor.provider,
            space=vendor.space,
            name=f"m{n:04}",
            identifier="m",
            dimensions=8,
            state="available",
        )
        for n in range(2000)
    ]
    EmbeddingModel.objects.bulk_create(rows)
    Price.objects.bulk_create(
        [Price(model=row, cost_per_million_tokens=1, effective_from=row.created_at, source="x") for row in rows]
    )
    listing_cache.drop()

    def cost(page: int) -> int:
        with CaptureQueriesContext(connection) as queries:
            answer = operator.get(f"{CATALOG}?q=m&provider=vendor&limit=100&page={page}")
        assert (len(answer.json()["models"]), answer.json()["pagination"]["pages"]) == (100, 21)
        assert answer.json()["models"][0]["cost_per_million_tokens"] == "1"
        return sum("catalog_embeddingmodel" in each["sql"] for each in queries)

    assert [cost(page) for page in (3, 3, 4)] == [2, 0, 2]
    with committed():
        operator.patch(f"{CATALOG}/{vendor.id}", {"max_tokens": 7})
    assert cost(3) == 2


def test_a_change_is_seen_at_once_in_a_list_that_was_kept(operator: Any, vendor: Any, committed: Any) -> None:
    assert operator.get(CATALOG).json()["models"][0]["max_tokens"] == 8192
    with committed():
        operator.patch(f"{CATALOG}/{vendor.id}", {"max_tokens": 7})
    assert operator.get(CATALOG).json()["models"][0]["max_tokens"] == 7


def test_tenants_read_and_nothing_else(vendor: Any, mallory: Party, mint: Any, as_key: Any) -> None:
    reader = as_key(mint(mallory.id, "models:read"))
    assert reader.get(f"{CATALOG}/{vendor.id}").status_code == 200
    for api in (reader, mallory.api):
        assert api.post(CATALOG, SMALL).json()["code"] == "key_not_permitted"
        assert api.patch(f"{CATALOG}/{vendor.id}", {"max_tokens": 1}).status_code == 403
        assert api.delete(f"{CATALOG}/{vendor.id}").status_code == 403
        assert api.post(f"{CATALOG}/{vendor.id}/transition", {"to": "unavailable"}).status_code == 403
        price = {"cost_per_million_tokens": "0", "source": "me"}
        assert api.post(f"{CATALOG}/{vendor.id}/prices", price).status_code == 403
    assert as_key(mint(mallory.id, "embeddings")).get(CATALOG).status_code == 403


@pytest.mark.parametrize("state", ["draft", "testing", "removed"])
def test_tenants_see_nothing_of_what_is_not_released_or_is_removed(
    state: str, operator: Any, acme: Party, vendor: Any, add_model: Any
) -> None:
    hidden = add_model("hidden", state="draft")
    EmbeddingModel.objects.filter(id=hidden.id).update(state=state)
    for api, found in ((operator, ["hidden", "small"]), (acme.api, ["small"])):
        assert [each["model_name"] for each in api.get(f"{CATALOG}?available_only=false").json()["models"]] == found
        assert api.get(f"{CATALOG}?state={state}").json()["pagination"]["total"] == len(found) - 1
        statuses = [api.get(f"{CATALOG}/{hidden.id}{path}").status_code for path in ("", "/prices")]
        assert statuses == ([200, 200] if api is operator else [404, 404])


def test_tenants_see_what_a_price_is_and_not_why(operator: Any, acme: Party, vendor: Any) -> None:
    url = f"{CATALOG}/{vendor.id}/prices"
    told = [api.get(url).json()["results"][0] for api in (operator, acme.api)]
    assert set(told[0]) - set(told[1]) == {"source", "reason"}
    assert told[1]["cost_per_million_tokens"] == "0.02"


def test_a_change_is_published_after_its_commit(operator: Any, vendor: Any, changes: Any, committed: Any) -> None:
    from catalog.loading import catalog_version
    from core.changes import Change

    before = catalog_version()
    with committed():
        operator.patch(f"{CATALOG}/{vendor.id}", {"max_tokens": 5})
    assert changes() == [Change()]
    assert catalog_version() == before + 1


@pytest.mark.slow
def test_redis_gone_does_not_stop_a_change(
    operator: Any, vendor: Any, committed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    gone = redis.Redis(port=1)
    monkeypatch.setattr("catalog.publishing.get_redis_connection", lambda alias: gone)
    with committed():
        assert operator.patch(f"{CATALOG}/{vendor.id}", {"max_tokens": 5}).status_code == 200
    assert "workers will find it by polling" in caplog.text


def test_what_the_data_plane_reads_is_what_was_said(operator: Any, vendor: Any) -> None:
    from catalog.loading import load_catalog
    from core.clock import utc_now
    from core.money import nano_from_usd

    deployment = load_catalog().deployments[vendor.id]
    assert deployment.price_at(utc_now()) == nano_from_usd(Decimal("0.02"))
    assert [endpoint.secret for endpoint in deployment.endpoints] == [{"api_key": "sk-of-the-tests"}]


@pytest.mark.django_db
def test_an_empty_catalogue_is_never_taken_for_the_newest() -> None:
    """Its first models may be committed while it is read."""
    from catalog.loading import catalog_version, load_catalog
    from catalog.models import CatalogVersion

    CatalogVersion.objects.update_or_create(id=1, defaults={"version": 5})
    assert (catalog_version(), load_catalog().version) == (5, 0)
