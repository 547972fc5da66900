"""Slows down who guesses: passwords at sign-in, addresses at password reset.

Two counts. Per address of the network (an IPv6 /64 is one), where waits grow to a quarter of an hour. Per account, so
that many addresses guess no faster; its waits end at half a minute and it does not apply where the account was signed
in from before: nobody can be locked out by others' guessing. The address comes first: what it refuses never reaches
the account. `tenants.delays` has the rule; counts are in Redis, changed in one optimistic step.

Failure: without Redis each process counts in its own memory by the same rule: with N workers guessing is N times as
fast, and everybody still gets in. After a failure Redis is left alone for ten seconds: one that hangs would otherwise
cost a sign-in four seconds at each step.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from core.errors import RateLimitExceeded
from tenants.delays import Rule, Tries, attempt, take_back

ADDRESS = Rule(free=20, longest_s=900)
ACCOUNT = Rule(free=5, longest_s=30)
FAMILIAR = Rule(free=10, longest_s=30)  # an account, from where it was signed in before
_LEFT_ALONE_S = 10.0
_FAMILIAR_FOR_S = 30 * 24 * 3600
_MOST_IN_MEMORY = 10_000
log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Tries)
T = TypeVar("T")


class Throttle:
    """Tries of one kind."""

    def __init__(self, kind: str, *, account: Rule = ACCOUNT, clock: Callable[[], float] = time.time) -> None:
        self._kind = kind
        self._rule = account
        self.clock = clock
        self._memory: OrderedDict[str, Tries] = OrderedDict()
        self._lock = threading.Lock()
        self._again_at = 0.0  # monotonic: when Redis is asked again after a failure

    def enter(self, *, address: str, account: str) -> None:
        """To be called before a try. Raises `RateLimitExceeded` with the seconds to wait."""
        self._attempt(f"address:{address}", ADDRESS)
        self._attempt(*self._of_account(address, account))

    def was_right(self, *, address: str, account: str) -> None:
        """To be called after a try that was right: it costs nothing, and the address is familiar from now on."""
        self._change(f"address:{address}", ADDRESS, lambda seen, now: (take_back(seen, ADDRESS, now), None))
        name, rule = self._of_account(address, account)
        self._change(name, rule, lambda seen, now: (Tries(), None))
        familiar = self._key(f"familiar:{account}:{address}")
        self._in_redis(lambda redis: redis.set(familiar, b"1", ex=_FAMILIAR_FOR_S))

    def _of_account(self, address: str, account: str) -> tuple[str, Rule]:
        familiar = self._key(f"familiar:{account}:{address}")
        if self._in_redis(lambda redis: redis.exists(familiar)):
            return f"account:{account}:{address}", FAMILIAR
        return f"account:{account}", self._rule

    def _attempt(self, name: str, rule: Rule) -> None:
        wait = self._change(name, rule, lambda seen, now: attempt(seen, rule, now))
        if wait > 0:
            seconds = math.ceil(wait)
            raise RateLimitExceeded(f"Too many tries. Wait {_spoken(seconds)}, then try again.", retry_after=seconds)

    def _change(self, name: str, rule: Rule, decide: Callable[[Tries, float], tuple[Tries, T]]) -> T:
        """Reads, decides and writes in one step: in Redis, else in memory."""
        key, now = self._key(name), self.clock()

        def step(pipe: Any) -> T:
            raw = pipe.get(key)
            tries, outcome = decide(Tries() if raw is None else _decoder.decode(raw), now)
            pipe.multi()
            pipe.set(key, msgspec.json.encode(tries), ex=int(rule.forget_s + rule.longest_s))
            return outcome

        outcome = self._in_redis(lambda redis: (redis.transaction(step, key, value_from_callable=True),))
        if outcome is not None:
            found: T = outcome[0]
            return found
        with self._lock:
            tries, found = decide(self._memory.pop(key, Tries()), now)
            self._memory[key] = tries
            if len(self._memory) > _MOST_IN_MEMORY:
                self._memory.popitem(last=False)
            return found

    def _in_redis(self, ask: Callable[[Any], Any]) -> Any:
        """The answer, or None without Redis."""
        if time.monotonic() < self._again_at:
            return None
        try:
            return ask(get_redis_connection("default"))
        except (RedisError, OSError) as error:
            self._again_at = time.monotonic() + _LEFT_ALONE_S
            log.warning("tries are counted in this process's memory: %s", error)
            return None

    def _key(self, name: str) -> str:
        # A digest: whatever was typed as an account must not make long keys, nor stand readable in Redis.
        return f"quiver:tries:{self._kind}:{hashlib.sha256(name.encode()).hexdigest()}"


def _spoken(seconds: int) -> str:
    if seconds >= 120:
        return f"{math.ceil(seconds / 60)} minutes"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
