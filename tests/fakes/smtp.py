"""A mail server that keeps what it is given: real SMTP (RFC 5321) over a real socket.

In a test: `with FakeSmtp() as fake: ... fake.port ... fake.mails`. `fake.refuse = True` answers 451 to every recipient.
For other processes: `python -m tests.fakes.smtp --port 8025` prints each mail.
"""

from __future__ import annotations

import argparse
import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Self


class _Session(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self._say("220 fake")
        while line := self.rfile.readline():
            verb = line.strip().upper()
            if verb.startswith((b"EHLO", b"HELO", b"MAIL", b"RSET", b"NOOP")):
                self._say("250 ok")
            elif verb.startswith(b"RCPT"):
                self._say("451 not now" if self.server.fake.refuse else "250 ok")
            elif verb == b"DATA":
                self._say("354 go on")
                self.server.fake.keep(self._read_mail())
                self._say("250 kept")
            elif verb == b"QUIT":
                self._say("221 bye")
                return
            else:
                self._say("502 what?")

    def _read_mail(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return b"".join(lines)

    def _say(self, reply: str) -> None:
        self.wfile.write(f"{reply}\r\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, fake: FakeSmtp) -> None:
        super().__init__(("127.0.0.1", port), _Session)
        self.fake = fake


class FakeSmtp:
    """The server; a client that has its 250 finds its mail in `mails`."""

    def __init__(self, port: int = 0) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse = False
        self._server = _Server(port, self)
        self.port: int = self._server.server_address[1]

    def keep(self, raw: bytes) -> None:
        self.mails.append(message_from_bytes(raw, policy=policy.default))  # type: ignore[arg-type]

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Printing(FakeSmtp):
    def keep(self, raw: bytes) -> None:
        print(raw.decode(errors="replace"), flush=True)  # noqa: T201


def main() -> None:
    """Prints every mail until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.smtp")
    parser.add_argument("--port", type=int, required=True)
    _Printing(parser.parse_args().port).serve()


if __name__ == "__main__":
    main()
