"""Webhooks: signed, tried again, told; and nobody is led into our own network by one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from alerts import delivering, signing, webhooks
from alerts.models import AlertChannel, Delivery
from alerts.services import add_channel, raise_alert
from core import egress
from core.clock import utc_now
from core.egress import NOTHING, Allowed, EgressRefused
from tests.conftest import Party
from tests.fakes.hostile import ADDRESSES, Listener, LyingResolver

PATH = "/api/v1/alert-channels"
HERE = Allowed.of(["hooks.example.com"])


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Somebody inside, at a port that would be fine: what keeps us away is the address alone."""
    with Listener() as inside:
        monkeypatch.setattr(egress, "TLS_PORTS", egress.TLS_PORTS | {inside.port})
        yield inside
        assert inside.connections == 0


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> LyingResolver:
    lying = LyingResolver()
    monkeypatch.setattr(socket, "getaddrinfo", lying)
    return lying


class Hook:
    """A tenant's server on loopback, which the operator allowed by its name."""

    def __init__(self) -> None:
        self.status, self.headers = 204, {}
        self.got: list[tuple[str, dict[str, str], bytes]] = []

    def __enter__(self) -> Hook:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version: ClassVar[str] = "HTTP/1.1"  # type: ignore[misc]

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((self.path, {n.lower(): v for n, v in self.headers.items()}, body))
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://hooks.example.com:{self._server.server_port}/quiver?a=b"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook(settings: Any, resolver: LyingResolver) -> Iterator[Hook]:
    settings.QUIVER = settings.QUIVER.model_copy(update={"egress_allowed": ["hooks.example.com"]})
    with Hook() as tenants:
        yield tenants


@pytest.fixture
def worker() -> Iterator[None]:
    """Tasks run as soon as they are sent."""
    from config.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def add(party: Party, url: str, **words: Any) -> Any:
    return party.api.post(PATH, {"name": "hook", "kind": "webhook", "targets": [url], **words}, format="json")


def tell(party: Party) -> Delivery:
    raised = raise_alert(
        tenant_id=party.id, kind="quota_exceeded", subject="s", title="100 % used", detail={"used": 100}
    )
    assert raised is not None
    return Delivery.objects.get(alert=raised)


# Telling


def test_an_alert_is_posted_signed_once(acme: Party, hook: Hook, worker: None, committed: Callable[[], Any]) -> None:
    secret = add(acme, hook.url).json()["secret"]
    with committed():
        delivery = tell(acme)
    with committed():
        delivering.deliver(delivery.id, now=utc_now() + timedelta(days=1))

    [(path, headers, body)] = hook.got
    assert path == "/quiver?a=b"
    said = json.loads(body)
    assert (said["type"], said["data"]["detail"]) == ("alert.quota_exceeded", {"used": 100})
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    right = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(right).decode()}"
    assert headers["webhook-id"] == str(delivery.id)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("sent", 1)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    headers = webhooks.signed(  # as the project's own libraries sign it
        b'{"test": 2432232314}',
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=1614265330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_who_does_not_take_it_is_tried_again_with_the_same_id(acme: Party, hook: Hook, status: int) -> None:
    add(acme, hook.url)
    delivery = tell(acme)
    hook.status = status

    assert not delivering.deliver(delivery.id, now=utc_now())
    delivery.refresh_from_db()
    assert (delivery.state, delivery.last_error) == ("pending", f"it answered {status}")
    hook.status = 200
    assert delivering.deliver(delivery.id, now=utc_now() + timedelta(hours=1))

    assert len({headers["webhook-id"] for _, headers, _ in hook.got}) == 1


def test_a_redirect_is_not_followed(acme: Party, hook: Hook, listener: Listener) -> None:
    add(acme, hook.url)
    for place in ("http://127.0.0.1", "https://127.0.0.1", "http://[::1]", "//127.0.0.1"):
        hook.status, hook.headers = 307, {"Location": f"{place}:{listener.port}/"}
        delivery = tell(acme)
        assert not delivering.deliver(delivery.id, now=utc_now())
        delivery.refresh_from_db()
        assert "redirects are not followed" in delivery.last_error
        delivery.alert.delete()  # type: ignore[union-attr]


def test_a_server_that_is_gone_is_tried_again(acme: Party, hook: Hook) -> None:
    add(acme, hook.url)
    delivery = tell(acme)
    hook.__exit__()

    assert not delivering.deliver(delivery.id, now=utc_now())

    delivery.refresh_from_db()
    assert (delivery.state, delivery.last_error) == ("pending", "no connection: Connection refused")
    hook.__enter__()


def test_who_drips_holds_no_worker(resolver: LyingResolver) -> None:
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        wire, _ = server.accept()
        with wire:
            while not over.wait(0.05):
                try:
                    wire.send(b"H")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        url = f"http://hooks.example.com:{server.getsockname()[1]}/"
        with pytest.raises(OSError, match=r"cannot be read|timed out|Bad file|reset"):
            webhooks.post(url, b"{}", {}, allowed=HERE, timeout_s=0.5)
        over.set()


def test_a_test_verifies_the_channel_without_any_mail_server(
    acme: Party, hook: Hook, worker: None, committed: Callable[[], Any]
) -> None:
    one = f"{PATH}/{add(acme, hook.url).json()['id']}"
    with committed():
        assert acme.api.post(f"{one}/test").status_code == 202

    assert json.loads(hook.got[0][2])["type"] == "test"
    assert acme.api.get(one).json()["verified_at"] is not None


def test_the_secret_is_told_once_and_can_be_renewed(acme: Party, mallory: Party, hook: Hook) -> None:
    added = add(acme, hook.url).json()
    one = f"{PATH}/{added['id']}"

    assert "secret" not in acme.api.get(one).json()
    assert added["secret"] not in acme.api.get(PATH).content.decode()
    renewed = acme.api.post(f"{one}/renew-secret").json()["secret"]
    row = AlertChannel.objects.get()
    assert signing.secret_of(row) == renewed != added["secret"]
    assert renewed not in row.sealed
    assert mallory.api.post(f"{one}/renew-secret").status_code == 404
    assert mallory.api.patch(one, {"targets": ["https://evil.example.com/"]}, format="json").status_code == 404


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"targets": ["https://a.example.com/", "https://b.example.com/"]}, "targets"),
        ({"targets": ["someone@example.com"]}, "targets"),
        ({"targets": ["ftp://a.example.com/"]}, "targets"),
        ({"targets": ["https://a.example.com:22/"]}, "targets"),
        ({"targets": ["http://a.example.com/"]}, "targets"),
        ({"kind": "pigeon"}, "kind"),
    ],
)
def test_what_is_no_webhook_is_refused_with_its_field(acme: Party, words: dict[str, Any], param: str) -> None:
    refused = add(acme, "https://a.example.com/", **words)

    assert refused.status_code == 400
    assert list(refused.json()["errors"]) == [param]


def test_a_channel_stays_of_its_kind(acme: Party) -> None:
    one = f"{PATH}/{add(acme, 'https://a.example.com/').json()['id']}"

    assert acme.api.patch(one, {"kind": "email", "targets": ["a@b.example"]}, format="json").status_code == 400
    assert acme.api.post(f"{PATH}/{mail_channel(acme)}/renew-secret").status_code == 409


def mail_channel(party: Party) -> str:
    return str(add_channel(tenant_id=party.id, name="mail", targets=["a@acme.test"]).id)


# Where it does not go


def test_the_listener_hears_who_may_come(resolver: LyingResolver) -> None:
    with Listener() as inside:
        with pytest.raises(OSError, match=r"cannot be read|no TLS|answer"):
            webhooks.post(f"http://hooks.example.com:{inside.port}/", b"", {}, allowed=HERE, timeout_s=2)
        assert inside.connections == 1


def test_there_are_sixty_of_them() -> None:
    assert len(set(ADDRESSES)) >= 60


def test_none_is_connected_to(listener: Listener, resolver: LyingResolver) -> None:
    for url in listener.addresses():
        with pytest.raises(EgressRefused):
            webhooks.post(url, b"{}", {}, allowed=NOTHING, timeout_s=2)


def test_none_is_connected_to_by_what_is_posted_or_patched(
    acme: Party,
    listener: Listener,
    resolver: LyingResolver,
    worker: None,
    committed: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alerts.services.TESTS_AN_HOUR", 10_000)
    fine = add(acme, "https://a.example.com/", name="fine").json()["id"]
    for number, url in enumerate(listener.addresses()):
        with committed():
            added = add(acme, url, name=f"hook {number}")
            changed = acme.api.patch(f"{PATH}/{fine}", {"targets": [url]}, format="json")
        assert (added.status_code, changed.status_code) in {(400, 400), (201, 200)}
        tried = [each for each in (added.json().get("id"), fine) if each and added.status_code == 201]
        for channel in tried:
            with committed():
                assert acme.api.post(f"{PATH}/{channel}/test").status_code == 202
            assert acme.api.get(f"{PATH}/{channel}").json()["last_test"]["state"] == "failed"
        AlertChannel.objects.exclude(id=fine).delete()


def test_none_is_connected_to_by_a_row_that_was_written_behind_our_back(
    acme: Party, listener: Listener, resolver: LyingResolver
) -> None:
    row = AlertChannel.objects.get(id=add(acme, "https://a.example.com/").json()["id"])
    for url in listener.addresses():
        AlertChannel.objects.filter(id=row.id).update(targets=[url])
        delivery = tell(acme)
        assert not delivering.deliver(delivery.id, now=utc_now())
        delivery.refresh_from_db()
        assert (delivery.state, delivery.last_error[:8]) == ("failed", "Not sent")
        delivery.alert.delete()  # type: ignore[union-attr]


def test_a_name_that_changes_its_mind_leads_nowhere(listener: Listener, resolver: LyingResolver) -> None:
    url = f"https://turns.example.com:{listener.port}/"
    resolver.then("turns.example.com", ["93.184.216.34"], ["127.0.0.1"])
    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], **_: Any) -> socket.socket:
        connected.append(address)
        raise OSError("the network of the tests ends here")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "create_connection", connect)
        with pytest.raises(OSError, match="no connection"):
            webhooks.post(url, b"{}", {}, allowed=NOTHING, timeout_s=2)
    assert (connected, resolver.asked) == ([("93.184.216.34", listener.port)], ["turns.example.com"])
    with pytest.raises(EgressRefused):
        webhooks.post(url, b"{}", {}, allowed=NOTHING, timeout_s=2)


def test_what_is_told_is_the_same_for_what_is_inside_and_what_is_nowhere(
    listener: Listener, resolver: LyingResolver
) -> None:
    told = set()
    for host in ("inside.example.com", "nowhere.example.com", "meta.example.com", "mixed.example.com"):
        with pytest.raises(EgressRefused) as refused:
            webhooks.post(f"https://{host}:{listener.port}/", b"", {}, allowed=NOTHING)
        told.add(str(refused.value))
    assert told == {"does not lead to a public address"}


def test_the_allow_list_never_allows_a_metadata_service(listener: Listener, resolver: LyingResolver) -> None:
    everything = Allowed.of(["0.0.0.0/0", "::/0", "meta.example.com", "metadata.google.internal"])
    for host in ("meta.example.com", "169.254.169.254", "metadata.google.internal", "[::ffff:169.254.169.254]"):
        with pytest.raises(EgressRefused):
            webhooks.post(f"http://{host}:{listener.port}/", b"", {}, allowed=everything)


def test_a_tenants_credential_takes_none_of_them(acme: Party, listener: Listener, resolver: LyingResolver) -> None:
    from catalog.upstreams import add_provider
    from tenants.models import TenantCredential

    for kind in ("azure", "bedrock", "vertex"):
        add_provider(slug=kind, kind=kind)
    hosts = [url.partition("//")[2].rstrip("/") for url in listener.addresses()]
    for given in [*listener.addresses(), *hosts]:
        for kind, name in (("azure", "resource"), ("bedrock", "region"), ("vertex", "region"), ("vertex", "project")):
            words = {"provider": kind, "secret": {"api_key": "a-key-0123456789"}, name: given}
            assert acme.api.post("/api/v1/provider-credentials", words, format="json").status_code == 400
    assert not TenantCredential.objects.exists()


async def test_a_providers_name_that_turns_to_a_metadata_service_is_not_connected_to(resolver: LyingResolver) -> None:
    from providers.failures import ProviderFailure
    from providers.http_client import HttpClient

    client = HttpClient("http://meta.example.com:80")
    with pytest.raises(ProviderFailure, match="metadata"):
        await client.send(client.prepare("GET", "/"), b"", timeout_s=2)
