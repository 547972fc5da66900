"""A whole platform for stories: PostgreSQL, Valkey and `config.web` as real processes, set up over REST.

It remembers every secret that passes through it, and as it ends none may be found anywhere (`tests.canaries`).
"""

from __future__ import annotations

import atexit
import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Self

import psycopg

from config.up import programs
from config.up.ports import free_port
from config.up.postgres import THROWAWAY, EmbeddedPostgres
from config.up.valkey import EmbeddedValkey
from tests.canaries import Cage, logs_in, rows_in, values_in
from tests.isolation.policy_redis import lines_met
from tests.up.processes import CHECKOUT, children_of, clean_environment, eventually

_PASSWORD = "throwaway"
_OWNER = ("quiver", _PASSWORD, "quiver")


@dataclass(frozen=True)
class _Prepared:
    """What `up` does before it starts anything, done once: the data of a PostgreSQL that ran on `port`."""

    data_dir: Path
    port: int
    services: str
    operator_key: str
    admin_password: str


@cache
def _prepared() -> _Prepared:
    folder = Path(tempfile.mkdtemp(prefix="quiver-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    postgres = EmbeddedPostgres(folder / "postgres", free_port(), _PASSWORD, THROWAWAY)
    postgres.initialise()
    postgres.start()
    try:
        postgres.wait_until_ready()
        postgres.create_database(owner=_OWNER[0], password=_OWNER[1], database=_OWNER[2])
        done = subprocess.run(
            [sys.executable, "-m", "config.up.prepare", "--no-demo"],
            cwd=CHECKOUT,
            env=_environment(postgres),
            input=b"null",
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    finally:
        postgres.stop("fast")
    said = json.loads(done.stdout)
    assert said["services"] != postgres.url(*_OWNER)
    seeded = said["seeded"]
    return _Prepared(
        postgres.data_dir, postgres.port, said["services"], seeded["operator_key"], seeded["admin_password"]
    )


def _environment(postgres: EmbeddedPostgres) -> dict[str, str]:
    """What there is before services have a Redis and a login."""
    return clean_environment() | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DJANGO_SECRET_KEY": "a secret of the tests, long enough to be one",
        "QUIVER_ENCRYPTION_KEYS": "tests:" + base64.b64encode(sha256(b"tests").digest()).decode(),
        "DATABASE_URL": postgres.url(*_OWNER),
    }


@dataclass
class Answer:
    """What came back over HTTP; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str | None]:
        """Status, code and param of the data plane's error form."""
        return self.status, self.json["error"]["code"], self.json["error"]["param"]


@dataclass
class Platform:
    """`with Platform(folder) as platform`. `settings` are names as in `config.environment`, upper case, prefixed."""

    home: Path
    workers: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    worker: subprocess.Popen[bytes] | None = None
    cage: Cage = field(default_factory=Cage, repr=False)

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.postgres = EmbeddedPostgres(self.home / "postgres", free_port(), _PASSWORD, THROWAWAY)
        self.valkey = EmbeddedValkey(self.home / "valkey", free_port(), _PASSWORD, durable=False)
        prepared = _prepared()
        shutil.copytree(prepared.data_dir, self.postgres.data_dir)
        for store, name in ((self.postgres, "postgres"), (self.valkey, "valkey")):
            with (self.home / f"{name}.log").open("wb") as log:
                store.start(log)
        self.postgres.wait_until_ready()
        self.valkey.wait_until_ready()
        self.database_url = self.postgres.url(*_OWNER)
        metrics = self.home / "metrics"
        metrics.mkdir()
        self.operator_key = prepared.operator_key
        self.environment = _environment(self.postgres) | {
            "DATABASE_URL": prepared.services.replace(f":{prepared.port}/", f":{self.postgres.port}/"),
            "QUIVER_OWNER_DATABASE_URL": self.database_url,
            "REDIS_URL": self.valkey.url(0),
            "CELERY_BROKER_URL": self.valkey.url(1),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            **self.settings,
        }
        own = {"operator's key": self.operator_key, "admin's password": prepared.admin_password}
        self.cage.lock_in({**own, "Django's key": self.environment["DJANGO_SECRET_KEY"]})
        try:
            self.start_web()
        except BaseException:  # nothing that was started is left behind
            self.__exit__(BaseException)
            raise
        return self

    def __exit__(self, failed: object = None, *_: object) -> None:
        self.look_into_stores()
        self.stop_worker()
        self.stop_web()
        self.valkey.stop()
        self.postgres.stop("immediate")
        self.look_into_logs()
        if failed is None:
            self.cage.must_be_closed()

    def start_web(self) -> None:
        for number, key in enumerate(self.environment["QUIVER_ENCRYPTION_KEYS"].split(",")):
            self.cage.lock_in({f"encryption key {number}": key.partition(":")[2]})
        self.log = self.home / f"web-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.web = subprocess.Popen(
                [sys.executable, "-m", "config.web", "--port", str(self.port), "--workers", str(self.workers)],
                cwd=CHECKOUT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: self.is_ready(), 120)

    def stop_web(self) -> None:
        self.web.send_signal(signal.SIGTERM)
        self.web.wait(30)

    def start_worker(self) -> None:
        """Celery's worker with beat, which do what is to be done every second and minute."""
        command = [*programs.worker(), "--beat", f"--schedule={self.home / 'schedule'}"]
        with (self.home / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                command, cwd=CHECKOUT, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def stop_worker(self) -> None:
        if self.worker is not None:
            self.worker.send_signal(signal.SIGTERM)
            self.worker.wait(30)

    def run_task(self, name: str) -> None:
        """What beat does every minute, now: `app.tasks.function`, in a process of its own."""
        module, _, function = name.rpartition(".")
        self.run(f"from {module} import {function}; {function}()")

    def run(self, code: str) -> None:
        """Python of the control plane, in a process of its own."""
        command = [sys.executable, "-c", f"import django; django.setup(); {code}"]
        subprocess.run(command, cwd=CHECKOUT, env=self.environment, check=True)

    def is_ready(self) -> bool:
        """Whether a worker answers `/readyz` with 200."""
        assert self.web.poll() is None, self.log.read_text()
        try:
            return self.ask("GET", "/readyz").status == 200
        except OSError:
            return False

    @property
    def worker_pids(self) -> list[int]:
        """The web's workers, not multiprocessing's own helper, nor one that has died and still waits to be buried."""
        commands = {pid: _command_of(pid) for pid in children_of(self.web.pid)}
        return [pid for pid, command in commands.items() if command and b"resource_tracker" not in command]

    # Asking

    def ask(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> Answer:
        """One request on a connection of its own; a body that is not bytes goes as JSON. `X_Y="…"` is header `X-Y`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            found = Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()
        self.cage.overhear(method, path, body, f"{found.headers} ".encode() + found.body)
        return found

    def embed(self, key: str, body: Any = None, **words: Any) -> Answer:
        """`POST /v1/embeddings` of `body`, or of fields given as words; headers are words that start in upper case."""
        headers = {name: words.pop(name) for name in list(words) if name[0].isupper()}
        return self.ask("POST", "/v1/embeddings", words if body is None else body, key, **headers)

    def operate(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        """A REST call that must succeed, as the operator unless a key is given."""
        answer = self.ask(method, f"/api/v1{path}", body, key or self.operator_key)
        assert answer.status < 300, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None

    # Setting up

    def add_tenant(self, slug: str) -> tuple[str, str]:
        """Id, and a key with all of the tenant's rights."""
        tenant: str = self.operate("POST", "/tenants", {"name": slug, "slug": slug})["id"]
        return tenant, self.mint(tenant, "admin")["key"]

    def mint(self, tenant: str, *scopes: str, **restrictions: Any) -> Any:
        return self.operate(
            "POST", "/api-keys", {"name": "k", "scopes": list(scopes), "tenant": tenant, **restrictions}
        )

    def add_provider(self, slug: str, base_url: str, secret: str, **settings: Any) -> None:
        words = {"slug": slug, "kind": "openai_compatible", "base_url": base_url, "secret": {"api_key": secret}}
        self.operate("POST", "/embedding-models/providers", {**words, **settings})

    def add_model(self, provider: str, name: str = "text-embedding-3-small", **facts: Any) -> str:
        """Id of an available model of 1536 dimensions at $0.02, unless told otherwise."""
        known = {
            "provider": provider,
            "model_name": name,
            "model_identifier": "text-embedding-3-small",
            "dimensions": 1536,
            "tokenizer": "cl100k_base",
            "capabilities": ["dimensions", "matryoshka"],
            "cost_per_million_tokens": "0.02",
            "activate": True,
        }
        found: str = self.operate("POST", "/embedding-models/catalog", {**known, **facts})["id"]
        return found

    def configure(self, key: str, model_id: str, **wishes: Any) -> Any:
        return self.operate("POST", "/tenant-models", {"model_id": model_id, **wishes}, key)

    # Looking

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query.encode()).fetchall()

    @property
    def redis_urls(self) -> tuple[str, str]:
        """Quiver's own, and the broker's."""
        return self.environment["REDIS_URL"], self.environment["CELERY_BROKER_URL"]

    def execute(self, statements: str) -> None:
        """Does something to the database behind the platform's back."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute(statements.encode())

    def look_into_redis(self) -> set[str]:
        """Whatever was done: every key has its line, which names a tenant that there is or is the platform's."""
        tenants = [tenant for (tenant,) in self.rows("SELECT id FROM tenants_tenant")]
        return lines_met(self.redis_urls, tenants, self.environment["QUIVER_ENCRYPTION_KEYS"])

    def look_into_stores(self) -> None:
        """For secrets: in every row, in all that Redis holds, and in the metrics."""
        for where, what in chain(rows_in(self.database_url), values_in(self.redis_urls)):
            self.cage.look(where, what)
        with suppress(OSError, http.client.HTTPException):
            self.ask("GET", "/metrics")

    def look_into_logs(self) -> None:
        for where, what in logs_in(self.home):
            self.cage.look(where, what)

    def memory_mb(self) -> float:
        """Resident memory of the workers."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.worker_pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _command_of(pid: int) -> bytes:
    """As it was started; of one that has ended meanwhile, nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
