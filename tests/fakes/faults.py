"""The faults of providers by name: one table of how each is provoked and what it means for the caller.

`FAULTS[name].switches[vendor]` are words for the vendor's fake (`tests.fakes.server`); a vendor that is not listed
cannot have the fault: no indexes in its answers, or no count of tokens. Where `place` is set the fault is not in an
answer but in the address: `Street` has one of each kind.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cryptography import x509

from config.up.ports import free_port
from tests.fakes.certificates import DAY, LOOPBACK, Certificate
from tests.fakes.raw_http import OK, RawServer
from tests.fakes.server import FakeServer

Words = Mapping[str, Any]
F = TypeVar("F", bound=FakeServer)
T = TypeVar("T")

FAILED, LATE, FULL = ("provider_error",), ("provider_timeout",), ("provider_capacity", "no_model_available")
RIGHT: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """`codes`: what the caller may be told if nobody else may answer; none: it gets the right vectors all the same."""

    codes: tuple[str, ...]
    switches: Mapping[str, Words]
    place: str = ""
    is_silent: bool = False  # only a deadline ends it
    is_lasting: bool = False  # later calls are met otherwise, or not made

    @property
    def needs_own_provider(self) -> bool:
        """Else a fake has it for some texts (`by_text`)."""
        return bool(self.place) or self.is_silent or self.is_lasting


def _everywhere(**words: Any) -> dict[str, Words]:
    return dict.fromkeys(("openai", "bedrock", "google"), words)


def _answer(fault: str, **words: Any) -> dict[str, Words]:
    return _everywhere(fault=fault, **words)


def _status(status: int, **words: Any) -> dict[str, Words]:
    return _everywhere(fault="status", status=status, **words)


def _count(fault: str) -> dict[str, Words]:
    return {"openai": {"fault": f"usage_{fault}"}, "bedrock": {"fault": f"tokens_{fault}"}}  # Google counts nothing


def _indexes(fault: str) -> dict[str, Words]:
    return {"openai": {"fault": fault}}  # nobody else's answers have indexes


FAULTS: Mapping[str, Fault] = {
    # The address
    "refused": Fault(FAILED, _everywhere(), "nobody"),
    "dns": Fault(FAILED, _everywhere(), "nowhere"),
    "tls_wrong_name": Fault(FAILED, _everywhere(), "somebody_else"),
    "tls_expired": Fault(FAILED, _everywhere(), "expired"),
    "connect_hang": Fault(FAILED, _everywhere(), "crowded", is_silent=True),
    # The wire
    "header_hang": Fault(LATE, _answer("hang"), is_silent=True),
    "body_drip": Fault(LATE, _answer("drip"), is_silent=True),
    "reset_after_headers": Fault(FAILED, _answer("reset_after_headers")),
    "reset_in_body": Fault(FAILED, _answer("reset_in_body")),
    "short_body": Fault(FAILED, _answer("short_body")),
    "body_of_60_mb": Fault(FAILED, _answer("huge_body", huge_bytes=60_000_000)),
    "gzip_bomb": Fault(FAILED, _answer("gzip_bomb")),
    "redirect_inside": Fault(FAILED, _answer("redirect")),
    # The answer
    "html": Fault(FAILED, _answer("html")),
    "invalid_json": Fault(FAILED, _answer("invalid_json")),
    "nan": Fault(FAILED, _answer("nan")),
    "empty_data": Fault(FAILED, _answer("empty_data")),
    "fewer_vectors": Fault(FAILED, _answer("fewer")),
    "more_vectors": Fault(FAILED, _answer("more")),
    "shuffled_indexes": Fault(RIGHT, _indexes("shuffled")),
    "duplicate_indexes": Fault(FAILED, _indexes("duplicate_index")),
    "wrong_width": Fault(FAILED, _answer("wrong_width")),
    "mixed_widths": Fault(FAILED, _answer("mixed_width")),
    "numbers_as_strings": Fault(FAILED, _answer("string_numbers")),
    "zero_vector": Fault(FAILED, _answer("zero_vector")),
    "usage_missing": Fault(RIGHT, _count("missing")),
    "usage_negative": Fault(RIGHT, _count("negative")),
    "usage_huge": Fault(RIGHT, _count("huge")),
    # The status
    # In each vendor's own words, which repeat what was sent.
    "401": Fault(FAILED, _everywhere(key="another one"), is_lasting=True),
    "429_retry_after_1": Fault(FULL, _status(429, retry_after="1"), is_lasting=True),
    "429_retry_after_3600": Fault(FULL, _status(429, retry_after="3600"), is_lasting=True),
    "429_retry_after_date": Fault(FULL, _status(429, retry_after="Fri, 31 Dec 2100 23:59:59 GMT"), is_lasting=True),
    "429_retry_after_garbage": Fault(FULL, _status(429, retry_after="soon"), is_lasting=True),
    "500": Fault(FAILED, _status(500)),
    "503": Fault(FAILED, _status(503)),
}


class Street:
    """Any number of fakes in one thread, and the addresses where something is wrong before anybody answers.

    `with Street(folder) as street`: `street.fake(FakeOpenAI())` starts one; `street.address(place)` is where a fault's
    place is; `street.trust` is a file of the certificates that clients should trust; `street.inside` counts who came to
    a host that no provider should send us to.
    """

    def __init__(self, folder: Path) -> None:
        ends = datetime.now(UTC)
        other = x509.DNSName("other.example")
        self._other = Certificate(folder, other, ends=ends + DAY, file="other.pem")
        self._old = Certificate(folder, LOOPBACK, ends=ends - DAY, file="old.pem")
        self.trust = folder / "trust.pem"
        self.trust.write_bytes(self._other.path.read_bytes() + self._old.path.read_bytes())
        self.inside = RawServer([OK])
        self._fakes: list[FakeServer] = []

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        somebody_else = RawServer([OK], tls=self._other.server())
        expired = RawServer([OK], tls=self._old.server())
        self._raw = (self.inside, somebody_else, expired)
        for each in self._raw:
            self._run(each.__aenter__())
        self._crowded = _Crowded()
        self._places = {
            "nobody": f"http://127.0.0.1:{free_port()}",
            "nowhere": "http://no-such-provider.invalid",
            "somebody_else": somebody_else.address,
            "expired": expired.address,
            "crowded": f"http://127.0.0.1:{self._crowded.port}",
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._crowded.close()
        for raw in self._raw:
            self._run(raw.__aexit__(None, None, None))
        for fake in self._fakes:
            self._run(fake.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def fake(self, fake: F) -> F:
        self._run(fake.start())
        self._fakes.append(fake)
        return fake

    def address(self, place: str) -> str:
        return self._places[place]

    def _run(self, act: Awaitable[T]) -> T:
        async def run() -> T:
            return await act

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)


class _Crowded:
    """A port whose queue is full, so that who connects hears nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port: int = self._listener.getsockname()[1]
        self._queue = [socket.socket() for _ in range(4)]
        for each in self._queue:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(("127.0.0.1", self.port))

    def close(self) -> None:
        for each in (*self._queue, self._listener):
            each.close()
