"""Statements that one connection runs again and again, without what psycopg does around each of them.

Most of what `execute` costs is cursors, and a socket that is watched anew for each statement. Here the socket is
watched as long as the connection lives, and a statement is prepared once. Opening, signing in and closing stay
psycopg's.

Failure: raises psycopg's errors, as `execute` does; after an `OperationalError` the connection is of no more use.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus


class Statements:
    """Runs one statement at a time; whoever uses it uses the connection for nothing else."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._wire = connection.pgconn
        self._socket = connection.fileno()
        self._loop = asyncio.get_running_loop()
        self._prepared: dict[str, bytes] = {}
        self._outcome: asyncio.Future[None] | None = None
        self._error: psycopg.Error | None = None
        self._is_writing = False
        self._is_closed = False
        self._loop.add_reader(self._socket, self._read)

    async def run(self, sql: str, parameters: Sequence[bytes]) -> None:
        """Runs `sql`, with its parameters (`%s`) as text; what it returns is dropped."""
        self._check()
        name = self._prepared.get(sql)
        if name is None:
            name, numbers = b"quiver_%d" % len(self._prepared), itertools.count(1)
            self._wire.send_prepare(name, re.sub("%s", lambda _: f"${next(numbers)}", sql).encode())
            await self._done()
            self._check()
            self._prepared[sql] = name
        self._wire.send_query_prepared(name, parameters)
        await self._done()

    def give_up(self) -> None:
        """Fails what runs, with an `OperationalError`: its server says nothing any more."""
        self.close()
        self._end(psycopg.OperationalError("no answer in time"))

    def close(self) -> None:
        """Lets go of the socket, once: when libpq has closed it, its number may be somebody else's."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    def _check(self) -> None:
        """Nobody would hear an answer to what is sent after the end: it may be given up as its last one arrives."""
        if self._is_closed:
            raise psycopg.OperationalError("the connection was given up")

    async def _done(self) -> None:
        self._error = None
        self._outcome = self._loop.create_future()
        self._write()
        try:
            await self._outcome
        finally:
            self._outcome = None

    def _write(self) -> None:
        try:
            is_left = self._wire.flush() != 0
        except psycopg.Error as error:
            self.close()
            self._end(error)
            return
        if is_left is not self._is_writing:
            self._is_writing = is_left
            if is_left:
                self._loop.add_writer(self._socket, self._write)
            else:
                self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            # Twice, because uvloop tells of a socket that was reset once only, and the server's last words may come
            # first: https://github.com/libuv/libuv/blob/v1.x/src/unix/poll.c stops watching at POLLERR.
            if not self._is_over():
                self._is_over()
        except psycopg.Error as error:
            self.close()  # a broken connection would be readable for ever
            self._end(self._error or error)

    def _is_over(self) -> bool:
        """Takes what has come; whether that was the end of what runs."""
        self._wire.consume_input()
        while self._outcome is not None and not self._wire.is_busy():
            result = self._wire.get_result()
            if result is None:
                self._end(self._error)
                return True
            if result.status == ExecStatus.FATAL_ERROR:
                self._error = psycopg.errors.error_from_result(result)
        return False

    def _end(self, error: psycopg.Error | None) -> None:
        if self._outcome is None or self._outcome.done():
            return
        if error is None:
            self._outcome.set_result(None)
        else:
            self._outcome.set_exception(error)


def cut(connection: psycopg.AsyncConnection[object]) -> None:
    """Breaks a connection whose server says nothing any more. Cancelling would not do: psycopg then gives the
    server ten more seconds to confirm it."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
