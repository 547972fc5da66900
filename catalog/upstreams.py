"""The only writer of providers and of the platform's credentials there.

Decides which secrets a kind of provider takes, which caps it starts with, and which addresses it may have. A Vertex
service account names the address that its holder asks for tokens (`token_uri`); one that is not Google's is an
operator's to give, because the web workers would call it from inside our network. Every function is one transaction
and tells the data plane after its commit. Secrets are sealed here and never read back. What another address or a first
secret means for the provider's models is `catalog.rechecking`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from audit.facts import facts as facts_of
from audit.services import record
from catalog.addresses import check_base_url
from catalog.loading import PLATFORM, sealer
from catalog.models import EmbeddingModel, Provider, ProviderCredential, State, Tokenizer
from catalog.publishing import catalog_changed
from catalog.rechecking import measure_anew
from core.errors import AlreadyExists, InUse, InvalidRequest, NotFound
from providers.base import Kind
from providers.vertex_tokens import TOKEN_URI, token_uri_of

# What each kind takes as `secret`: every alternative is a whole credential.
SECRETS: Mapping[Kind, tuple[frozenset[str], ...]] = {
    Kind.OPENAI: (frozenset({"api_key"}),),
    Kind.AZURE: (frozenset({"api_key"}),),
    Kind.OPENAI_COMPATIBLE: (frozenset({"api_key"}),),
    Kind.GOOGLE: (frozenset({"api_key"}),),
    Kind.BEDROCK: (
        frozenset({"aws_access_key_id", "aws_secret_access_key"}),
        frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}),
        frozenset({"api_key"}),
    ),
    Kind.VERTEX: (frozenset({"service_account"}),),
    Kind.LOCAL: (),
}
# Texts and tokens per call that the vendor takes.
CAPS: Mapping[Kind, tuple[int, int]] = {
    Kind.BEDROCK: (96, 300_000),
    Kind.GOOGLE: (100, 300_000),
    Kind.VERTEX: (250, 20_000),
}
_DEFAULT_CAPS = (2048, 300_000)
_ADDRESS = ("base_url", "region", "project", "api_version")  # another one may be another server with other models
_PATHS = frozenset({"health"})  # what stands at `/embedding-models/providers/…` where a slug would


class ProviderSettings(TypedDict, total=False):
    """How a provider is called."""

    base_url: str
    region: str
    project: str
    api_version: str
    max_items: int
    max_tokens_per_call: int
    max_concurrency: int
    batch_window_ms: int
    mixes_tenants: bool
    rpm: int | None
    tpm: int | None
    timeout_s: float
    is_enabled: bool
    discovery: str


def add_provider(
    *,
    slug: str,
    kind: str,
    secret: Mapping[str, str] | None = None,
    by_operator: bool = False,
    **settings: Unpack[ProviderSettings],
) -> Provider:
    """A new provider, with its first credential if a secret is given."""
    if slug in _PATHS:
        raise InvalidRequest(f"{slug!r} is a path of this API; take another slug.", param="slug")
    _check_address(settings)  # resolves a name: outside the transaction
    check_service_account(secret, by_operator)
    items, tokens = CAPS.get(Kind(kind), _DEFAULT_CAPS)
    settings.setdefault("max_items", items)
    settings.setdefault("max_tokens_per_call", tokens)
    with transaction.atomic():
        row = Provider(slug=slug, kind=kind, **settings)
        _check(row)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
        except IntegrityError as error:
            raise AlreadyExists(f"There is a provider {slug!r} already; PATCH that one.", param="slug") from error
        if secret is not None:
            _add_credential(row, secret, label="")
        record("provider.added", tenant_id=None, subject="provider", subject_id=slug, after=_told(row, secret))
        catalog_changed()
    return row


def change_provider(
    *,
    slug: str,
    secret: Mapping[str, str] | None = None,
    by_operator: bool = False,
    once_held: Callable[[], None] = lambda: None,
    **settings: Unpack[ProviderSettings],
) -> Provider:
    """Changes what is given. A secret takes the place of all credentials; `add_credential` adds one to rotate over.

    `once_held` may refuse by what the row is, when it cannot change any more: names are resolved before that.
    """
    _check_address(settings)
    check_service_account(secret, by_operator)
    with transaction.atomic():
        row = held_provider(slug)
        once_held()
        before, was = facts_of(row), [getattr(row, name) for name in _ADDRESS]
        for name, value in settings.items():
            setattr(row, name, value)
        _check(row)
        if settings.get("mixes_tenants"):
            _check_mixing(row)
        row.save()
        if secret is not None:
            row.credentials.all().delete()
            _add_credential(row, secret, label="")
        after = _told(row, secret)
        record("provider.changed", tenant_id=None, subject="provider", subject_id=slug, before=before, after=after)
        catalog_changed()  # heard first: to ask a worker takes long while the broker is away
        measure_anew(row, is_elsewhere=[getattr(row, name) for name in _ADDRESS] != was)
    return row


@transaction.atomic
def remove_provider(*, slug: str) -> None:
    """Erases a provider that no model in the catalogue belongs to."""
    row = held_provider(slug)
    record("provider.removed", tenant_id=None, subject="provider", subject_id=slug, before=facts_of(row))
    try:
        row.delete()
    except ProtectedError as error:
        raise InUse(f"The catalogue has models of {slug}; delete those first, or switch the provider off.") from error
    catalog_changed()


def add_credential(
    *, slug: str, secret: Mapping[str, str], label: str = "", by_operator: bool = False
) -> ProviderCredential:
    """One more credential to rotate over."""
    check_service_account(secret, by_operator)
    with transaction.atomic():
        provider = held_provider(slug)
        credential = _add_credential(provider, secret, label)
        after = facts_of(credential)
        record("provider_credential.added", tenant_id=None, subject="provider", subject_id=slug, after=after)
        catalog_changed()  # heard first, as above
        measure_anew(provider, is_elsewhere=False)
    return credential


@transaction.atomic
def remove_credential(*, slug: str, credential_id: uuid.UUID) -> None:
    """Forgets a credential."""
    row = ProviderCredential.objects.filter(provider=held_provider(slug), id=credential_id).first()
    if row is None:
        raise NotFound(f"{slug} has no credential {credential_id}.")
    record("provider_credential.removed", tenant_id=None, subject="provider", subject_id=slug, before=facts_of(row))
    row.delete()
    catalog_changed()


def find_provider(slug: str) -> Provider:
    """The row, or `NotFound`."""
    row = Provider.objects.filter(slug=slug).prefetch_related("credentials").first()
    if row is None:
        raise NotFound(f"There is no provider {slug!r}.")
    return row


def held_provider(slug: str) -> Provider:
    """The row, or `NotFound`; whoever else would change it waits until this transaction ends."""
    row = Provider.objects.select_for_update().filter(slug=slug).first()
    if row is None:
        raise NotFound(f"There is no provider {slug!r}.")
    return row


def find_model_of(slug: str, name: str) -> EmbeddingModel:
    """A provider's model by its name, else by the vendor's identifier; or `NotFound`."""
    rows = EmbeddingModel.objects.filter(provider__slug=slug)
    row = rows.filter(name=name).first() or rows.filter(identifier=name).first()
    if row is None:
        raise NotFound(f"{slug} has no model {name[:200]!r}.", param="model")
    return row


def _told(row: Provider, secret: Mapping[str, str] | None) -> dict[str, Any]:
    """That there is another secret is told, and nothing of it."""
    return facts_of(row) | ({} if secret is None else {"secret": secret})


def _check_address(settings: ProviderSettings) -> None:
    if settings.get("base_url"):
        check_base_url(settings["base_url"])


def check_service_account(secret: Mapping[str, str] | None, by_operator: bool) -> None:
    """Raises `InvalidRequest` for a service account that asks for its tokens where this person may not send us."""
    text, param = (secret or {}).get("service_account"), "secret.service_account"
    if not text:
        return
    try:
        token_uri = token_uri_of(text)
    except ValueError as error:
        raise InvalidRequest(f"This cannot be used: {error}. Was the JSON file copied whole?", param=param) from error
    if token_uri == TOKEN_URI:
        return
    if not by_operator:
        raise InvalidRequest(f"Its `token_uri` is not {TOKEN_URI}: only an operator may give such a one.", param=param)
    check_base_url(token_uri, name="token_uri", param=param)


def _check(row: Provider) -> None:
    row.full_clean(validate_unique=False, validate_constraints=False)
    if row.kind == Kind.OPENAI_COMPATIBLE and not row.base_url:
        raise InvalidRequest("A provider of kind openai_compatible needs its address.", param="base_url")


def _check_mixing(row: Provider) -> None:
    """A provider counts a shared call as one; each tenant's share is right only by tokens that we count as it does."""
    models = EmbeddingModel.objects.filter(provider=row).exclude(state=State.REMOVED)
    inexact = models.exclude(tokenizer=Tokenizer.CL100K).values_list("name", flat=True).first()
    if inexact is not None:
        raise InvalidRequest(
            f"The tokens of {inexact} are only estimated, so the tenants of a call could not be charged rightly.",
            param="mixes_tenants",
        )


def _add_credential(row: Provider, secret: Mapping[str, str], label: str) -> ProviderCredential:
    check_secret(Kind(row.kind), secret)
    credential = ProviderCredential(id=uuid.uuid4(), provider=row, label=label, hint=hint_of(secret))
    credential.sealed = sealer().seal(secret, tenant=PLATFORM, table="provider_credential", row=str(credential.id))
    credential.save(force_insert=True)
    return credential


def check_secret(kind: Kind, secret: Mapping[str, str]) -> None:
    """Raises `InvalidRequest` for what is no whole credential of this kind."""
    alternatives = SECRETS[kind]
    if not alternatives:
        raise InvalidRequest(f"Providers of kind {kind.value} take no secret.", param="secret")
    if frozenset(secret) not in alternatives:
        wanted = ", or ".join(" and ".join(sorted(each)) for each in alternatives)
        raise InvalidRequest(f"The secret of a provider of kind {kind.value} is {wanted}.", param="secret")
    for name, value in secret.items():
        is_text = name == "service_account"  # JSON, of several lines
        if not value or not value.isascii() or not (is_text or (value.isprintable() and " " not in value)):
            raise InvalidRequest(
                f"`{name}` is empty or holds white space or letters that cannot be sent; was it copied whole?",
                param=f"secret.{name}",
            )


def hint_of(secret: Mapping[str, str]) -> str:
    """The last four letters, by which people tell one from another."""
    told = secret.get("api_key") or secret.get("aws_access_key_id") or ""
    return told[-4:] if len(told) >= 12 else ""  # of a short one, four letters would be too many
