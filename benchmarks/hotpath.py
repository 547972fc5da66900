"""What a request costs the web worker, beside what a bare answer costs the same server in the same run.

Every text is distinct, so every request is tokenised, sent upstream, checked, priced and committed.
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
    dimensions: int
    encoding: str

    @property
    def body(self) -> str:
        texts = [f"distinct text {{n}} number {i} of some words" for i in range(self.items)]
        # wrk's script replaces the first mark only; one distinct text makes the request distinct.
        texts[1:] = [text.replace("{n}", "x") for text in texts[1:]]
        asked = {"input": texts, "model": "text-embedding-3-small", "dimensions": self.dimensions}
        return json.dumps({**asked, "encoding_format": self.encoding})


CASES = (
    Case("1x256 base64", 1, 256, "base64"),
    Case("1x256 float", 1, 256, "float"),
    Case("1x1536 base64", 1, 1536, "base64"),
    Case("1x1536 float", 1, 1536, "float"),
    Case("32x1536 base64", 32, 1536, "base64"),
    Case("32x1536 float", 32, 1536, "float"),
)


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
        measured = _load(f"{running.base_url}/v1/embeddings", case.body, running.key, seconds, running.worker)
        _line(case.name, measured, floor)
        rss = max(rss, _rss_mb(running.worker)) if case.items == 1 else rss
    print(f"RSS of the worker, OpenAI route warm: {rss:.0f} MB; after 32x1536: {_rss_mb(running.worker):.0f} MB")
    before = _rss_mb(running.worker)
    _embed_locally(running)
    print(f"RSS once the local model is loaded: {_rss_mb(running.worker) - before:+.0f} MB")


def _line(name: str, measured: Measured, floor: Measured) -> None:
    print(
        f"{name:<16}{measured.per_second:>11.0f}{measured.p50_ms:>9.2f}{measured.p99_ms:>9.2f}"
        f"{measured.cpu_us:>9.0f}{measured.cpu_us / floor.cpu_us:>9.1f}{measured.failed:>8}"
    )


def _load(url: str, body: str, key: str, seconds: float, pid: int) -> Measured:
    environment = os.environ | {"BODY": body, "AUTH": key}
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(HERE / "post.lua"), url]
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
