"""The HTTP client against a server that misbehaves on purpose, on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio

import pytest

from providers.failures import FailureKind, ProviderFailure
from providers.http_client import HttpClient
from tests.fakes.raw_http import CLOSE, HANG, OK, VANISH, RawServer, Step


async def ask(client: HttpClient, body: bytes = b"{}", timeout_s: float = 5.0) -> bytes:
    answer = await client.send(client.prepare("POST", "/embeddings"), body, timeout_s=timeout_s)
    return answer.body


async def failure_of(*connection: Step, timeout_s: float = 5.0, **options: int) -> ProviderFailure:
    async with RawServer(connection) as server:
        with pytest.raises(ProviderFailure) as caught:
            await ask(HttpClient(server.address, **options), timeout_s=timeout_s)
    return caught.value


async def test_a_call_sends_one_whole_request_and_reads_one_whole_answer() -> None:
    async with RawServer([OK]) as server:
        client = HttpClient(server.address + "/v1/", headers={"authorization": "Bearer k"})

        answer = await client.send(client.prepare("POST", "/embeddings"), b'{"a":1}', timeout_s=5)

    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.header(b"x-request-id") == "Req_1"
    assert answer.header(b"retry-after") == ""
    [request] = server.requests
    assert request.startswith(b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % server.port)
    assert b"\r\nauthorization: Bearer k\r\n" in request
    assert b"\r\naccept-encoding: identity\r\n" in request
    assert request.endswith(b'\r\ncontent-length: 7\r\n\r\n{"a":1}')


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with RawServer([OK, OK, OK]) as server:
        client = HttpClient(server.address)

        bodies = [await ask(client) for _ in range(3)]

    assert bodies == [b"{}"] * 3
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nContent-Encoding: identity\r\n\r\nhello world",
        b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
        b"\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
    ],
    ids=["chunked", "chunk extensions and trailers", "identity", "early hints", "leading empty lines"],
)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_every_legal_framing_is_read_however_it_arrives(answer: bytes, piece: int) -> None:
    pieces = [answer[start : start + piece] for start in range(0, len(answer), piece)]
    async with RawServer([pieces, OK]) as server:
        client = HttpClient(server.address)

        assert await ask(client) == b"hello world"
        assert await ask(client) == b"{}"

    assert server.connections == 1


async def test_connection_close_is_obeyed() -> None:
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
    async with RawServer([closing], [OK]) as server:
        client = HttpClient(server.address)

        await ask(client)
        await ask(client)

    assert server.connections == 2
    assert client.statistics()["resent"] == 0


async def test_a_reused_connection_that_was_closed_unanswered_is_replaced_once() -> None:
    async with RawServer([OK, CLOSE], [OK]) as server:
        client = HttpClient(server.address)

        await ask(client)
        assert await ask(client) == b"{}"

    assert client.statistics() == {"busy": 0, "idle": 1, "waiting": 0, "opened": 2, "resent": 1}


async def test_a_reused_connection_is_not_replaced_twice() -> None:
    async with RawServer([OK, CLOSE], [CLOSE]) as server:
        client = HttpClient(server.address)
        await ask(client)

        with pytest.raises(ProviderFailure) as caught:
            await ask(client)

    assert caught.value.kind is FailureKind.DISCONNECTED
    assert len(server.requests) == 3


async def test_a_fresh_connection_that_is_closed_unanswered_is_a_failure() -> None:
    async with RawServer([CLOSE], [OK]) as server:
        with pytest.raises(ProviderFailure) as caught:
            await ask(HttpClient(server.address))

    assert caught.value.kind is FailureKind.DISCONNECTED
    assert len(server.requests) == 1


async def test_a_reused_connection_that_broke_within_its_answer_is_a_failure() -> None:
    async with RawServer([OK, [b"HTTP/1.1 200 OK\r\ncontent-le", CLOSE]], [OK]) as server:
        client = HttpClient(server.address)
        await ask(client)

        with pytest.raises(ProviderFailure) as caught:
            await ask(client)

    assert caught.value.kind is FailureKind.DISCONNECTED
    assert client.statistics()["resent"] == 0


async def test_a_server_that_went_away_after_it_took_the_request_is_not_called_unreachable() -> None:
    async with RawServer([OK, VANISH]) as server:
        client = HttpClient(server.address)
        await ask(client)

        with pytest.raises(ProviderFailure) as caught:
            await ask(client)

    assert caught.value.kind is FailureKind.DISCONNECTED
    assert caught.value.detail.startswith("closed unanswered, then cannot connect")
    assert caught.value.meaning.maybe_billed


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", "the body exceeds 100 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n",
            "the body exceeds 100 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "the headers exceed 65536 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: " + b"y" * 70_000 + b"\r\n\r\n{}",
            "the headers exceed 65536 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", "compressed"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", "not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", "not HTTP/1.1"),
        (OK + b"HTTP/1.1 200 OK\r\n", "more bytes than one answer"),
        (OK + OK, "more bytes than one answer"),
    ],
)
async def test_an_answer_that_breaks_a_rule_is_refused_at_once(answer: bytes, detail: str) -> None:
    failure = await failure_of(answer, max_answer_bytes=100)

    assert failure.kind is FailureKind.BAD_ANSWER
    assert detail in failure.detail


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}", b"HTTP/1.1 200 O"],
    ids=["no length", "shorter than promised", "within the status line"],
)
async def test_an_answer_that_only_ends_with_the_connection_is_broken(answer: bytes) -> None:
    failure = await failure_of([answer, CLOSE])

    assert failure.kind is FailureKind.DISCONNECTED


async def test_the_deadline_covers_a_silent_server() -> None:
    failure = await failure_of(HANG, timeout_s=0.1)

    assert failure.kind is FailureKind.TIMEOUT


async def test_the_deadline_covers_a_body_that_never_ends() -> None:
    failure = await failure_of(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", timeout_s=0.1)

    assert failure.kind is FailureKind.TIMEOUT


async def test_nobody_listens() -> None:
    async with RawServer([OK]) as server:
        address = server.address

    with pytest.raises(ProviderFailure) as caught:
        await ask(HttpClient(address))

    assert caught.value.kind is FailureKind.UNREACHABLE
    assert not caught.value.meaning.maybe_billed


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".invalid"])
async def test_a_name_that_does_not_resolve_is_unreachable(host: str) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await ask(HttpClient(f"http://{host}"))

    assert caught.value.kind is FailureKind.UNREACHABLE


async def test_a_connection_that_takes_too_long_is_unreachable() -> None:
    async with RawServer([OK]) as server:
        client = HttpClient(server.address, connect_timeout_s=0)

        with pytest.raises(ProviderFailure) as caught:
            await ask(client)

    assert caught.value.kind is FailureKind.UNREACHABLE
    assert server.requests == []


async def test_callers_beyond_the_connections_wait_their_turn() -> None:
    async with RawServer([OK] * 20) as server:
        client = HttpClient(server.address, max_connections=1)

        bodies = await asyncio.gather(*(ask(client) for _ in range(20)))

    assert bodies == [b"{}"] * 20
    assert server.connections == 1
    assert client.statistics()["busy"] == 0


async def test_a_caller_whose_turn_never_comes_is_told_that_nothing_was_sent() -> None:
    async with RawServer([HANG]) as server:
        client = HttpClient(server.address, max_connections=1)
        first = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0)

        with pytest.raises(ProviderFailure) as caught:
            await ask(client, timeout_s=0.1)
        first.cancel()
        await asyncio.wait([first])

    assert caught.value.kind is FailureKind.BUSY
    assert client.statistics() == {"busy": 0, "idle": 0, "waiting": 0, "opened": 1, "resent": 0}


async def test_a_cancelled_call_closes_its_connection_and_frees_its_place() -> None:
    async with RawServer([HANG], [OK]) as server:
        client = HttpClient(server.address, max_connections=1)
        first = asyncio.ensure_future(ask(client))
        waiting = asyncio.ensure_future(ask(client))
        await server.asked.get()

        first.cancel()

        assert await waiting == b"{}"
        await asyncio.wait_for(server.hung_up.wait(), 5)
    assert server.connections == 2


async def test_a_waiting_caller_that_is_cancelled_takes_nobodys_place() -> None:
    async with RawServer([OK] * 3) as server:
        client = HttpClient(server.address, max_connections=1)
        first, second, third = (asyncio.ensure_future(ask(client)) for _ in range(3))
        await asyncio.sleep(0)

        second.cancel()

        assert await first == await third == b"{}"
    assert client.statistics()["busy"] == client.statistics()["waiting"] == 0


async def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    async with RawServer([OK], [OK]) as server:
        client = HttpClient(server.address)
        await ask(client)

        server._writers[0].write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")
        await asyncio.wait_for(server.hung_up.wait(), 5)

        assert client.statistics()["idle"] == 0
        assert await ask(client) == b"{}"


async def test_idle_connections_expire() -> None:
    async with RawServer([OK], [OK]) as server:
        client = HttpClient(server.address, idle_s=0.05)
        await ask(client)

        await asyncio.wait_for(server.hung_up.wait(), 5)

    assert client.statistics()["idle"] == 0


async def test_a_closed_client_lets_calls_finish_and_keeps_nothing() -> None:
    async with RawServer([OK]) as server:
        client = HttpClient(server.address)
        under_way = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0)

        client.close()

        assert await under_way == b"{}"
        await asyncio.wait_for(server.hung_up.wait(), 5)
    assert client.statistics()["idle"] == 0


async def test_a_redirect_is_handed_back_not_followed() -> None:
    async with RawServer([b"HTTP/1.1 307 T\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"]) as server:
        client = HttpClient(server.address)

        answer = await client.send(client.prepare("POST", "/x"), b"", timeout_s=5)

    assert answer.status == 307


@pytest.mark.parametrize(
    "address",
    ["ftp://a", "https://", "a.example", "http://user:pw@a", "http://a/?q=1", "http://ä.example", "http://a:99999"],
)
def test_addresses_that_cannot_be_called_are_refused(address: str) -> None:
    with pytest.raises(ValueError):
        HttpClient(address)


@pytest.mark.parametrize("value", ["k\r\nx: y", "k\n", "k\0", "ключ"])
def test_a_secret_cannot_become_a_header(value: str) -> None:
    with pytest.raises(ValueError) as caught:
        HttpClient("http://a", headers={"authorization": value})

    assert value not in str(caught.value)


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx: y", "a"])
def test_a_path_cannot_become_a_request(path: str) -> None:
    with pytest.raises(ValueError):
        HttpClient("http://a").prepare("POST", path)
