"""Which texts go into the next call to a provider. Pure: no clock, no loop; who calls is `dispatch.py`.

One `Queue` stands before the slots of one provider. What may share a call is a `Lane`; in it, a call carries texts of
one tenant, or of several where the lane mixes. Decides:

- **when**: with a free slot, a tenant that has nothing under way in a lane goes at once; else its texts gather until
  the call is full, the oldest has waited for the lane's window, or what was under way has come back;
- **whose turn**: tenants take turns at the slots, one call a turn, however many lanes they use. A turn gives credit for
  an eighth of a full call; who used more sits out until that is paid back (deficit round robin). So a single text waits
  for one call of each other tenant at most, and under lasting load all get the same in tokens (or texts, if those fill
  the calls);
- **what**: within a tenant each waiting job gets its part of the call, then the oldest the rest, so that a large ingest
  does not hold up its own tenant's queries either. A job that is larger than a call is cut; its order is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import msgspec

_FULL = 1_000_000  # the price of a full call
_TURN = _FULL // 8


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Everything that texts of one call have in common. The same object is the same lane."""

    max_items: int
    max_tokens: int  # per call; a single text may have more: it goes alone, and the provider refuses it by itself
    window_s: float = 0.0
    mixes_tenants: bool = False

    def price(self, items: int, tokens: int) -> int:
        """The part of a full call, by texts or by tokens, whichever is more."""
        return max(items * _FULL // self.max_items, tokens * _FULL // self.max_tokens, 1)


class Job(msgspec.Struct, eq=False):
    """The texts of one request for one lane. These are structs because they are made for every call, and a dataclass
    takes five times as long."""

    lane: Lane
    tenant: Hashable
    counts: Sequence[int]  # tokens of each text
    arrived_at: float
    taken: int = 0  # texts that went into calls; the rest waits

    @property
    def waiting(self) -> int:
        return len(self.counts) - self.taken


J = TypeVar("J", bound=Job)


class Piece(msgspec.Struct, Generic[J], eq=False):
    """Consecutive texts of one job."""

    job: J
    start: int
    stop: int


class Batch(msgspec.Struct, Generic[J], eq=False):
    """One call; at most one piece of each job. To be given back to `Queue.finished`."""

    lane: Lane
    pieces: tuple[Piece[J], ...]
    items: int


class _Group(msgspec.Struct, Generic[J], eq=False):
    """What one tenant has in one lane."""

    jobs: dict[J, None] = msgspec.field(default_factory=dict)  # in order of arrival
    items: int = 0  # waiting
    tokens: int = 0
    calls: int = 0  # under way

    def ripe_at(self, lane: Lane) -> float:
        """From when on its texts may go, given a slot."""
        if not self.calls or self.items >= lane.max_items or self.tokens >= lane.max_tokens:
            return float("-inf")
        return next(iter(self.jobs)).arrived_at + lane.window_s


class _Tenant(msgspec.Struct, Generic[J], eq=False):
    groups: dict[Lane, _Group[J]] = msgspec.field(default_factory=dict)  # the lane served longest ago first
    jobs: int = 0
    credit: int = 0


class Queue(Generic[J]):
    def __init__(self, slots: int) -> None:
        self.slots = slots  # may be changed at any time
        self._tenants: dict[Hashable, _Tenant[J]] = {}  # all that have anything waiting or under way
        self._turns: dict[Hashable, _Tenant[J]] = {}  # those with something waiting, the next one first
        self._calls = 0

    @property
    def calls(self) -> int:
        """Under way."""
        return self._calls

    @property
    def has_waiting(self) -> bool:
        return bool(self._turns)

    @property
    def jobs(self) -> int:
        """Waiting, wholly or in part."""
        return sum(tenant.jobs for tenant in self._turns.values())

    def waiting(self) -> list[J]:
        """Jobs of which something waits."""
        return [job for t in self._turns.values() for group in t.groups.values() for job in group.jobs]

    def oldest(self) -> float | None:
        """When the job that has waited longest arrived."""
        return min((job.arrived_at for job in self.waiting()), default=None)

    def start_alone(self, job: J) -> Batch[J] | None:
        """The call for a job that meets nobody: as `add` and `next_batch` would say, in a fraction of their time.
        None: something else waits or is under way, or it does not fit; `add` it."""
        lane, size = job.lane, len(job.counts)
        if self._turns or self._calls >= self.slots or job.tenant in self._tenants or size > lane.max_items:
            return None
        if size > 1 and sum(job.counts) > lane.max_tokens:
            return None
        self._calls += 1
        self._tenants[job.tenant] = _Tenant({lane: _Group(calls=1)})
        job.taken = size
        return Batch(lane, (Piece(job, 0, size),), size)

    def add(self, job: J) -> None:
        """Takes in a job of at least one text."""
        tenant = self._tenants.get(job.tenant)
        if tenant is None:
            tenant = self._tenants[job.tenant] = _Tenant()
        group = tenant.groups.get(job.lane)
        if group is None:
            group = tenant.groups[job.lane] = _Group()
        group.jobs[job] = None
        group.items += len(job.counts)
        group.tokens += sum(job.counts)
        tenant.jobs += 1
        if job.tenant not in self._turns:
            tenant.credit = 0  # classic: who leaves loses what is left, and owes nothing
            self._turns[job.tenant] = tenant

    def withdraw(self, job: J) -> None:
        """Takes out what has not gone into a call. A job that is not waiting stays as it is."""
        tenant = self._tenants.get(job.tenant)
        group = tenant.groups.get(job.lane) if tenant is not None else None
        if tenant is None or group is None or job not in group.jobs:
            return
        group.items -= job.waiting
        group.tokens -= sum(job.counts[job.taken :])
        self._remove(job, tenant, group)
        self._forget(job.tenant, job.lane)

    def next_batch(self, now: float) -> Batch[J] | float | None:
        """The call to make now, which then counts as under way; or the time at which to ask again; or None: ask again
        when a job comes or a call ends."""
        if self._calls >= self.slots or not self._turns:
            return None
        ripe, soonest = self._ripe(now)
        if not ripe:
            return soonest
        name = self._whose_turn(ripe)
        tenant, lane = self._turns[name], ripe[name]
        pieces = tuple(self._pieces(name, lane))
        batch = Batch(lane, pieces, sum(piece.stop - piece.start for piece in pieces))
        self._calls += 1
        for each in {piece.job.tenant for piece in pieces}:
            self._tenants[each].groups[lane].calls += 1
        tenant.groups[lane] = tenant.groups.pop(lane)
        if name in self._turns:
            self._turns[name] = self._turns.pop(name)
        return batch

    def finished(self, batch: Batch[J]) -> None:
        """A call has ended, however it did."""
        self._calls -= 1
        pieces = batch.pieces
        for name in {piece.job.tenant for piece in pieces} if len(pieces) > 1 else (pieces[0].job.tenant,):
            self._tenants[name].groups[batch.lane].calls -= 1
            self._forget(name, batch.lane)

    def _ripe(self, now: float) -> tuple[dict[Hashable, Lane], float | None]:
        """For each tenant with something to send, the lane whose turn it is; and when the next one will have."""
        ripe: dict[Hashable, Lane] = {}
        soonest: float | None = None
        for name, tenant in self._turns.items():
            for lane, group in tenant.groups.items():
                if not group.jobs:
                    continue
                at = group.ripe_at(lane)
                if at <= now:
                    ripe[name] = lane
                    break
                soonest = at if soonest is None else min(soonest, at)
        return ripe, soonest

    def _whose_turn(self, ripe: Iterable[Hashable]) -> Hashable:
        """The first whose credit is not used up. Each that is looked at has had its turn: it gets its credit, and if
        that does not suffice it waits for the next round."""
        tenants = {name: self._turns[name] for name in ripe}
        # Rounds in which nobody could go are given at once.
        idle = min(max(0, -tenant.credit) // _TURN for tenant in tenants.values())
        for tenant in tenants.values():
            tenant.credit += idle * _TURN
        while True:
            for name, tenant in tenants.items():
                tenant.credit = min(tenant.credit + _TURN, _TURN)
                if tenant.credit > 0:
                    return name
                self._turns[name] = self._turns.pop(name)

    def _pieces(self, name: Hashable, lane: Lane) -> Iterable[Piece[J]]:
        """Fills a call for this tenant, and with what is left of it for others where the lane mixes."""
        names = [name]
        if lane.mixes_tenants:
            names += [other for other, t in self._turns.items() if other != name and lane in t.groups]
        items, tokens = lane.max_items, lane.max_tokens
        for each in names:
            tenant = self._turns[each]
            group = tenant.groups[lane]
            taken = _fill(list(islice(group.jobs, items)), items, tokens, may_exceed=items == lane.max_items)
            for job, stop in taken.items():
                yield Piece(job, job.taken, stop)
                size = sum(job.counts[job.taken : stop])
                items, tokens = items - (stop - job.taken), tokens - size
                group.items, group.tokens = group.items - (stop - job.taken), group.tokens - size
                tenant.credit -= lane.price(stop - job.taken, size)
                job.taken = stop
                if not job.waiting:
                    self._remove(job, tenant, group)
            if items <= 0 or tokens <= 0:
                return

    def _remove(self, job: J, tenant: _Tenant[J], group: _Group[J]) -> None:
        del group.jobs[job]
        tenant.jobs -= 1
        if not tenant.jobs:
            del self._turns[job.tenant]

    def _forget(self, name: Hashable, lane: Lane) -> None:
        """Drops what is neither waiting nor under way."""
        tenant = self._tenants[name]
        group = tenant.groups[lane]
        if not group.jobs and not group.calls:
            del tenant.groups[lane]
            if not tenant.groups:
                del self._tenants[name]


def _fill(jobs: list[J], items: int, tokens: int, *, may_exceed: bool) -> dict[J, int]:
    """How far each job is taken into a call with room for so many texts and tokens: first each gets its part, then,
    in order of arrival, what is left. There is a text's room for each at least. With `may_exceed` the very first text
    goes even if it has too many tokens."""
    stops: dict[J, int] = {}
    for share in (max(1, items // max(1, len(jobs))), items):
        for job in jobs:
            stop = start = stops.get(job, job.taken)
            end = min(len(job.counts), start + min(share, items))
            while stop < end and (job.counts[stop] <= tokens or (may_exceed and not stops and stop == start)):
                tokens -= job.counts[stop]
                stop += 1
            if stop > start:
                stops[job] = stop
                items -= stop - start
    return stops
