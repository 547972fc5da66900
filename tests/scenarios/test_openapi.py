"""The published OpenAPI tells the truth: whatever it allows to be sent, no answer is a defect or undocumented, nobody
is shown what is another tenant's, and nothing can be used once it is deleted.

Requests are made up by schemathesis from the document itself, the same ones each time, and sent to a running platform
by a tenant, by its neighbour and by the operator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from tests.isolation.policy_data_plane import OPERATIONAL
from tests.scenarios.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLES, FEW = 4, 3
CHECKS = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance]
# Of the operator's: what would reach for vendors' networks, or take the platform from under the other stories.
LEFT_OUT = {
    "POST /api/v1/embedding-models/discovery/runs",
    "POST /api/v1/embedding-models/catalog/{id}/validate",
    "POST /api/v1/embedding-models/providers/{slug}/test",
    "POST /api/v1/alert-channels/{id}/test",
}
# Whose rows are the platform's; all others are tenants', and each test below has one of each kind.
PLATFORMS = {
    "/api/v1/embedding-models/catalog/{id}",
    "/api/v1/embedding-models/discovery/runs/{id}",
    "/api/v1/embedding-models/providers/{slug}",
    "/api/v1/tenants/{id}",
    "/v1/models/{id}",
}
# What is never deleted: the ledger, the log of what was done, and what somebody was told.
LASTING = {"/api/v1/usage/records/{request_id}", "/api/v1/audit-events/{id}", "/api/v1/alerts/{id}"}
MARKER = "globexmarker"


@dataclass(frozen=True)
class World:
    """A platform with two tenants, each with a row of every kind; the second one's carry a marker."""

    platform: Platform
    schema: Any
    keys: dict[str, str]
    rows: dict[str, dict[str, str]]  # of a tenant: template of the address → the row's address


@pytest.fixture(scope="module")
def world(platform: Platform) -> World:
    keys, rows = {}, {}
    for slug, mark in (("schema-acme", "plain"), ("schema-globex", MARKER)):
        tenant, keys[slug] = platform.add_tenant(slug)
        rows[slug] = _fill(platform, tenant, keys[slug], mark)
    keys["operator"] = platform.operator_key
    schema = schemathesis.openapi.from_dict(platform.ask("GET", "/api/schema?format=json").json)
    schema.config.update(base_url=f"http://127.0.0.1:{platform.port}")
    return World(platform, schema, keys, rows)


def _fill(platform: Platform, tenant: str, key: str, mark: str) -> dict[str, str]:
    """A row of each kind that a tenant owns; its address by the template of such addresses."""

    def add(path: str, body: dict[str, Any], id: str = "id") -> str:
        return str(platform.operate("POST", path, body, key)[id])

    def newest(path: str) -> str:
        return str(platform.operate("GET", path, key=key)["results"][0]["id"])

    configured = platform.configure(key, platform.model_id)["id"]
    request_id = platform.embed(key, input=mark).json["quiver"]["request_id"]
    limit = {"scope": "agent", "scope_id": mark, "measure": "usd", "period": "day", "amount": "1"}
    budget = add("/limits", limit)
    agent = add("/agents", {"agent_id": f"agent-{mark}", "name": mark}, "agent_id")
    platform.run(
        "from uuid import UUID; from alerts.services import raise_alert; from tenants.members import add_member; "
        f"from tenants.services import add_user; own = {{'tenant_id': UUID('{tenant}')}}; "
        f"add_member(user=add_user(email='{mark}@example.com'), role='viewer', **own); "
        f"raise_alert(kind='quota_warning', subject='{mark}', title='{mark}', detail={{}}, **own)"
    )
    own = {"provider": "fake", "secret": {"api_key": "sk"}, "label": mark, "use": "last"}
    return {
        "/api/v1/alerts/{id}": newest("/alerts"),
        "/api/v1/members/{id}": newest("/members"),
        "/api/v1/invitations/{id}": add("/invitations", {"email": f"new-{mark}@example.com", "role": "viewer"}),
        "/api/v1/provider-credentials/{id}": add("/provider-credentials", own),
        "/api/v1/audit-events/{id}": newest("/audit-events"),
        "/api/v1/tenant-models/{id}": configured,
        "/api/v1/limits/{id}": budget,
        "/api/v1/budgets/{id}": budget,
        "/api/v1/agents/{agent_id}": agent,
        "/api/v1/api-keys/{id}": add("/api-keys", {"name": mark, "scopes": ["embeddings"]}),
        "/api/v1/alert-channels/{id}": add("/alert-channels", {"name": mark, "targets": [f"{mark}@example.com"]}),
        "/api/v1/usage/records/{request_id}": request_id,
    }


def operations(world: World) -> list[Any]:
    return [each for each in _all(world) if each.label not in LEFT_OUT]


def _all(world: World) -> list[Any]:
    return [each.ok() for each in world.schema.get_all_operations()]


def made_up(operation: Any, send: Callable[[Any], None], examples: int) -> None:
    """Sends so many made-up requests, the same ones each time."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def sent(case: Any) -> None:
        send(case)

    sent()


def asked(case: Any, key: str) -> Any:
    return case.call(headers={"Authorization": f"Bearer {key}"}, timeout=60)


def test_no_answer_is_a_defect_or_undocumented(world: World) -> None:
    wrong: dict[str, str] = {}

    def send(case: Any) -> None:
        answer = asked(case, world.keys["schema-acme"])
        assert MARKER not in answer.text, case.as_curl_command()
        check(case, answer)
        if answer.status_code == 403:  # the operator's: further in with that key
            check(case, asked(case, world.keys["operator"]))

    def check(case: Any, answer: Any) -> None:
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as failures:
            told = f"{case.as_curl_command()}\n{failures.exceptions}\n{answer.text[:500]}"
            wrong.setdefault(f"{case.operation.label} {answer.status_code}", told)

    for operation in operations(world):
        made_up(operation, send, EXAMPLES)
    assert wrong == {}, "\n\n".join(f"{label}: {text}" for label, text in wrong.items())


def test_rows_of_another_tenant_are_not_there(world: World) -> None:
    theirs = world.rows["schema-globex"]
    before = {path: _shown(world, path, row) for path, row in theirs.items()}

    def reach(case: Any, template: str) -> None:
        answer = asked(aimed(case, template, theirs), world.keys["schema-acme"])
        assert answer.status_code >= 400, case.as_curl_command()
        assert MARKER not in answer.text.replace(f"agent-{MARKER}", ""), answer.text

    for template, operation in operations_on(world, theirs):
        made_up(operation, partial(reach, template=template), FEW)
    assert {path: _shown(world, path, row) for path, row in theirs.items()} == before


def test_nothing_is_used_once_it_is_deleted(world: World) -> None:
    tenant, key = world.platform.add_tenant("schema-deleted")
    filled = _fill(world.platform, tenant, key, "gone")
    rows = {path: row for path, row in filled.items() if path not in LASTING}
    del rows["/api/v1/budgets/{id}"]  # goes with its limit
    for path, row in rows.items():
        assert world.platform.ask("DELETE", _address(path, row), key=key).status == 204, path
    del rows["/api/v1/api-keys/{id}"], rows["/api/v1/invitations/{id}"]  # shown as revoked

    def use(case: Any, template: str) -> None:
        answer = asked(aimed(case, template, rows), key)
        assert answer.status_code in (400, 404), (answer.status_code, case.as_curl_command())

    for template, operation in operations_on(world, rows):
        made_up(operation, partial(use, template=template), FEW)


def test_every_kind_of_row_that_a_tenant_owns_is_among_those(world: World) -> None:
    templates = {each.path[: each.path.index("}") + 1] for each in _all(world) if "}" in each.path}
    assert templates == world.rows["schema-globex"].keys() | PLATFORMS


def test_a_key_that_is_revoked_opens_nothing(world: World) -> None:
    tenant, _ = world.platform.add_tenant("schema-revoked")
    key = world.platform.mint(tenant, "admin")
    world.platform.operate("DELETE", f"/api-keys/{key['id']}")

    def knock(case: Any) -> None:
        answer = asked(case, key["key"])
        assert answer.status_code == 401, (answer.status_code, case.as_curl_command())

    for operation in [each for each in _all(world) if each.path not in OPERATIONAL]:
        made_up(operation, knock, 1)


def operations_on(world: World, rows: Mapping[str, str]) -> list[tuple[str, Any]]:
    """All operations on these rows, each with the template of the row's address; also what is left out elsewhere, for
    here nothing may come of it."""
    found = [(path, each) for each in _all(world) for path in rows if each.path.startswith(path)]
    assert {path for path, _ in found} == set(rows)
    return found


def aimed(case: Any, template: str, rows: Mapping[str, str]) -> Any:
    """The same request to this row."""
    (name,) = re.findall(r"\{(\w+)\}", template)
    case.path_parameters[name] = rows[template]
    return case


def _address(template: str, row: str) -> str:
    return re.sub(r"\{\w+\}", row, template)


def _shown(world: World, path: str, row: str) -> Any:
    answer = world.platform.ask("GET", _address(path, row), key=world.keys["schema-globex"])
    assert answer.status == 200, path
    return {name: value for name, value in answer.json.items() if name != "last_used_at"}
