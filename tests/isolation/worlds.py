"""Who is asked about, what of theirs there is, and how it is recognised where it should not be."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from django.db import transaction

from tests.admin.world import furnish, used
from tests.conftest import Party
from tests.isolation.policy import Line

MARK = "globex"
SHARED = {"model", "provider", "nothing"}  # what everybody knows


@dataclass(frozen=True)
class World:
    """Globex, which has a row of each kind, and mallory, who has a key with all rights and nothing else."""

    globex: Party
    mallory: Party
    rows: dict[str, str]

    def path(self, line: Line) -> str:
        from tests.architecture.test_routes import CLOSED  # it needs settings, and a conftest imports this

        (route,) = {path for path, each in CLOSED if each.name == line.route}
        for name, kind in line.also.items():
            route = re.sub(f"<[a-z]+:{name}>", self.rows[kind], route)
        path = re.sub("<[^>]+>", self.rows[line.row], route) if line.row else route
        return f"/{path}?{line.query}" if line.query else f"/{path}"

    def body(self, line: Line) -> dict[str, Any] | None:
        return None if line.body is None else json.loads(re.sub(r"\{(\w+)\}", self._row, json.dumps(line.body)))

    def _row(self, found: re.Match[str]) -> str:
        return self.rows[found[1]]

    def ask(self, api: Any, line: Line) -> Any:
        """The answer to one line; whatever it did is undone."""
        with undone():
            return self.send(api, line)

    def send(self, api: Any, line: Line) -> Any:
        api.raise_request_exception = False
        body = {} if self.body(line) is None else {"data": self.body(line)}
        return getattr(api, line.method.lower())(self.path(line), **body)

    def leaks(self, line: Line, answer: Any) -> list[str]:
        """What of globex's is in an answer, but for what the caller said themselves."""
        said = self.path(line) + json.dumps(self.body(line))
        text = content(answer)
        for each in sorted({*self.rows.values()}, key=len, reverse=True):
            text = text.replace(each, "") if each in said else text
        return self.leaks_in(text)

    def leaks_in(self, text: str) -> list[str]:
        theirs = [each for kind, each in self.rows.items() if kind not in SHARED]
        return [each for each in (MARK, *theirs, str(self.globex.id)) if is_in(each, text)]


def is_in(mark: str, text: str) -> bool:
    """Numbers are too short to be recognised among others."""
    return len(mark) > 10 and mark in text if mark != MARK else mark in text.lower()


def content(answer: Any) -> str:
    return b"".join([f"{k}: {v}\n".encode() for k, v in answer.headers.items()]).decode() + (
        "" if answer.streaming else answer.content.decode()
    )


def streamed(answer: Any) -> str:
    """What comes once it is read, which is after its request."""

    async def collect() -> str:
        return b"".join([part if isinstance(part, bytes) else part.encode() async for part in answer]).decode()

    return asyncio.run(collect())


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def add_vendor() -> None:
    """At an address where nobody answers: whoever may have it called gets a refusal at once."""
    from catalog.upstreams import add_provider

    add_provider(slug="vendor", kind="openai", base_url="http://127.0.0.1:1/v1", secret={"api_key": "sk-concealed"})


def rows_of(party: Party, model: Any) -> dict[str, str]:
    """A row of each kind, by the words of the policies."""
    from alerts.services import add_channel, raise_alert
    from audit.models import AuditEvent
    from billing.models import Limit
    from catalog.models import DiscoveryRun, Provider
    from tenants.agents import add_agent
    from tenants.minting import mint_key
    from tenants.models import Invitation, Membership, TenantCredential, TenantModel
    from tenants.rights import Rights

    furnish(party, model)
    add_agent(tenant_id=party.id, agent_id=f"{party.slug}-agent", name=f"{party.slug} agent")
    channel = add_channel(tenant_id=party.id, name=f"{party.slug} channel", targets=[f"ops@{party.slug}.example"])
    alert = raise_alert(
        tenant_id=party.id, kind="quota_warning", subject=f"{party.slug} subject", title=f"of {party.slug}", detail={}
    )
    assert alert is not None
    own = {"tenant_id": party.id}
    vendor = Provider.objects.get(slug="vendor")
    found = {
        "tenant": party.id,
        "member": Membership.objects.get(**own, role="viewer").user_id,
        "invitation": Invitation.objects.get(**own).id,
        "key": mint_key(tenant_id=party.id, name="a", rights=Rights(frozenset({"keys:write"})))[0].id,
        "tenant_model": TenantModel.objects.get(**own).id,
        "own_credential": TenantCredential.objects.get(**own).id,
        "agent": f"{party.slug}-agent",
        "limit": Limit.objects.get(**own, measure="tokens").id,
        "budget": Limit.objects.filter(**own, measure="usd").earliest("id").id,
        "alert": alert.id,
        "channel": channel.id,
        "event": AuditEvent.objects.filter(**own).latest("id").id,
        "usage": used(party.id, party.slug).id,
        "model": model.id,
        "provider": "vendor",
        "credential": vendor.credentials.get().id,
        "run": DiscoveryRun.objects.create(provider=vendor).id,
        "nothing": uuid4(),
    }
    return {kind: str(each) for kind, each in found.items()}


def rows_in_database(party: Party) -> dict[str, list[str]]:
    """All that is a tenant's, whatever the table."""
    from django.apps import apps

    return {
        each._meta.label: sorted(map(repr, each._default_manager.filter(tenant_id=party.id).values_list()))
        for each in apps.get_models()
        if any(field.attname == "tenant_id" for field in each._meta.concrete_fields)
    }
