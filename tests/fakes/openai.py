"""A fake OpenAI over real HTTP: embeddings and models. Switches and faults: see `tests.fakes.server`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from aiohttp import web

from tests.fakes.openai_model import MODELS, Refusal, count_tokens, expected_vector, read_items, read_model
from tests.fakes.server import WIRE_FAULTS, FakeServer, main
from tests.fakes.vectors import turned

Data = list[dict[str, Any]]


def _changed(data: Data, value: object) -> Data:
    return [{**data[0], "embedding": value}, *data[1:]]


def _as_floats(data: Data) -> Data:
    return [
        {**each, "embedding": np.frombuffer(base64.b64decode(each["embedding"]), "<f4").tolist()}
        if isinstance(each["embedding"], str)
        else each
        for each in data
    ]


def _width(data: Data) -> int:
    return len(_as_floats(data)[0]["embedding"])


# Faults of the answer's content: from the right `data` to a wrong one.
CONTENT_FAULTS: dict[str, Callable[[Data], Data]] = {
    "empty_data": lambda data: [],
    "fewer": lambda data: data[:-1],
    "more": lambda data: [*data, {**data[-1], "index": len(data)}],
    "shuffled": lambda data: data[::-1],
    "duplicate_index": lambda data: [{**each, "index": 0} for each in data],
    "index_out_of_range": lambda data: [{**each, "index": each["index"] + 1} for each in data],
    "index_missing": lambda data: [{key: each[key] for key in each if key != "index"} for each in data],
    "wrong_width": lambda data: [{**each, "embedding": each["embedding"][:-1]} for each in _as_floats(data)],
    "string_numbers": lambda data: [
        {**each, "embedding": [str(number) for number in each["embedding"]]} for each in _as_floats(data)
    ],
    "mixed_width": lambda data: _changed(_as_floats(data), _as_floats(data)[0]["embedding"][:-1]),
    "zero_vector": lambda data: _changed(data, [0.0] * _width(data)),
    "nan_base64": lambda data: _changed(
        data, base64.b64encode(np.full(_width(data), np.nan, "<f4").tobytes()).decode()
    ),
    "not_base64": lambda data: _changed(data, "*" * 1024),
    "torn_base64": lambda data: _changed(data, base64.b64encode(b"12345").decode()),
    "null_vector": lambda data: _changed(data, None),
    "nan": lambda data: _changed(data, [float("nan"), float("nan")]),  # a bare word, which is no JSON
    "ignores_base64": _as_floats,
}
USAGE_FAULTS: dict[str, object] = {
    "usage_missing": None,
    "usage_negative": {"prompt_tokens": -5, "total_tokens": -5},
    "usage_huge": {"prompt_tokens": 10**15, "total_tokens": 10**15},
    "usage_text": {"prompt_tokens": "8", "total_tokens": "8"},
}


@dataclass
class FakeOpenAI(FakeServer):
    FAULTS: ClassVar[frozenset[str]] = WIRE_FAULTS | CONTENT_FAULTS.keys() | USAGE_FAULTS.keys() | {"counts_double"}

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.post("/v1/embeddings", self.embeddings),
            web.get("/v1/models", self.models),
            web.get("/info", self.info),
        ]

    async def info(self, request: web.Request) -> web.StreamResponse:
        """What a text-embeddings-inference server tells of itself; for others, nothing is here."""
        told = self.switches.info
        return web.json_response(told) if told else web.Response(status=404, text="Not Found")

    async def models(self, request: web.Request) -> web.StreamResponse:
        if self.switches.info:
            return web.Response(status=404)
        data = [{"id": name, "object": "model", "created": 1705948997, "owned_by": "fake"} for name in MODELS]
        return await self.listed(request, {"object": "list", "data": data})

    def authenticate(self, request: web.Request, body: bytes) -> None:
        given = request.headers.get("authorization", "")
        if self.switches.key and given != f"Bearer {self.switches.key}":
            # As OpenAI does, the message repeats a part of the key.
            message = f"Incorrect API key provided: {given.removeprefix('Bearer ')}."
            raise Refusal(401, message, code="invalid_api_key")

    def items(self, payload: dict[str, Any]) -> int:
        raw = payload.get("input")
        return len(raw) if isinstance(raw, list) else 1

    def answer(self, request: web.Request, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        model, dimensions = read_model(payload)
        items = read_items(payload)
        if self.is_poisoned(items):
            raise Refusal(400, f"The text {self.switches.poison!r} was refused.", param="input")
        if fault == "ignores_dimensions":
            dimensions = None
        vectors = [turned(expected_vector(model, item, dimensions), self.switches.turned_by) for item in items]
        as_base64 = payload.get("encoding_format", "float") == "base64"
        data: Data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(count_tokens(item) for item in items)
        if fault == "counts_double":
            tokens *= 2
        usage: object = {"prompt_tokens": tokens, "total_tokens": tokens}
        if fault in CONTENT_FAULTS:
            data = CONTENT_FAULTS[fault](data)
        if fault in USAGE_FAULTS:
            usage = USAGE_FAULTS[fault]
        return {"object": "list", "data": data, "model": model, "usage": usage}


if __name__ == "__main__":
    main(FakeOpenAI, __doc__)
