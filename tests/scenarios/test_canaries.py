"""Secrets go through every door, and through what breaks behind them, and are found nowhere but where they belong.

Each canary is a secret of one kind. What is searched: every answer but the one that shows it once, every log with its
tracebacks, every row of every table, every command that Redis was ever sent (messages of tasks among them, opened),
every value it holds in the end, and the metrics.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from itertools import chain
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import redis

from config.seed import ADMIN_EMAIL
from tests.admin.pages import Page
from tests.canaries import Cage, logs_in, messages_in, rows_in, values_in, watch
from tests.fakes import bedrock, google
from tests.fakes.azure import FakeAzure
from tests.fakes.bedrock import ACCESS_KEY_ID, REGION, FakeBedrock
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeServer
from tests.fakes.smtp import FakeSmtp
from tests.fakes.vertex import FakeVertex
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PUBLIC = "http://quiver.example"
PROVIDERS, CATALOG = "/api/v1/embedding-models/providers", "/api/v1/embedding-models/catalog"
RUNS, KEYS = "/api/v1/embedding-models/discovery/runs", "/api/v1/api-keys"
LINK = r"/invitations/[\w.:~-]+"
Sold = dict[str, tuple[FakeServer, dict[str, Any], dict[str, Any]]]
# What a provider does wrong, in the words of `tests.fakes.server`; what it says repeats the key.
FAULTS: tuple[dict[str, Any], ...] = (
    *({"fault": "status", "status": status} for status in (400, 401, 403, 500)),
    {"fault": "reset"},
    {"fault": "invalid_json"},
    {"fault": "redirect"},
    {"fault": "hang"},
    {"fault": "status", "status": 429},  # the last: it is obeyed, and nothing is called for a while
)


def canary(kind: str) -> str:
    return f"canary{kind}{secrets.token_hex(12)}"


@dataclass
class Story:
    """Somebody at a platform, with everything that comes back written down."""

    platform: Platform
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def cage(self) -> Cage:
        return self.platform.cage

    def rest(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> Any:
        answer = self.platform.ask(method, path, body, key, **headers)
        found = json.loads(answer.body) if answer.body else {}
        shown = found.get("key", "") if isinstance(found, dict) else ""
        self.cage.hear(f"{method} {path}", f"{answer.headers} ".encode() + answer.body, shown=shown)
        return found

    def minted(self, name: str, path: str, body: Any, key: str) -> Any:
        """A key that an answer shows once; a bird from then on."""
        found = self.rest("POST", path, body, key)
        self.cage.lock_in({name: found["key"]})
        return found

    def page(self, method: str, path: str, form: dict[str, Any] | None = None, *, shown: str = "") -> tuple[int, str]:
        """One page, as a browser with cookies asks for it; redirects are followed."""
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        body = None if form is None else urlencode(form, doseq=True)
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self.platform.port, timeout=60)
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        raw, headers = answer.read(), answer.getheaders()
        connection.close()
        for name, value in headers:
            if name.lower() == "set-cookie":
                self.cookies |= {each: morsel.value for each, morsel in SimpleCookie(value).items()}
        told = [(name, value) for name, value in headers if name.lower() != "set-cookie"]
        self.cage.hear(f"{method} {path.partition('?')[0]}", f"{told} ".encode() + raw, shown=shown)
        if answer.status in (301, 302, 303):
            return self.page("GET", urlsplit(answer.headers["Location"]).path, shown=shown)
        return answer.status, raw.decode()

    def fill(self, path: str, *, shown: str = "", **changes: Any) -> str:
        """Opens a form, fills it in and sends it."""
        status, text = self.page("GET", path, shown=shown)
        assert status == 200, text
        fields = Page(path, text).fields | changes
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', text)
        assert token, text
        return self.page("POST", path, fields | {"csrfmiddlewaretoken": token[1]}, shown=shown)[1]

    def sign_in(self, email: str, password: str, *, shown: str = "") -> str:
        self.cookies.clear()
        return self.fill("/admin/login/", shown=shown, username=email, password=password)


def vendors() -> Sold:
    """For each kind a server, how it is added as a provider, and a model of it."""
    small = {"model_identifier": "text-embedding-3-small", "dimensions": 1536, "tokenizer": "cl100k_base"}
    keys = {kind: canary(kind) for kind in ("openai", "compatible", "azure", "google", "bedrock")}
    cohere = {"model_identifier": bedrock.COHERE_V3, "dimensions": 1024, "max_tokens": 512, "capabilities": []}
    gemini = {"model_identifier": google.GEMINI_1, "dimensions": 3072, "max_tokens": 2048}
    own = {"aws_access_key_id": ACCESS_KEY_ID, "aws_secret_access_key": keys["bedrock"]}
    return {
        "our-openai": (
            FakeOpenAI(switches=FakeOpenAI.make_switches(key=keys["openai"])),
            {"kind": "openai", "secret": {"api_key": keys["openai"]}},
            small,
        ),
        "our-compatible": (
            FakeOpenAI(switches=FakeOpenAI.make_switches(key=keys["compatible"])),
            {"kind": "openai_compatible", "secret": {"api_key": keys["compatible"]}},
            small,
        ),
        "our-azure": (
            FakeAzure(switches=FakeAzure.make_switches(key=keys["azure"])),
            {"kind": "azure", "api_version": "2024-10-21", "secret": {"api_key": keys["azure"]}},
            small,
        ),
        "our-google": (
            FakeGoogle(switches=FakeGoogle.make_switches(key=keys["google"])),
            {"kind": "google", "secret": {"api_key": keys["google"]}},
            gemini | {"tokenizer": "bytes"},
        ),
        "our-bedrock": (
            FakeBedrock(switches=FakeBedrock.make_switches(key=keys["bedrock"])),
            {"kind": "bedrock", "region": REGION, "secret": own},
            cohere | {"tokenizer": "bytes"},
        ),
    }


def secret_of(words: dict[str, Any]) -> str:
    """The part of a provider's credential that nobody may know."""
    found: str = words["secret"].get("api_key") or words["secret"]["aws_secret_access_key"]
    return found


def of_providers(story: Story, sold: Sold) -> None:
    """Each kind of provider is added, also in wrong ways, and its models are looked for while it fails."""
    key = story.platform.operator_key
    for slug, (fake, words, model) in sold.items():
        secret = secret_of(words)
        story.cage.lock_in({f"{slug} key": secret})
        said = {"slug": slug, "base_url": fake.base_url, "batch_window_ms": 0, **words}
        for wrong in (
            said | {"secret": secret},
            said | {"secret": {"api_key": f"{secret} and more"}},
            said | {"secret": {"token": secret}},
            said | {"api_key": secret},
            json.dumps(said)[:-1].encode(),
        ):
            assert story.rest("POST", PROVIDERS, wrong, key)["status"] == 400
        assert story.rest("POST", PROVIDERS, said, key)["slug"] == slug
        facts = {"provider": slug, "model_name": f"model-{slug}", "cost_per_million_tokens": "0.02", "activate": True}
        added = story.rest("POST", CATALOG, {**facts, **model}, key)
        assert added.get("state") == "available", added
        story.rest("POST", f"{PROVIDERS}/{slug}/breaker", {"state": "closed"}, key)
        fake.switch(fault="status", status=401, body=sung(secret))
        story.rest("POST", RUNS, {"provider": slug}, key)
    account = FakeVertex(port=1).service_account
    story.cage.lock_in({"service account": json.loads(account)["private_key"].splitlines()[3]})
    vertex = {"slug": "our-vertex", "kind": "vertex", "region": "us-central1", "secret": {"service_account": account}}
    story.rest("POST", PROVIDERS, vertex, key)
    looks = "SELECT count(*) FILTER (WHERE ended_at IS NULL), count(*) FILTER (WHERE state = 'failed') FROM {}"
    eventually(lambda: story.platform.rows(looks.format("catalog_discoveryrun"))[0][0] == 0, 60)
    assert story.platform.rows(looks.format("catalog_discoveryrun"))[0][1] >= len(sold) - 2


def of_keys(story: Story, sold: Sold) -> None:
    """A tenant's keys are minted, rotated, mistyped and revoked, and its texts meet all faults of all providers."""
    operator = story.platform.operator_key
    tenant = story.rest("POST", "/api/v1/tenants", {"name": "Acme", "slug": "acme"}, operator)["id"]
    minted = story.minted("tenant's key", KEYS, {"name": "all", "scopes": ["admin"], "tenant": tenant}, operator)
    own = minted["key"]
    for row in story.rest("GET", f"{CATALOG}?limit=100", key=operator)["models"]:
        if row["model_name"].startswith("model-"):
            story.rest("POST", "/api/v1/tenant-models", {"model_id": row["id"]}, own)
    search = story.minted("search's key", KEYS, {"name": "search", "scopes": ["embeddings"]}, own)
    statuses = set()
    for slug, (fake, words, _) in sold.items():
        fake.switch(fault="", body="")
        right = story.rest("POST", "/v1/embeddings", {"model": f"model-{slug}", "input": "text"}, search["key"])
        assert right["quiver"]["provider"] == slug, right
        for number, fault in enumerate(FAULTS):
            fake.switch(**fault, body=sung(secret_of(words)))
            asked = {"model": f"model-{slug}", "input": f"text {number}", "fallback": "none"}
            answer = story.rest("POST", "/v1/embeddings", asked, search["key"], **{"X-Request-Timeout-Ms": "1500"})
            statuses.add(answer["error"]["code"])
    assert {"provider_error", "provider_timeout"} <= statuses
    second = story.minted("rotated key", f"{KEYS}/{search['id']}/rotate", {"overlap_seconds": 0}, own)
    story.rest("DELETE", f"{KEYS}/{second['id']}", key=own)
    for text in (search["key"], second["key"], own[:-1], f"{own}x"):
        assert story.rest("GET", "/v1/models", key=text)["error"]["code"] == "invalid_api_key"
        assert story.rest("GET", "/api/v1/limits", key=text)["code"] == "invalid_api_key"
    story.rest("GET", f"/api/v1/limits?api_key={own}", key=own)
    story.rest("GET", f"/v1/models?key={own}")
    story.rest("POST", KEYS, {"name": "x", "scopes": ["embeddings"], "secret": own}, own)
    story.cage.lock_in({"mistyped key": own[:-1]})


def of_people(story: Story, smtp: FakeSmtp) -> None:
    """A forgotten password is set anew, somebody is invited and comes in, passwords are typed in wrong places."""
    birds, password = story.cage.birds, canary("password")
    story.fill("/admin/password_reset/", email=ADMIN_EMAIL)
    link = mailed(smtp, ADMIN_EMAIL, "/admin/reset/")
    story.cage.lock_in({"operator's password": password, "reset token": link.rstrip("/").rpartition("/")[2]})
    story.page("GET", link)
    story.fill(link.replace(birds["reset token"], "set-password"), new_password1=password, new_password2=password)
    story.cage.lock_in({"wrong password": canary("wrong"), "password as address": canary("address")})
    assert "correct" in story.sign_in(ADMIN_EMAIL, birds["wrong password"])
    # The form gives back to whoever typed it what was typed as an address.
    story.sign_in(birds["password as address"], birds["wrong password"], shown=birds["password as address"])
    assert "Dashboard" in story.sign_in(ADMIN_EMAIL, password)
    story.cage.lock_in({"operator's session": story.cookies["sessionid"]})
    ((tenant,),) = story.platform.rows("SELECT id FROM tenants_tenant WHERE slug = 'acme'")
    ((provider,),) = story.platform.rows("SELECT id FROM catalog_provider WHERE slug = 'our-openai'")
    story.fill(f"/admin/catalog/provider/{provider}/test_connection/")
    smtp.refuse = True
    invite = f"/admin/tenants/invitation/add/?tenant={tenant}"
    story.fill(invite, shown=LINK, email="late@acme.test", role="viewer")
    worker_log = story.platform.home / "worker.log"
    eventually(lambda: b"send_invitation" in worker_log.read_bytes() and b"Retry" in worker_log.read_bytes(), 30)
    smtp.refuse = False
    story.fill(invite, shown=LINK, email="new@acme.test", role="owner")
    link = mailed(smtp, "new@acme.test", "/invitations/")
    story.cage.lock_in({"invitation token": link.rpartition("/")[2], "invited's password": canary("invited")})
    story.cookies.clear()
    entered = story.fill(link, way="sign_up", name="New", new_password=birds["invited's password"])
    assert "You belong to Acme now" in entered
    story.cage.lock_in({"invited's session": story.cookies["sessionid"], "changed password": canary("changed")})
    again = {"new_password1": birds["changed password"], "new_password2": birds["changed password"]}
    story.fill("/admin/password_change/", old_password=birds["invited's password"], **again)
    story.page("POST", "/admin/logout/", {})


def of_defects(story: Story) -> None:
    """What the database refuses ends in tracebacks."""
    platform, birds = story.platform, story.cage.birds
    story.cage.lock_in({"key of a defect": canary("defect"), "password of a defect": canary("defect")})
    said = {"slug": "late", "kind": "openai", "secret": {"api_key": birds["key of a defect"]}}
    with gone(platform, "catalog_providercredential"):
        assert story.rest("POST", PROVIDERS, said, platform.operator_key)["status"] == 500
    with gone(platform, "tenants_apikey"):
        assert story.rest("GET", "/api/v1/tenants", key=platform.operator_key)["status"] == 500
    story.cookies.clear()
    _, page = story.page("GET", "/admin/login/")
    form = Page("/admin/login/", page).fields | {"username": ADMIN_EMAIL, "password": birds["password of a defect"]}
    with gone(platform, "tenants_user"):
        assert story.page("POST", "/admin/login/", form)[0] == 500


@contextmanager
def gone(platform: Platform, table: str) -> Iterator[None]:
    platform.execute(f"ALTER TABLE {table} RENAME TO {table}_gone")
    yield
    platform.execute(f"ALTER TABLE {table}_gone RENAME TO {table}")


def sung(secret: str) -> str:
    return json.dumps({"error": {"message": f"we do not know {secret}"}})


def mailed(smtp: FakeSmtp, email: str, way: str) -> str:
    """The path of the link that begins with `way`, of the newest mail that has one: others tell of alerts."""

    def links() -> list[str]:
        bodies = [each.get_body(("plain",)) for each in smtp.mails if each["To"] == email]
        return [link for body in bodies if body for link in re.findall(rf"{PUBLIC}({way}\S+)", body.get_content())]

    return eventually(links, 60)[-1]


def test_secrets_are_found_nowhere_but_where_they_belong(tmp_path: Any) -> None:
    stop = threading.Event()
    settings = {
        "DJANGO_SECRET_KEY": canary("django") * 2,
        "QUIVER_ENCRYPTION_KEYS": f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "QUIVER_PUBLIC_URL": PUBLIC,
        "QUIVER_MAIL_FROM": "quiver@example.com",
        "QUIVER_LOG_LEVEL": "DEBUG",
    }
    sold = vendors()
    with FakeSmtp() as smtp:
        settings["QUIVER_SMTP_URL"] = f"smtp://127.0.0.1:{smtp.port}"
        for fake, _, _ in sold.values():
            fake.__enter__()
        try:
            with Platform(tmp_path / "home", settings=settings) as platform:  # which is looked through as it ends
                platform.start_worker()
                thread = watch(platform.environment["REDIS_URL"], platform.cage, stop)
                story = Story(platform)
                of_providers(story, sold)
                of_keys(story, sold)
                of_people(story, smtp)
                of_defects(story)
                places = [place for place, _ in chain(rows_in(platform.database_url), values_in(platform.redis_urls))]
                stop.set()
                thread.join(30)
        finally:
            for fake, _, _ in sold.values():
                fake.__exit__(None, None, None)

    cage = platform.cage
    messages = [message for _, command in cage.heard for message in messages_in(command)]
    for where, message in messages:
        cage.hear(where, message)
    cage.look_again()
    assert {"Redis", "table tenants_apikey", "table catalog_providercredential"} <= set(places)
    assert messages
    assert any(name.startswith("log web-") and b"Traceback" in what for name, what in logs_in(platform.home))
    assert {"log worker.log", "log postgres.log"} <= {name for name, _ in logs_in(platform.home)}
    assert len(cage.birds) >= 12
    cage.must_be_closed()


def test_one_that_gets_out_is_found(platform: Platform) -> None:
    """In clear or in what anybody turns back: in a row, a log, Redis, a task's message and an answer."""
    bird = canary("planted")
    looked_through = copy(platform)
    looked_through.cage = Cage()
    looked_through.cage.lock_in({"planted": bird})
    tenant, _ = platform.add_tenant("planted")
    message = json.dumps({"body": base64.b64encode(bird.encode()).decode()})
    log = platform.home / "planted.log"
    caches, broker = map(redis.from_url, platform.redis_urls)

    platform.execute(f"UPDATE tenants_tenant SET name = '{bird}' WHERE id = '{tenant}'")
    caches.set("planted", bird.encode().hex())
    broker.lpush("planted", message)
    log.write_text(f"it was {base64.b64encode(bird.encode() + b':').decode()}")
    looked_through.operate("GET", f"/tenants/{tenant}")
    looked_through.look_into_stores()
    looked_through.look_into_logs()
    platform.execute(f"UPDATE tenants_tenant SET name = 'planted' WHERE id = '{tenant}'")
    caches.delete("planted")
    broker.delete("planted")
    log.unlink()

    places = {"table tenants_tenant", "Redis", "a task's message", "log planted.log", f"GET /api/v1/tenants/{tenant}"}
    assert looked_through.cage.escaped == {("planted", place) for place in places}
    with pytest.raises(AssertionError, match="planted"):
        looked_through.cage.must_be_closed()


def test_what_a_story_sends_and_is_shown_is_caged() -> None:
    """A key is shown once, by the POST that made it; again it is found."""
    cage = Cage()
    made = {"name": "k", "key": "qv_live_0123456789_secret_ok"}

    cage.overhear("POST", "/providers", {"secret": {"api_key": "sk-0123456789"}}, b'{"slug": "ours"}')
    cage.overhear("POST", "/api-keys", {"name": "k"}, json.dumps(made).encode())
    assert cage.escaped == set()
    cage.overhear("GET", "/api-keys", None, json.dumps([made]).encode())
    cage.overhear("POST", "/providers", b"{", b"sk-0123456789 is refused")

    assert {where for _, where in cage.escaped} == {"GET /api-keys", "POST /providers"}
