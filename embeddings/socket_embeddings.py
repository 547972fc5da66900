"""Texts to vectors on a socket: `embedding.*` on the same gateway as HTTP, taking turns with the other agents.

Owns how a request of a socket becomes one of the gateway's, in which form its vectors go back and how many at a time,
batches, and cancelling. A binary answer has at most 4 MiB; one in text as many vectors as over HTTP. What is large
takes room until it is read (`Connection.hold`).

Failure: no turn before the deadline → as a provider that does not answer in time; nothing was sent. What is given up
before its turn costs nothing; what the gateway has begun goes on, is charged once and cached (`gateway.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import orjson
import pybase64

from core import errors
from core.clock import unix_ms
from core.errors import QuiverError
from core.ids import uuid7_text
from embeddings import answers, frames, messages, requests, rpc
from embeddings.caller import Call
from embeddings.connection import HEAVY_BYTES, Handler, Reply, Running
from embeddings.estimating import Estimates
from embeddings.gateway import Answer, Gateway
from embeddings.messages import Encoding
from embeddings.requests import EmbeddingRequest
from embeddings.turns import Turns
from providers.heavy import off_loop

R = TypeVar("R")

log = logging.getLogger(__name__)

MOST_PACKED = frames.MOST_PAYLOAD - 64 * 1024  # bytes of vectors; the rest is for what is said beside them
MOST_WRITTEN = 2_048 * 4_096  # floats of an answer in text
# Bytes of one float as it is written. Of a float in JSON it is the mean of a vector of length one, rounded up; bytes
# in text are base64.
_PACKED: Mapping[Encoding, int] = {"binary": 4, "base64": 6, "float": 9}
_WRITTEN: Mapping[Encoding, int] = {"binary": 6, "base64": 6, "float": 13}
_WIDEST = 65_536  # no model's vectors are wider


class EmbeddingMethods:
    def __init__(self, *, gateway: Gateway, estimates: Estimates, turns: Turns, deadline_s: float) -> None:
        self._gateway = gateway
        self._estimates = estimates
        self._turns = turns
        self._deadline_s = deadline_s

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            "embedding.generate": self._generate,
            "embedding.batch": self._batch,
            "embedding.cancel": self._cancel,
            "embedding.estimate": self._estimate,
        }

    async def _generate(self, running: Running, params: messages.Generate) -> Reply:
        call = self._call(running, params)
        running.request_id = call.request_id
        form = _Form(running, params.encoding)
        answer = await self._embed(running, params, call, form)
        form.check_size(answer)
        return await _off_loop_if(form.is_heavy(answer), partial(form.frame, answer))

    async def _estimate(self, running: Running, params: messages.Generate) -> Reply:
        call = self._call(running, params)
        return rpc.result(running.asked, await self._estimates.estimate(requests.checked(params.body()), call))

    async def _cancel(self, running: Running, params: messages.Cancel) -> Reply:
        connection, asked = running.connection, running.asked
        # It always comes as text, also of what was asked in a binary frame: the sequence is the id then.
        in_flight = connection.in_flight
        found = in_flight.get((False, params.id)) or in_flight.get((True, params.id))
        was_there = found is not None and await connection.give_up(found)
        return rpc.result(asked, {"id": params.id, "cancelled": was_there})

    async def _batch(self, running: Running, params: messages.Batch) -> Reply:
        ids = [item.id for item in params.items]
        if len(set(ids)) < len(ids):
            twice = next(each for each in ids if ids.count(each) > 1)
            raise errors.InvalidRequest(f"The id {twice!r} stands twice.", param="items")
        form = _Form(running, params.encoding)
        batch = _Batch(running, form, len(ids))
        found: list[dict[str, Any]] = [{}] * len(ids)
        waiting = iter(enumerate(params.items))

        async def work() -> None:
            for number, item in waiting:
                found[number] = await self._item(running, item, form, batch)

        # No more at a time than the agent has turns: thousands that wait would be a task each.
        await asyncio.gather(*(work() for _ in range(min(len(ids), self._turns.most_per_agent))))
        await batch.end()
        told = {"items": found, "completed": batch.completed, "failed": batch.failed}
        write = partial(rpc.packed, running.asked, told) if form.is_packed else partial(_written, running.asked, told)
        return await _off_loop_if(batch.size > answers.HEAVY_FLOATS, write)

    async def _item(self, running: Running, item: messages.BatchItem, form: _Form, batch: _Batch) -> dict[str, Any]:
        """The answer of one of a batch: what fails, fails alone."""
        shown: dict[str, Any] = {"id": item.id}
        try:
            answer = await self._embed(running, item, self._call(running, item), form)
            batch.take(answer, item.encoding)
            write = partial(form.of, answer, item.encoding)
            shown["result"] = await _off_loop_if(form.is_heavy(answer, item.encoding), write)
            batch.completed += 1
        except QuiverError as error:
            shown["error"] = rpc.error_of(error)
            batch.failed += 1
        except Exception:
            log.exception("socket: an item of a batch failed")
            shown["error"] = rpc.error_of(errors.InternalError("An error of ours."))
            batch.failed += 1
        batch.tell(item.id)
        return shown

    def _call(self, running: Running, params: messages.Generate) -> Call:
        created_ms, started = unix_ms(), running.started  # of a batch, all have the same time
        within_s = self._deadline_s if params.timeout_ms is None else min(self._deadline_s, params.timeout_ms / 1000)
        return Call(
            uuid7_text(created_ms),
            created_ms,
            running.key,
            running.snapshot,
            started,
            started + within_s,
            running.connection.agent_id or running.key.agent_id,
        )

    async def _embed(self, running: Running, params: messages.Generate, call: Call, form: _Form) -> Answer:
        check = partial(requests.checked, params.body())
        is_heavy = memoryview(running.asked.params).nbytes > HEAVY_BYTES
        request: EmbeddingRequest = await off_loop(check) if is_heavy else check()
        form.make_room(request, call, params.encoding)
        who = (call.snapshot.config.tenant_id, call.agent_id or running.connection.id)
        if not self._turns.try_now(who) and not await self._turns.wait(who, within_s=call.deadline - time.monotonic()):
            raise errors.ProviderTimeout("The deadline passed before it was this agent's turn.")
        try:
            if not running.is_wanted:
                raise errors.ProviderTimeout("Nobody waits for this any more.")
            return await self._gateway.embed(request, call)
        finally:
            self._turns.done(who)


class _Form:
    """In which form the vectors of one request go back, and how many can."""

    def __init__(self, running: Running, encoding: Encoding | None) -> None:
        self._running = running
        self._asked = running.asked
        self.default: Encoding = encoding or ("binary" if running.asked.is_binary else "float")
        # Bytes do not fit into text: vectors as bytes make the whole answer a binary frame.
        self.is_packed = running.asked.is_binary or self.default == "binary"

    def each(self, own: Encoding | None) -> int:
        """Bytes of one float."""
        return (_PACKED if self.is_packed else _WRITTEN)[own or self.default]

    def most(self, own: Encoding | None) -> int:
        """Floats of one answer."""
        return MOST_PACKED // self.each(own) if self.is_packed else MOST_WRITTEN

    def is_heavy(self, answer: Answer, own: Encoding | None = None) -> bool:
        """Whether it takes more than about a millisecond to write."""
        encoding = own or self.default
        return answer.vectors.size > (answers.HEAVY_FLOATS if encoding == "float" else answers.HEAVY_BASE64)

    def make_room(self, request: EmbeddingRequest, call: Call, own: Encoding | None) -> None:
        """Refuses what could not be told, or would lie here with too much that is not read, before it is paid for."""
        each, most = self.each(own), self.most(own)
        if request.items * _WIDEST * each <= MOST_PACKED:
            return
        width = request.dimensions
        if width is None:
            found = call.snapshot.by_name.get(request.model or "") or call.snapshot.choices
            width = max((c.deployment.dimensions for c in found if c.configured.is_enabled), default=0)
        size = request.items * width * each
        if request.items * width > most:
            raise errors.RequestTooLarge(
                f"At most {most // width} vectors of {width} dimensions fit into one answer in this encoding.",
                param="input",
            )
        if size > MOST_PACKED:
            self._running.connection.hold(self._running, size)

    def check_size(self, answer: Answer) -> None:
        """As `make_room`, of what has come: a fallback may be wider than the model that was named."""
        most, size = self.most(None), answer.vectors.size * self.each(None)
        if answer.vectors.size > most:
            raise errors.RequestTooLarge(
                f"At most {most // answer.dimensions} vectors of {answer.dimensions} dimensions fit into "
                "one answer; ask for fewer at a time. These are cached.",
                param="input",
            )
        if size > MOST_PACKED:
            self._running.connection.hold(self._running, size, is_cached=True)

    def frame(self, answer: Answer) -> Reply:
        if self.is_packed:
            return rpc.packed(self._asked, self.of(answer, None))
        return rpc.written(self._asked, _json(answer, self.default))

    def of(self, answer: Answer, own: Encoding | None) -> Any:
        """What goes into a map: for text, JSON that is written already."""
        encoding = own or self.default
        if not self.is_packed:
            return orjson.Fragment(_json(answer, "base64" if encoding == "binary" else encoding))
        about = _about(answer)
        if encoding == "binary":
            flat = np.ascontiguousarray(answer.vectors, dtype="<f4")
            return {"vectors": flat.tobytes(), "dimensions": answer.dimensions, "count": len(flat), **about}
        return {"data": [_shown(index, row, encoding) for index, row in enumerate(answer.vectors)], **about}


class _Batch:
    """How far a batch is, for who waits for it."""

    def __init__(self, running: Running, form: _Form, total: int) -> None:
        self._running = running
        self._form = form
        self._total = total
        self._name = ("progress", running.asked.name)
        self._last: str | int = 0
        self.completed = self.failed = self.size = 0
        self._bytes = 0

    def take(self, answer: Answer, own: Encoding | None) -> None:
        """Raises `RequestTooLarge` where the answer would not hold this one as well."""
        size, written = self.size + answer.vectors.size, self._bytes + answer.vectors.size * self._form.each(own)
        if (written > MOST_PACKED) if self._form.is_packed else (size > MOST_WRITTEN):
            raise errors.RequestTooLarge(
                "The answer of this batch is full; ask for this one again, it is cached.", param="items"
            )
        if written > MOST_PACKED:
            self._running.connection.hold(self._running, written, is_cached=True)
        self.size, self._bytes = size, written

    def tell(self, item: str | int) -> None:
        """Of what is told and not taken yet only the newest stays."""
        self._last = item
        if not self._running.is_answered and self.completed + self.failed < self._total:
            self._running.connection.notify(self._progress(), name=self._name)

    async def end(self) -> None:
        """The last word is sent and waited for, ahead of the result: what waits in the outbox may be dropped."""
        connection = self._running.connection
        connection.outbox.forget(self._name)
        if not self._running.is_answered:
            await connection.send(self._progress())

    def _progress(self) -> Reply:
        asked = self._running.asked
        far = {"completed": self.completed, "failed": self.failed, "total": self._total}
        return rpc.progress(asked, {"id": asked.id, "item": self._last, **far})


def _about(answer: Answer) -> dict[str, Any]:
    about = answers.about(answer)
    about["quiver"]["reason"] = answer.reason
    return about


def _json(answer: Answer, encoding: Encoding) -> bytes:
    data = answers.write_data(answer.vectors, base64=encoding == "base64")
    about = {"dimensions": answer.dimensions, "count": len(answer.vectors), **_about(answer)}
    return b"".join((b'{"data":[', *data, b"],", orjson.dumps(about)[1:]))


def _shown(index: int, row: Any, encoding: Encoding) -> dict[str, Any]:
    flat: Any = np.ascontiguousarray(row, dtype="<f4")
    return {"index": index, "embedding": pybase64.b64encode(flat).decode() if encoding == "base64" else flat.tolist()}


def _written(asked: rpc.Asked, told: Mapping[str, Any]) -> Reply:
    return rpc.written(asked, orjson.dumps(told))


async def _off_loop_if(is_heavy: bool, write: Callable[[], R]) -> R:
    return await off_loop(write) if is_heavy else write()
