"""What a request costs the web worker, beside what a bare answer costs the same server in the same run.

Every text is distinct, so every request is looked up in the cache, held, sent upstream, checked, committed and settled;
but for the case that is all hits. Then what is saved where texts come again, what sharing calls brings at a provider
that takes 20 ms and has four slots, and what is added to a call where nobody else asks.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.platform import HERE, Missing, Platform, platform

_TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 16


@dataclass(frozen=True)
class Case:
    name: str
    items: int
    dimensions: int  # 0: the model's own
    encoding: str
    model: str = "text-embedding-3-small"
    is_hit: bool = False
    is_limited: bool = False
    repeats: int = 1  # so many times each text stands in a request
    mark: str = "{n}"  # distinct in each request

    @property
    def body(self) -> str:
        mark = "the same" if self.is_hit else self.mark
        texts = self.repeats * [f"distinct text {mark} number {i} of some words" for i in range(self.items)]
        asked = {"input": texts, "model": self.model, "encoding_format": self.encoding}
        return json.dumps(asked | ({"dimensions": self.dimensions} if self.dimensions else {}))


CASES = (
    Case("1x256 base64", 1, 256, "base64"),
    Case("1x256 float", 1, 256, "float"),
    Case("1x1536 base64", 1, 1536, "base64"),
    Case("1x1536 float", 1, 1536, "float"),
    Case("32x1536 base64", 32, 1536, "base64"),
    Case("32x1536 float", 32, 1536, "float"),
    Case("100x1536 base64", 100, 1536, "base64"),
    Case("100x1536 float", 100, 1536, "float"),
    Case("1x256 hit", 1, 256, "base64", is_hit=True),
    Case("1x256 5 limits", 1, 256, "base64", is_limited=True),
    Case("1x256 again", 1, 256, "base64"),
)
REPEATING = (
    Case("8 texts, 4 times each", 8, 256, "base64", repeats=4),
    Case("1 text in 8 requests", 1, 256, "base64", mark="{eighth}"),
)
SLOTS, CROWD, COMMITS = 4, 256, 200


@dataclass(frozen=True)
class Measured:
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int


def main(*, seconds: float) -> None:
    if not Path("/proc/self/stat").exists():
        sys.exit("This reads CPU times from /proc, so it needs Linux.")
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        try:
            with platform(Path(directory)) as running:
                _report(running, seconds)
        except Missing as missing:
            sys.exit(str(missing))


def _report(running: Platform, seconds: float) -> None:
    print(f"{CONNECTIONS} connections, {seconds:g} s each, one worker; a request is charged and committed")
    print(
        f"{'case':<16}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}{'x floor':>9}{'failed':>8}"
        f"{'calls per 1,000':>17}"
    )
    warm = CASES[0]
    _load(f"{running.base_url}/v1/embeddings", warm.body, running.key, 2.0, running.worker)
    floor = _load(running.floor_url, warm.body, "", seconds, running.floor)
    _line("bare ASGI floor", floor, floor, 0)
    rss, spent = 0.0, dict[str, float]()
    for case in CASES:
        calls = _counted(running.upstream, "calls")
        measured = _ask(running, case, seconds)
        _line(case.name, measured, floor, _counted(running.upstream, "calls") - calls)
        spent[case.name] = measured.cpu_us
        rss = max(rss, _rss_mb(running.worker)) if case.items == 1 else rss
    print(f"five limits add {spent['1x256 5 limits'] - spent['1x256 again']:.0f} µs")
    print(f"RSS of the worker, OpenAI route warm: {rss:.0f} MB; after 32x1536: {_rss_mb(running.worker):.0f} MB")
    _save(running, seconds)
    _share(running, seconds)
    _add(running, seconds)
    before = _rss_mb(running.worker)
    _embed_locally(running)
    print(f"RSS once the local model is loaded: {_rss_mb(running.worker) - before:+.0f} MB")


def _ask(running: Platform, case: Case, seconds: float, connections: int = CONNECTIONS) -> Measured:
    key = running.limited_key if case.is_limited else running.key
    return _load(f"{running.base_url}/v1/embeddings", case.body, key, seconds, running.worker, connections)


def _save(running: Platform, seconds: float) -> None:
    """Texts that come again: in one request, in those under way, in those before."""
    print("duplicate texts saved, of 1,000 asked for")
    for case in REPEATING:
        before = _counted(running.upstream, "inputs")
        asked = _ask(running, case, seconds).requests * case.items * case.repeats
        sent = _counted(running.upstream, "inputs") - before
        print(f"{case.name:<24}{(1 - sent / max(1, asked)) * 1000:>6.0f}")


def _share(running: Platform, seconds: float) -> None:
    print(f"{CROWD} connections of one tenant, {SLOTS} slots, 20 ms upstream")
    for name, model in (("each alone", "slow-alone"), ("shared calls", "slow-shared")):
        before = _counted(running.slow_upstream, "calls")
        measured = _ask(running, Case(name, 1, 0, "base64", model=model), seconds, CROWD)
        calls = (_counted(running.slow_upstream, "calls") - before) / max(1, measured.requests) * 1000
        print(f"{name:<16}{measured.per_second:>11.0f} requests/s {calls:>9.0f} provider calls per 1,000 requests")


def _add(running: Platform, seconds: float) -> None:
    """Medians of one connection: through Quiver, directly at the stand-in, and of a commit on this disk."""
    alone, shared = (
        _ask(running, Case("", 1, 0, "base64", model=model), seconds, 1).p50_ms
        for model in ("slow-alone", "slow-shared")
    )
    body = Case("", 1, 0, "base64").body
    direct = _load(f"{running.slow_upstream}/v1/embeddings", body, "", seconds, running.worker, 1).p50_ms
    commit = _commit_ms(running.database_url)
    print(
        f"one connection: p50 {shared:.2f} ms through Quiver, {direct:.2f} ms directly, {commit:.2f} ms a commit: "
        f"{shared - direct - commit:.2f} ms added beside it; sharing calls adds {shared - alone:.2f} ms"
    )


def _commit_ms(database_url: str) -> float:
    """The median of a transaction that writes one row."""
    took = []
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS benchmark_commits (n bigint)")
        for number in range(COMMITS):
            began = time.perf_counter()
            connection.execute("INSERT INTO benchmark_commits VALUES (%s)", [number], prepare=True)
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def _counted(upstream: str, what: str) -> int:
    """`calls` or `inputs` since the stand-in began."""
    found: int = json.loads(urllib.request.urlopen(f"{upstream}/count", timeout=10).read())[what]
    return found


def _line(name: str, measured: Measured, floor: Measured, calls: int) -> None:
    print(
        f"{name:<16}{measured.per_second:>11.0f}{measured.p50_ms:>9.2f}{measured.p99_ms:>9.2f}"
        f"{measured.cpu_us:>9.0f}{measured.cpu_us / floor.cpu_us:>9.1f}{measured.failed:>8}"
        f"{calls / max(1, measured.requests) * 1000:>17.0f}"
    )


def _load(url: str, body: str, key: str, seconds: float, pid: int, connections: int = CONNECTIONS) -> Measured:
    environment = os.environ | {"BODY": body, "AUTH": key}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(HERE / "post.lua"), url]
    before = _cpu_seconds(pid)
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    spent = _cpu_seconds(pid) - before
    told = json.loads(output.partition("JSON ")[2])
    return Measured(
        requests=told["n"],
        per_second=told["n"] / told["dur"],
        p50_ms=told["p50"],
        p99_ms=told["p99"],
        cpu_us=spent / max(1, told["n"]) * 1e6,
        failed=told["err"] + told["bad"],
    )


def _embed_locally(running: Platform) -> None:
    body = json.dumps({"input": "a text for the local model", "model": "wordllama-256"}).encode()
    headers = {"Authorization": f"Bearer {running.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{running.base_url}/v1/embeddings", body, headers)
    urllib.request.urlopen(request, timeout=30).read()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
