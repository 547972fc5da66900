"""Secrets as canaries: who is caged, what of them is shown by design, and where one that escaped would be found.

Every platform of the tests (`tests.scenarios.platform`) has a cage of its own and is looked through as it ends; a story
of secrets alone is `tests.scenarios.test_canaries`.

Failure: a store that a story has stopped is not looked into; what else can be read is.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import redis

from tests.isolation.policy_redis import held_by_redis

_HEAD = 8  # bytes that are looked for first: all of Quiver's keys share theirs
_SHORTEST = 12  # a shorter one is not told from other words
_SHOWN = re.compile(rb'"(?:key|secret)": ?"((?:qv_|whsec_)[^"]+)"')
_TASK_BODY = re.compile(rb'body\\*": \\*"([A-Za-z0-9+/=]+)')
_LEAVES = """SELECT quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind = 'r'"""


@dataclass
class Cage:
    """The secrets by name, which of them were found where, and what is kept to be looked at again."""

    birds: dict[str, str] = field(default_factory=dict)
    escaped: set[tuple[str, str]] = field(default_factory=set)
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    _forms: dict[bytes, dict[bytes, str]] = field(default_factory=dict)

    def lock_in(self, birds: Mapping[str, str]) -> None:
        for name, text in birds.items():
            if len(text) < _SHORTEST:
                continue
            self.birds[name] = text
            for form in _forms_of(text):
                self._forms.setdefault(form[:_HEAD], {})[form] = name

    def look(self, where: str, what: bytes, *, shown: str = "") -> None:
        """`shown` matches the secret that belongs into this very place."""
        looked_at = re.sub(shown.encode(), b"", what) if shown else what
        self.escaped.update((name, where) for name in self._found_in(looked_at))

    def hear(self, where: str, what: bytes, *, shown: str = "") -> None:
        """Keeps it, for those secrets too that are known only later."""
        self.heard.append((where, re.sub(shown.encode(), b"", what) if shown else what))

    def look_again(self) -> None:
        for where, what in list(self.heard):
            self.look(where, what)

    def must_be_closed(self) -> None:
        assert not self.escaped, f"secrets that were found where they do not belong: {sorted(self.escaped)}"

    def overhear(self, method: str, path: str, body: Any, answer: bytes) -> None:
        """A request over REST and its answer: what is secret in either is caged; only a POST shows one, once."""
        self.lock_in({f"{text[:6]}… sent to {path}": text for text in _given_in(body)})
        shown = [text.decode() for text in _SHOWN.findall(answer)] if method == "POST" else []
        new = [text for text in shown if text not in list(self.birds.values())]
        self.look(f"{method} {path}", answer, shown="|".join(map(re.escape, new)))
        self.lock_in({f"{text[:16]}… shown by {path}": text for text in new})

    def _found_in(self, what: bytes) -> Iterator[str]:
        for head, forms in list(self._forms.items()):
            at = what.find(head)
            while at >= 0:
                yield from (name for form, name in list(forms.items()) if what.startswith(form, at))
                at = what.find(head, at + 1)


def _forms_of(text: str) -> set[bytes]:
    """In clear, or in what anybody turns back."""
    raw = text.encode()
    whole = raw[: len(raw) // 3 * 3]  # what follows does not change the digits of these
    return {raw, quote(text, safe="").encode(), raw.hex().encode(), base64.b64encode(whole)}


def _given_in(body: Any) -> Iterator[str]:
    """The secrets that a body of REST gives, at whatever depth."""
    if isinstance(body, list):
        for each in body:
            yield from _given_in(each)
    elif isinstance(body, dict):
        for name, value in body.items():
            yield from _texts_of(value) if name in ("secret", "password") else _given_in(value)


def _texts_of(secret: Any) -> Iterator[str]:
    """Of an account of a service a line of its private key; the id of a key of AWS is none."""
    if isinstance(secret, dict):
        for name, value in secret.items():
            if name != "aws_access_key_id":
                yield from _texts_of(value)
    elif isinstance(secret, str):
        with suppress(ValueError, KeyError, TypeError, IndexError):
            secret = json.loads(secret)["private_key"].splitlines()[3]
        yield secret


def logs_in(home: Path) -> Iterator[tuple[str, bytes]]:
    for log in home.glob("*.log"):
        yield f"log {log.name}", log.read_bytes()


def rows_in(database_url: str) -> Iterator[tuple[str, bytes]]:
    """All tables, each as one text."""
    with suppress(psycopg.OperationalError), psycopg.connect(database_url, connect_timeout=5) as connection:
        for (table,) in connection.execute(_LEAVES).fetchall():
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} TO STDOUT".encode()) as rows:
                yield f"table {table}", b"".join(rows)


def values_in(redis_urls: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """All that Redis holds, by key; of the tasks that wait there what they say as well."""
    for url in redis_urls:
        with suppress(redis.RedisError):
            for key, value in held_by_redis(url):
                yield "Redis", key + b" " + value
                yield from messages_in(value)


def messages_in(heard: bytes) -> Iterator[tuple[str, bytes]]:
    for body in _TASK_BODY.findall(heard):
        yield "a task's message", base64.b64decode(body)


def watch(url: str, cage: Cage, stop: threading.Event) -> threading.Thread:
    """Listens to every command that Redis is sent."""
    client: Any = redis.from_url(url, socket_timeout=1)
    ready = threading.Event()

    def listen() -> None:
        with client.monitor() as monitor:
            ready.set()
            while not stop.is_set():
                try:
                    told = monitor.connection.read_response(disconnect_on_error=False)
                except (TimeoutError, redis.TimeoutError):
                    continue
                except redis.ConnectionError:  # the platform has stopped
                    return
                cage.hear("a command to Redis", told if isinstance(told, bytes) else str(told).encode())

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert ready.wait(30)
    return thread
