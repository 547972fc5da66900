"""A server that answers every vendor's call with the same 1536 floats, prepared once. Runs beside what is measured."""

from __future__ import annotations

import asyncio
import base64
import json
import random

import uvloop

DIMENSIONS = 1536
_FLOATS = [round(random.Random(7).uniform(-0.05, 0.05), 9) for _ in range(DIMENSIONS)]


def _openai() -> dict[str, object]:
    import numpy as np

    vector = base64.b64encode(np.array(_FLOATS, "<f4").tobytes()).decode()
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


ANSWERS: dict[bytes, object] = {
    b"/token": {"access_token": "ya29.canned", "expires_in": 3600},
    b"/embeddings": _openai(),
    b"titan": {"embedding": _FLOATS, "inputTextTokenCount": 3},
    b"cohere": {"id": "e", "texts": ["x"], "response_type": "embeddings_by_type", "embeddings": {"float": [_FLOATS]}},
    b":batchEmbedContents": {"embeddings": [{"values": _FLOATS}]},
    b":predict": {
        "predictions": [{"embeddings": {"values": _FLOATS, "statistics": {"truncated": False, "token_count": 3}}}]
    },
}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-amzn-bedrock-input-token-count: 3\r\ncontent-length: "
_PREPARED = {
    mark: _HEAD + b"%d\r\n\r\n" % len(body) + body
    for mark, body in ((mark, json.dumps(answer).encode()) for mark, answer in ANSWERS.items())
}


class Canned(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            return
        self._received = b""
        target = head.split(b" ", 2)[1]
        answer = next(prepared for mark, prepared in _PREPARED.items() if mark in target)
        self._transport.write(answer)  # type: ignore[attr-defined]


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
