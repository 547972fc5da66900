"""How much one socket may ask, and what is done about one that asks for more. Pure.

Decides that a message over the rate is refused, not lost, and that one who goes on sending at more than twice the rate
in spite of refusals is flooding: the refusals have a bucket of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

HEARD = "quiver.heard"  # where a scope tells the moment of the client's last frame, whatever its kind


@dataclass(frozen=True, slots=True)
class SocketBounds:
    """Of each connection; names as in `config.environment`, where they have `socket_` before them."""

    messages_per_minute: int = 1000
    burst: int = 100
    text_bytes: int = 1024 * 1024
    in_flight: int = 32
    notifications: int = 256
    idle_s: float = 60.0
    authenticate_s: float = 10.0
    presence_s: float = 90.0  # a session that nobody renews is over then
    calls: int = 256  # of the gateway at a time, for all sockets of the process
    calls_per_agent: int = 16


class Bucket:
    """Tokens that come back at a rate; full at first."""

    __slots__ = ("_at", "_level", "_most", "_per_second")

    def __init__(self, per_minute: int, most: int, now: float) -> None:
        self._per_second = per_minute / 60
        self._most = most
        self._level = float(most)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether there was one."""
        level = min(self._most, self._level + (now - self._at) * self._per_second)
        self._at = now
        if level < 1:
            self._level = level
            return False
        self._level = level - 1
        return True

    def wait_s(self) -> float:
        """Until there is one again, as of the last look."""
        return max(0.0, (1 - self._level) / self._per_second)


class Verdict(Enum):
    PASS = "pass"
    REFUSE = "refuse"
    CLOSE = "close"


class Pace:
    """The messages of one connection."""

    __slots__ = ("_messages", "_refusals")

    def __init__(self, bounds: SocketBounds, now: float) -> None:
        self._messages = Bucket(bounds.messages_per_minute, bounds.burst, now)
        self._refusals = Bucket(bounds.messages_per_minute, bounds.burst, now)

    def judge(self, now: float) -> Verdict:
        """What becomes of a message that has just come."""
        if self._messages.take(now):
            return Verdict.PASS
        return Verdict.REFUSE if self._refusals.take(now) else Verdict.CLOSE

    @property
    def retry_after_s(self) -> float:
        return self._messages.wait_s()
