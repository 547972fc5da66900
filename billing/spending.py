"""The rule of `billing.limit_scripts` in Python, line for line the same decisions. Pure.

For fakes, and as the second opinion that the scripts are tested against.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from billing.limit_plans import Plan
from billing.limit_scripts import BUCKETS


@dataclass(slots=True)
class Calendar:
    """A day or month of a limit, as one pool sees it."""

    granted: int = 0
    base: int = 0  # what all others account for
    used: int = 0
    held: int = 0


@dataclass(slots=True)
class Rate:
    """What was asked in each of the last 61 seconds."""

    total: int = 0
    last: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def advance(self, slot: int) -> None:
        """Forgets the buckets that have left the window. A clock that goes back stands still here."""
        self.last = max(self.last, slot)
        self.buckets = {each: count for each, count in self.buckets.items() if each > self.last - BUCKETS and count}
        self.total = sum(self.buckets.values())

    def take(self, need: int) -> None:
        self.buckets[self.last] = self.buckets.get(self.last, 0) + need
        self.total += need

    def give_back(self, slot: int, amount: int) -> None:
        if amount > 0 and self.last - BUCKETS < slot <= self.last:
            back = min(amount, self.buckets.get(slot, 0))
            self.buckets[slot] = self.buckets.get(slot, 0) - back
            self.total -= back

    def fits_at(self, need: int, amount: int) -> int | None:
        """The slot in whose first moment `need` fits; None: never."""
        if need > amount:
            return None
        total = self.total
        for slot in range(self.last - BUCKETS + 1, self.last + 1):
            total -= self.buckets.get(slot, 0)
            if total + need <= amount:
                return slot + BUCKETS
        raise AssertionError("an empty window takes whatever the limit allows")


@dataclass(frozen=True, slots=True)
class Fits:
    left: tuple[int, ...]  # of each limit


@dataclass(frozen=True, slots=True)
class Short:
    """By number of the limit: how much more would have to be granted, and what is accounted for (-1: not known)."""

    lacking: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TooFast:
    index: int
    wait_ms: int  # -1: never
    used: int


@dataclass(frozen=True, slots=True)
class OtherPool:
    epoch: str


@dataclass(frozen=True, slots=True)
class Held:
    """A hold, as the state keeps it."""

    plan: Plan
    epoch: str
    tokens: int
    nano: int
    held_ms: int
    until_ms: int


class Spending:
    """All of a tenant's state."""

    def __init__(self, bucket_ms: int = 1000) -> None:
        self.epoch = ""
        self.calendars: dict[bytes, Calendar] = {}
        self.rates: dict[bytes, Rate] = {}
        self.holds: dict[bytes, Held] = {}
        self._bucket_ms = bucket_ms

    def hold(
        self,
        name: bytes,
        plan: Plan,
        *,
        epoch: str,
        tokens: int,
        nano: int,
        now_ms: int,
        lease_ms: int,
        force: bool = False,
        replacing: bytes | None = None,
    ) -> Fits | Short | TooFast | OtherPool:
        """Reserves on every limit or changes nothing."""
        if epoch != "" and epoch != self.epoch:
            return OtherPool(self.epoch)
        old = self.holds.get(replacing) if replacing is not None else None
        before = self._copy(plan, old)
        slot = now_ms // self._bucket_ms
        for place, terms in zip(plan.fields, plan.limits, strict=True):
            if terms.is_rate:
                self.rates.setdefault(place, Rate()).advance(slot)
        for place in old.plan.fields if old is not None else ():
            if place in self.rates:
                self.rates[place].advance(slot)
        if old is not None:
            self._take_out(old, 0, 0, 0)
        refusal = self._judge(plan, tokens, nano, now_ms, force=force)
        if refusal is not None:
            self.calendars.update(before[0])
            self.rates.update(before[1])
            return refusal
        if replacing is not None:
            self.holds.pop(replacing, None)
        self.holds[name] = Held(plan, epoch, tokens, nano, now_ms, now_ms + lease_ms)
        return Fits(self._take(plan, tokens, nano))

    def settle(self, name: bytes, *, tokens: int, nano: int, requests: int) -> bool:
        """What is charged stays used, the rest is free. False: there is no such hold (any more)."""
        held = self.holds.pop(name, None)
        if held is not None:
            self._take_out(held, tokens, nano, requests)
        return held is not None

    def credit(self, epoch: str, place: bytes, granted: int, base: int) -> bool:
        """What the pool was granted in all, and what all others account for."""
        if epoch != self.epoch:
            return False
        found = self.calendars.setdefault(place, Calendar())
        found.granted = max(found.granted, granted)
        found.base = base
        return True

    def install(self, seen: str, new: str) -> str:
        """Another pool, unless somebody else was faster. Rates and holds stay."""
        if self.epoch == seen:
            self.calendars.clear()
            self.epoch = new
        return self.epoch

    def _copy(self, plan: Plan, old: Held | None) -> tuple[dict[bytes, Calendar], dict[bytes, Rate]]:
        places = {*plan.fields, *(old.plan.fields if old is not None else ())}
        calendars = {
            each: Calendar(c.granted, c.base, c.used, c.held)
            for each in places
            if (c := self.calendars.get(each)) is not None
        }
        rates = {
            each: Rate(r.total, r.last, dict(r.buckets)) for each in places if (r := self.rates.get(each)) is not None
        }
        return calendars, rates

    def _judge(self, plan: Plan, tokens: int, nano: int, now_ms: int, *, force: bool) -> Short | TooFast | None:
        short: list[tuple[int, int, int]] = []
        fast: TooFast | None = None
        for index, (terms, place) in enumerate(zip(plan.limits, plan.fields, strict=True)):
            need = plan.need(index, tokens, nano)
            must_be_granted = terms.is_hard or not force
            if terms.is_rate:
                rate = self.rates[place]
                if terms.is_hard and rate.total + need > terms.amount:
                    slot = rate.fits_at(need, terms.amount)
                    wait = -1 if slot is None else slot * self._bucket_ms - now_ms
                    if fast is None or wait == -1 or (fast.wait_ms != -1 and wait > fast.wait_ms):
                        fast = TooFast(index, wait, rate.total)
                continue
            found = self.calendars.get(place)
            if found is None:
                if must_be_granted:
                    short.append((index, need, -1))
                continue
            spent = found.used + found.held + need
            if (spent > found.granted and must_be_granted) or (terms.is_hard and found.base + spent > terms.amount):
                accounted = found.base + found.used + found.held
                short.append((index, max(0, spent - found.granted), accounted))
        return Short(tuple(short)) if short else fast

    def _take(self, plan: Plan, tokens: int, nano: int) -> tuple[int, ...]:
        left: list[int] = []
        for index, (terms, place) in enumerate(zip(plan.limits, plan.fields, strict=True)):
            need = plan.need(index, tokens, nano)
            if terms.is_rate:
                rate = self.rates[place]
                rate.take(need)
                left.append(terms.amount - rate.total)
            else:
                found = self.calendars.setdefault(place, Calendar())
                found.held += need
                left.append(terms.amount - found.base - found.used - found.held)
        return tuple(left)

    def _take_out(self, held: Held, tokens: int, nano: int, requests: int) -> None:
        for index, (terms, place) in enumerate(zip(held.plan.limits, held.plan.fields, strict=True)):
            need = held.plan.need(index, held.tokens, held.nano)
            charged = held.plan.need(index, tokens, nano, requests)
            if terms.is_rate:
                if place in self.rates:
                    self.rates[place].give_back(held.held_ms // self._bucket_ms, need - charged)
            elif held.epoch == self.epoch and place in self.calendars:
                self.calendars[place].held -= need
                self.calendars[place].used += charged
