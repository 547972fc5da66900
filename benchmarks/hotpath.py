"""What a request costs the web worker, beside what a bare answer costs the same server in the same run.

Every text is distinct, so every request is looked up in the cache, held, sent upstream, checked, committed and settled;
but for the case that is all hits. Then what sharing calls brings at a provider that takes 20 ms and has four slots, and
what is added to a call where nobody else asks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def body(self) -> str:
        mark = "the same" if self.is_hit else "{n}"
        texts = [f"distinct text {mark} number {i} of some words" for i in range(self.items)]
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
SLOTS, CROWD = 4, 256


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
    print(f"{'case':<16}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}{'x floor':>9}{'failed':>8}")
    warm = CASES[0]
    _load(f"{running.base_url}/v1/embeddings", warm.body, running.key, 2.0, running.worker)
    floor = _load(running.floor_url, warm.body, "", seconds, running.floor)
    _line("bare ASGI floor", floor, floor)
    rss = 0.0
    for case in CASES:
        key = running.limited_key if case.is_limited else running.key
        measured = _load(f"{running.base_url}/v1/embeddings", case.body, key, seconds, running.worker)
        _line(case.name, measured, floor)
        rss = max(rss, _rss_mb(running.worker)) if case.items == 1 else rss
    print(f"RSS of the worker, OpenAI route warm: {rss:.0f} MB; after 32x1536: {_rss_mb(running.worker):.0f} MB")
    _share(running, seconds)
    _add(running, seconds)
    before = _rss_mb(running.worker)
    _embed_locally(running)
    print(f"RSS once the local model is loaded: {_rss_mb(running.worker) - before:+.0f} MB")


def _share(running: Platform, seconds: float) -> None:
    print(f"{CROWD} connections of one tenant, {SLOTS} slots, 20 ms upstream")
    for name, model in (("each alone", "slow-alone"), ("shared calls", "slow-shared")):
        before = _count(running.slow_upstream)
        case = Case(name, 1, 0, "base64", model=model)
        url = f"{running.base_url}/v1/embeddings"
        measured = _load(url, case.body, running.key, seconds, running.worker, CROWD)
        calls = (_count(running.slow_upstream) - before) / max(1, measured.requests) * 1000
        print(f"{name:<16}{measured.per_second:>11.0f} requests/s {calls:>9.0f} provider calls per 1,000 requests")


def _add(running: Platform, seconds: float) -> None:
    """The median of one connection, through Quiver and directly at the stand-in; the commit of a row is in it."""
    case = Case("", 1, 0, "base64", model="slow-shared")
    url = f"{running.base_url}/v1/embeddings"
    through = _load(url, case.body, running.key, seconds, running.worker, 1)
    direct = _load(f"{running.slow_upstream}/v1/embeddings", case.body, "", seconds, running.worker, 1)
    print(
        f"one connection: p50 {through.p50_ms:.2f} ms through Quiver, {direct.p50_ms:.2f} ms directly: "
        f"{through.p50_ms - direct.p50_ms:.2f} ms added, a commit among them"
    )


def _count(upstream: str) -> int:
    calls: int = json.loads(urllib.request.urlopen(f"{upstream}/count", timeout=10).read())["calls"]
    return calls


def _line(name: str, measured: Measured, floor: Measured) -> None:
    print(
        f"{name:<16}{measured.per_second:>11.0f}{measured.p50_ms:>9.2f}{measured.p99_ms:>9.2f}"
        f"{measured.cpu_us:>9.0f}{measured.cpu_us / floor.cpu_us:>9.1f}{measured.failed:>8}"
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
        cpu_us=spent / told["n"] * 1e6,
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
