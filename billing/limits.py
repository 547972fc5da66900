"""Limits of the data plane: hold before a provider is called; settle or release after it. The port and its engine.

Decides nothing about amounts: Redis does, in one step over every limit that applies (`billing.limit_scripts`), within
what PostgreSQL granted (`billing.granting`). Here is the order of asking: Redis; where its block is used up, PostgreSQL
for another one; where Redis is away, PostgreSQL alone.

Failure: Redis away → days and months are held in PostgreSQL, slower; minutes are not limited meanwhile. PostgreSQL
away → what is granted already is spent, then `LimitsUnavailable`. Both away → requests without a hard limit of a day or
month go on, the others are `LimitsUnavailable`. A hold whose worker died expires, and `billing.reconciling` asks the
ledger what became of it. A Redis that answered too late may keep a hold that nobody knows of; it expires likewise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol
from uuid import UUID

import hiredis

from billing.granting import Granted, Grants, GrantsAway, PoolClosed, Wish
from billing.holds import Hold, Tightest, refused_by_period, refused_by_rate
from billing.limit_plans import Plan, charge_of, head_of, read_calendar, read_rate, refused_key
from billing.limit_scripts import SCRIPTS
from billing.limit_terms import HoldAsk, LimitTerms, Refused, Standing
from billing.pools import Pools
from billing.redis_pipe import RedisAway, RedisPipe
from billing.refilling import Refills, Shortage
from core import metrics
from core.errors import LimitsUnavailable

__all__ = ["SCRIPTS", "Hold", "HoldAsk", "LimitTerms", "Limits", "LimitsPort", "Refused", "Standing", "Tightest"]
log = logging.getLogger(__name__)

_MOST_KEPT = 5_000  # of whatever is remembered
_DAY_MS = 86_400_000
_MOST_ROUNDS = 64  # of asking Redis and drawing blocks for one request, while others take what was drawn
_REFUSED_FOR_S = 0.25  # that long a refusal is believed without asking PostgreSQL again
_CONFIRM_PER_LEASE = 8


class LimitsPort(Protocol):
    """What the gateway needs."""

    async def hold(self, ask: HoldAsk, *, replacing: Hold | None = None) -> Hold: ...
    def settle(self, hold: Hold, *, tokens: int, nano: int, requests: int = 1) -> None: ...
    def release(self, hold: Hold) -> None: ...
    def leave(self, hold: Hold) -> None: ...
    async def standing(self, ask: HoldAsk) -> list[Standing]: ...


class Limits:
    """One per process. `SCRIPTS` must be among the pipe's scripts."""

    def __init__(self, conninfo: str, pipe: RedisPipe, *, lease_s: float, rate_window_s: float = 60.0) -> None:
        self._pipe = pipe
        self._grants = Grants(conninfo)
        self._pools = Pools(self._grants, pipe, lease_s=lease_s)
        self._refills = Refills(self._grants, pipe, self._pools)
        self._lease_s = lease_s
        self._lease_ms = round(lease_s * 1000)
        self._bucket_ms = round(rate_window_s * 1000 / 60)
        # By the limits' identity and the tenant. A UUID takes long to hash, its number does not.
        self._plans: dict[tuple[int, int], tuple[tuple[LimitTerms, ...], Plan]] = {}
        self._texts: dict[int, str] = {}
        self._gone: set[UUID] = set()  # limits that were removed while a snapshot still had them
        self._refusals: dict[bytes, tuple[float, int]] = {}  # until when, and what PostgreSQL had left
        self._told: dict[bytes, int] = {}  # what was used when a refusal was written down
        self._late: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._active = 0
        self._number = 0
        self._counts = {"holds": 0, "direct": 0, "refused": 0, "unavailable": 0}

    def start(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="limits")

    async def close(self) -> None:
        """Gives back what is still to be given back; the pipe is its owner's to close, afterwards."""
        if self._keeper is not None:
            self._keeper.cancel()
        await asyncio.gather(*self._late, *([self._keeper] if self._keeper else []), return_exceptions=True)
        await self._grants.close()

    async def hold(self, ask: HoldAsk, *, replacing: Hold | None = None) -> Hold:
        """Reserves on every limit or on none. `replacing` is given up in the same step where both are in Redis; when
        this raises `Refused` (a hard limit) or `LimitsUnavailable`, releasing it remains to be done."""
        try:
            plan = self._plan(ask)
            hold = None
            if self._pipe.is_up:
                if not plan.limits and replacing is None:
                    hold = self._announce(plan, ask)
                else:
                    hold = await self._hold_in_redis(plan, ask, replacing)
            if hold is None:
                hold = await self._hold_direct(plan, ask, replacing)
        except Refused:
            self._counts["refused"] += 1
            raise
        except LimitsUnavailable:
            self._counts["unavailable"] += 1
            raise
        self._counts["holds"] += 1
        self._active += 1
        if replacing is not None and replacing.is_open:
            self.release(replacing)
        return hold

    def settle(self, hold: Hold, *, tokens: int, nano: int, requests: int = 1) -> None:
        """Once the usage row is committed: what it charges stays used, the rest is free again. Returns at once."""
        if not hold.is_open:
            return
        hold.is_open, hold.tokens_back = False, hold.tokens - tokens
        self._active -= 1
        if hold.head:
            charge = charge_of(hold.held_ms, tokens, nano, requests)
            self._pipe.tell_packed(hold.plan.settling.followed_by(hold.head, charge))
        elif hold.is_direct:
            task = asyncio.get_running_loop().create_task(self._give_back(hold, tokens, nano, requests))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    def release(self, hold: Hold) -> None:
        """Gives everything back: no row charges this request."""
        self.settle(hold, tokens=0, nano=0, requests=0)

    def leave(self, hold: Hold) -> None:
        """Whether a row charges this request is not known (the ledger went away in mid-commit): the hold stays until
        its lease is over, and is settled as the ledger says then."""
        if hold.is_open:
            hold.is_open = False
            self._active -= 1

    async def standing(self, ask: HoldAsk) -> list[Standing]:
        """How the limits of `ask` stand now; holds nothing. Raises `LimitsUnavailable`."""
        plan = self._plan(ask)
        found: list[Any] = [None] * len(plan.limits)
        now_ms = time.time() * 1000
        if plan.limits and self._pipe.is_up:
            try:
                epoch, *found = await self._pipe.call(b"HMGET", plan.key, b"e", *plan.fields)
                if not await self._pools.is_current(plan.tenant_id, (epoch or b"").decode()):
                    found = [raw if plan.limits[index].is_rate else None for index, raw in enumerate(found)]
            except RedisAway:
                pass  # the pipe has told; PostgreSQL's counters answer below
            except GrantsAway as error:
                raise self._unavailable() from error
            except hiredis.ReplyError as error:
                log.warning("limits: Redis refuses: %s", str(error)[:100])
        keys = [(t.limit_id, s) for t, s, raw in zip(plan.limits, plan.starts, found, strict=True) if raw is None]
        try:
            counters = await self._grants.counters(keys) if keys else {}
        except GrantsAway as error:
            raise self._unavailable() from error
        stands = []
        for index, (terms, raw) in enumerate(zip(plan.limits, found, strict=True)):
            if terms.is_rate:
                used, held = (read_rate(raw, now_ms, self._bucket_ms) if raw is not None else 0), 0
            elif raw is not None:
                _, base, own, held = read_calendar(raw)
                used = base + own
            else:
                used, held = counters.get((terms.limit_id, plan.starts[index]), (0, 0))
            stands.append(Standing(terms, used, held, plan.ends[index]))
        return stands

    def statistics(self) -> dict[str, int]:
        return {**self._counts, "active": self._active, "refills": self._refills.count, "plans": len(self._plans)}

    def _announce(self, plan: Plan, ask: HoldAsk) -> Hold:
        """The hold of a request that nothing limits: nobody can refuse it, so nobody waits for it. It leaves before the
        provider is called, and what became of a worker that dies is found by it."""
        head = self._head(ask, "")
        self._pipe.call_packed(plan.holding.followed_by(head)).add_done_callback(self._announced)
        return Hold(plan, ask.tokens, ask.nano, head=head)

    def _announced(self, reply: asyncio.Future[Any]) -> None:
        error = None if reply.cancelled() else reply.exception()
        if isinstance(error, hiredis.ReplyError):
            self._note_refusal(error)

    def _note_refusal(self, error: hiredis.ReplyError) -> None:
        log.warning("limits: Redis refuses: %s", str(error)[:100])
        for script in SCRIPTS if str(error).startswith("NOSCRIPT") else ():
            self._pipe.tell(b"SCRIPT", b"LOAD", script.source)

    async def _hold_in_redis(self, plan: Plan, ask: HoldAsk, replacing: Hold | None) -> Hold | None:
        """None: PostgreSQL has to decide."""
        if replacing is not None and replacing.is_direct:
            await self._give_up(replacing)
        told: dict[bytes, Granted] = {}
        force = b""  # 1: soft limits ask no block
        for _ in range(_MOST_ROUNDS):
            try:
                pool = None
                if plan.is_pooled:
                    pool = self._pools.known(plan.tenant_id) or await self._pools.open(plan.tenant_id)
                head = self._head(ask, pool[1] if pool is not None else "")
                old = replacing if replacing is not None and replacing.is_open and replacing.head else None
                reply = await self._pipe.call_packed(_holding(plan, head, force, old))
                if type(reply) is bytes:
                    if old is not None:
                        old.is_open = False
                        self._active -= 1
                    return Hold(
                        plan, ask.tokens, ask.nano, pool=pool[2] if pool is not None else None, head=head, told=reply
                    )
                if reply[0] == b"rate":
                    raise refused_by_rate(plan, reply, time.time() * 1000)
                if reply[0] == b"pool":
                    self._pools.forget(plan.tenant_id)
                    continue
                plan = await self._draw(plan, ask, reply, told)
            except PoolClosed:
                self._pools.forget(plan.tenant_id)
            except GrantsAway as error:
                if plan.has_hard_calendar:
                    raise self._unavailable() from error
                if pool is None:  # there is no pool to count in
                    plan = self._reduced(plan, ask, [t.limit_id for t in plan.limits if not t.is_rate])
                force = b"1"
            except RedisAway:
                return None  # the pipe has told
            except hiredis.ReplyError as error:
                self._note_refusal(error)
                return None
        raise self._unavailable()

    def _head(self, ask: HoldAsk, epoch: str) -> bytes:
        """What names a hold: one that came through unnoticed, and its repetition, are two."""
        self._number += 1
        model = self._texts.get(ask.model_id.int) or self._text(ask.model_id)
        return head_of(ask.request_id, model, epoch, ask.tokens, ask.nano, self._number)

    async def _draw(self, plan: Plan, ask: HoldAsk, reply: list[Any], told: dict[bytes, Granted]) -> Plan:
        """Draws for what is short. Raises `Refused` where PostgreSQL said already that it is not there."""
        shortages = []
        for place in range(1, len(reply), 3):
            index, lacking, used = int(reply[place]), int(reply[place + 1]), int(reply[place + 2])
            terms, field = plan.limits[index], plan.fields[index]
            if terms.is_hard:
                known = told.get(field)
                until, left = self._refusals.get(field, (0.0, 0))
                if known is not None and known.left is not None:
                    until, left = time.monotonic() + _REFUSED_FOR_S, known.left
                # Nothing lacking: what others account for leaves no room, or the limit was lowered.
                if time.monotonic() < until and used >= 0 and (lacking == 0 or left < lacking):
                    self._remember(field, until, left)
                    self._write_down(plan, index, plan.need(index, ask.tokens, ask.nano), used)
                    raise refused_by_period(plan, index, used)
            shortages.append(Shortage(field, terms.limit_id, plan.starts[index], lacking))
        drawn = await self._refills.draw(plan.tenant_id, plan.key, shortages)
        told.update(drawn)
        gone = [each.limit_id for each in shortages if each.field not in drawn]
        if gone:
            self._gone.update(gone)  # ids never come back
            self._plans.pop((id(ask.limits), ask.tenant_id.int), None)
            return self._reduced(plan, ask, gone)
        return plan

    async def _hold_direct(self, plan: Plan, ask: HoldAsk, replacing: Hold | None) -> Hold:
        """In PostgreSQL alone: a block for each request."""
        if replacing is not None:
            await self._give_up(replacing)
        hold = Hold(plan, ask.tokens, ask.nano)
        wishes = {
            (terms.limit_id, plan.starts[index]): Wish(terms.limit_id, plan.starts[index], need, need)
            for index, terms in enumerate(plan.limits)
            if not terms.is_rate
            for need in (plan.need(index, ask.tokens, ask.nano),)
        }
        if not wishes:
            return hold
        try:
            pool, granted = await self._grant_directly(plan.tenant_id, list(wishes.values()))
        except (GrantsAway, PoolClosed) as error:
            if plan.has_hard_calendar:
                raise self._unavailable() from error
            return hold
        left: list[float] = []
        for index, terms in enumerate(plan.limits):
            found = granted.get((terms.limit_id, plan.starts[index]))
            taken = found.base + found.total if found is not None else 0
            if found is not None and not found.fits:
                raise refused_by_period(plan, index, taken)
            left.append(float(terms.amount - taken))
        self._counts["direct"] += 1
        hold.pool, hold.is_direct, hold.told = pool, True, plan.told.pack(time.time() * 1000, *left)
        return hold

    async def _grant_directly(self, tenant_id: UUID, wishes: list[Wish]) -> tuple[int, dict[Any, Granted]]:
        for attempt in range(2):
            pool = await self._pools.direct(tenant_id)
            try:
                granted = await self._grants.grant(pool, wishes, whole=True)
            except PoolClosed:  # idle for long: counted and gone
                self._pools.forget_direct(tenant_id, pool)
                if attempt:
                    raise
            else:
                return pool, {(each.limit_id, each.start): each for each in granted}
        raise PoolClosed

    async def _give_up(self, hold: Hold) -> None:
        """Releases what another hold is to take the place of; returns when that has happened."""
        if hold.is_direct and hold.is_open:
            hold.is_open = False
            self._active -= 1
            await self._give_back(hold, 0, 0, 0)
        else:
            self.release(hold)

    async def _give_back(self, hold: Hold, tokens: int, nano: int, requests: int) -> None:
        plan = hold.plan
        back = [
            (terms.limit_id, plan.starts[index], rest)
            for index, terms in enumerate(plan.limits)
            if not terms.is_rate
            for rest in (plan.need(index, hold.tokens, hold.nano) - plan.need(index, tokens, nano, requests),)
            if rest
        ]
        if back and hold.pool is not None:
            try:
                await self._grants.give_back(hold.pool, back)
            except GrantsAway:
                log.info("limits: what a request did not use comes back at the next reconciliation")

    def _plan(self, ask: HoldAsk) -> Plan:
        key = (id(ask.limits), ask.tenant_id.int)
        found = self._plans.get(key)
        # The tuple is kept beside its plan, so no other one can have its identity meanwhile.
        if found is not None and found[0] is ask.limits:
            plan = found[1]
            if ask.created_ms < plan.until_ms and ask.created_ms >= plan.until_ms - _DAY_MS:
                return plan
        if len(self._plans) >= _MOST_KEPT:
            self._plans.clear()
        plan = self._planned(ask, [each for each in ask.limits if each.limit_id not in self._gone])
        self._plans[key] = (ask.limits, plan)
        return plan

    def _reduced(self, plan: Plan, ask: HoldAsk, without: list[UUID]) -> Plan:
        """The plan without these limits: they were removed, or cannot be counted now and are not hard."""
        return self._planned(ask, [each for each in plan.limits if each.limit_id not in without])

    def _planned(self, ask: HoldAsk, limits: list[LimitTerms]) -> Plan:
        return Plan(ask.tenant_id, limits, ask.created_ms, lease_ms=self._lease_ms, bucket_ms=self._bucket_ms)

    def _write_down(self, plan: Plan, index: int, need: int, used: int) -> None:
        """Lets the control plane know that there is no room, though not everything is used up: once, until something
        else is used."""
        field = plan.fields[index]
        if self._told.get(field) == used or need > plan.limits[index].amount:  # that much never fits
            return
        if len(self._told) > _MOST_KEPT:
            self._told.clear()
        self._told[field] = used
        key, end_ms = refused_key(plan.tenant_id, field), int(plan.ends[index].timestamp() * 1000)
        self._pipe.tell(b"SET", key, b"%d %d" % (need, used), b"PXAT", end_ms)

    def _remember(self, field: bytes, until: float, left: int) -> None:
        if len(self._refusals) > _MOST_KEPT:
            self._refusals.clear()
        self._refusals[field] = (until, left)

    def _text(self, model_id: UUID) -> str:
        if len(self._texts) > _MOST_KEPT:
            self._texts.clear()
        return self._texts.setdefault(model_id.int, str(model_id))

    def _unavailable(self) -> LimitsUnavailable:
        return LimitsUnavailable("The limits cannot be checked now; no provider was called. Try again.", retry_after=1)

    async def _keep(self) -> None:
        """Confirms the pools and shows how many holds there are, for ever."""
        while True:
            try:
                await self._pools.confirm()
            except Exception:
                log.exception("limits: could not confirm the pools")
            metrics.holds_active.set(self._active)
            await asyncio.sleep(min(1.0, self._lease_s / _CONFIRM_PER_LEASE))


def _holding(plan: Plan, head: bytes, force: bytes, old: Hold | None) -> bytes:
    """The command that holds, in place of `old`."""
    if old is not None:
        return plan.holding.followed_by(head, force, old.plan.written, old.head, b"%d" % old.held_ms)
    return plan.holding.followed_by(head, force) if force else plan.holding.followed_by(head)
