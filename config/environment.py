"""What Quiver takes from its environment: names, types, defaults, meaning. `docs/settings.md` is made from this.

Every variable may come from a file instead: `NAME_FILE=/path` (for mounted secrets). Nonsense is refused at start,
all of it in one message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from core.egress import Allowed
from core.sealing import parse_keys

_UNPREFIXED = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "DJANGO_SECRET_KEY")


class BadEnvironment(Exception):
    """One or more variables are missing or nonsense; the message lists them all."""


class Environment(BaseModel):
    """Field `x` is the variable `QUIVER_X`, but for the four that every deployment knows by their own names."""

    database_url: str = Field(
        "postgresql://127.0.0.1:5432/quiver",
        description="PostgreSQL 15 or later with pgvector; `postgresql://user:password@host:port/name`.",
    )
    owner_database_url: str = Field(
        "",
        description="The same database as the owner of its tables, who makes each month's partitions; only the task "
        "worker needs it, and only where `DATABASE_URL` is a lesser role's.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis or Valkey for change messages and Django's cache.",
    )
    celery_broker_url: str = Field("redis://127.0.0.1:6379/1", description="Celery's broker, Redis or RabbitMQ.")
    django_secret_key: str = Field(min_length=32, description="Signs sessions; at least 32 characters.")
    encryption_keys: str = Field(
        description="`id:base64,…`, 32 bytes each; seals providers' secrets. The first one writes, all of them read."
    )
    home: Path = Field(Path(".quiver"), description="Where `manage.py up` keeps its data.")
    debug: bool = Field(False, description="Django's debug pages. Never in production.")
    allowed_hosts: list[str] = Field(["*"], description="Host names that the web answers to, with commas between.")
    public_url: str = Field(
        "",
        description="The address people reach Quiver at; links in mails start with it. With `https://…` the control "
        "plane redirects what comes without TLS: the proxy that ends it must send `X-Forwarded-Proto: https`.",
    )
    trusted_proxies: list[str] = Field(
        [],
        description="Addresses or ranges (CIDR) of load balancers whose `X-Forwarded-For` is believed, with commas "
        "between. Without it all who come through one count as one: for keys that are kept to networks, when sign-ins "
        "are slowed down, and in the audit log.",
    )
    egress_allowed: list[str] = Field(
        [],
        description="Hosts and ranges (CIDR) that addresses given by tenants may lead to though they are not public, "
        "with commas between; there also by http and at any port. Metadata services never are.",
    )
    mail_from: str = Field("", description="The sender of mails: `quiver@example.com` or `Quiver <…>`.")
    smtp_url: str = Field(
        "",
        description="The mail server: `smtp://user:password@host:587` (TLS by STARTTLS on port 587 or with a password) "
        "or `smtps://…`. Needs the sender and the public address. Empty: links are shown, to be passed on by hand.",
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR.")

    deadline_ms: int = Field(
        30_000, ge=100, le=600_000, description="Time a request may take, unless it asks for less."
    )
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="Largest body of a data-plane request.")
    max_tokens_per_request: int = Field(300_000, ge=1, description="Most tokens of one request.")
    ledger_wait_ms: int = Field(
        5_000, ge=100, le=60_000, description="How long an answer waits for the ledger before it becomes a 503."
    )
    hold_lease_seconds: float | None = Field(
        None,
        gt=0,
        description="How long a request may hold something of its limits; what its worker left behind is free "
        "afterwards. Must be longer than any request lives. Unset: the deadline and the wait for the ledger, and 5 s.",
    )
    reconcile_seconds: float = Field(
        10.0, ge=0.1, le=3600, description="How often expired holds are settled from the ledger."
    )
    poll_seconds: float = Field(
        1.0, gt=0, le=5, description="How often a worker compares versions, beside the messages it is sent."
    )
    snapshot_stale_seconds: int = Field(
        300, ge=5, description="How long a configuration that could not be confirmed goes on serving."
    )
    outage_seconds: float = Field(
        300.0,
        ge=1,
        le=86_400,
        description="How long every route of a model must have been failing before the model is shown as unavailable.",
    )
    cache_memory_mb: int = Field(16, ge=0, le=4096, description="Vectors that each worker keeps in its own memory.")
    drain_seconds: float = Field(10.0, ge=0, le=300, description="Time that requests under way get after SIGTERM.")
    metric_tenants: int = Field(
        200, ge=1, le=10_000, description="Number of tenants with a metric label of their own; the others are `other`."
    )
    price_table: str = Field(
        "",
        description="A file or an address (http, https) with a price table in the format of the shipped one; believed "
        "before that one.",
    )
    partitions_ahead: int = Field(3, ge=1, le=24, description="Months for which usage partitions are made in advance.")

    socket_messages_per_minute: int = Field(
        1000, ge=1, le=10_000_000, description="Messages that one agent's socket may send in a minute."
    )
    socket_burst: int = Field(100, ge=1, le=100_000, description="Of them, how many at once.")
    socket_text_bytes: int = Field(
        1024 * 1024, ge=1024, le=4 * 1024 * 1024, description="Largest text frame of an agent's socket."
    )
    socket_in_flight: int = Field(32, ge=1, le=10_000, description="Requests in flight on one agent's socket.")
    socket_notifications: int = Field(
        256, ge=1, le=100_000, description="Notices that wait for an agent that reads slowly; then the oldest go."
    )
    socket_idle_seconds: float = Field(
        60.0, ge=1, le=3600, description="How long an agent's socket may be silent before it is closed."
    )
    socket_authenticate_seconds: float = Field(
        10.0, ge=0.1, le=300, description="How long a socket may be open without a key."
    )
    socket_presence_seconds: float = Field(
        90.0, ge=1, le=3600, description="How long an agent counts as connected whose worker was killed."
    )
    socket_calls: int = Field(
        256, ge=1, le=100_000, description="Embeddings under way for all agents of one worker; others wait their turn."
    )
    socket_calls_per_agent: int = Field(16, ge=1, le=10_000, description="Of them, for one agent.")

    @property
    def lease_s(self) -> float:
        """Of a hold."""
        return self.hold_lease_seconds or (self.deadline_ms + self.ledger_wait_ms) / 1000 + 5

    @field_validator("allowed_hosts", "trusted_proxies", "egress_allowed", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        return [str(ip_network(each)) for each in value]

    @field_validator("egress_allowed")
    @classmethod
    def _are_hosts(cls, value: list[str]) -> list[str]:
        Allowed.of(value)
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_complete(cls, value: str, info: ValidationInfo) -> str:
        if value:
            parts = urlsplit(value)
            if parts.scheme not in ("smtp", "smtps") or not parts.hostname or (parts.port or 1) < 1:
                raise ValueError("must be smtp://host or smtps://host, with user:password@ and a port where needed")
            missing = [variable(each) for each in ("mail_from", "public_url") if not info.data.get(each)]
            if missing:
                raise ValueError(f"needs {' and '.join(missing)} as well")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _readable_keys(cls, value: str) -> str:
        parse_keys(value)
        return value

    @field_validator("database_url", "owner_database_url")
    @classmethod
    def _is_postgresql(cls, value: str) -> str:
        if value and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value


def variable(name: str) -> str:
    """The variable that sets a field."""
    upper = name.upper()
    return upper if upper in _UNPREFIXED else f"QUIVER_{upper}"


def load(environ: Mapping[str, str] = os.environ) -> Environment:
    """Reads and checks the environment. Raises `BadEnvironment` with everything that is wrong, values not shown."""
    given: dict[str, str] = {}
    wrong: list[str] = []
    for name in Environment.model_fields:
        try:
            value = _read(environ, variable(name))
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(f"{variable(name)}_FILE: {error}")
            continue
        if value is not None:
            given[name] = value
    try:
        environment = Environment.model_validate(given)
    except ValidationError as error:
        wrong += [f"{variable(str(e['loc'][0]))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
    if wrong:
        raise BadEnvironment("Quiver cannot start with this environment:\n" + "\n".join(f"  {line}" for line in wrong))
    return environment


def _read(environ: Mapping[str, str], key: str) -> str | None:
    path = environ.get(f"{key}_FILE")
    if path:
        return Path(path).read_text(encoding="utf-8").strip()
    return environ.get(key)
