"""One request from texts to vectors, in order: the orchestrator of the data plane. Read this first.

plan (which models may answer) → is the ledger up → for each candidate: what the cache has → join what is under way →
hold tokens and money for the rest → have it computed → charge → commit the usage row → settle the hold → answer.
Selection, sizes, costs, limits, breakers, batches, failures and the wire are decided elsewhere; here is the order.

All vectors of an answer are of one place (space, epoch, width). A candidate of another place begins anew: what was
found or computed before is dropped, at the platform's cost.

Failure: a candidate fails, is over a limit or must not be called now → the next one, inside one deadline; the ledger
away → held back by it, then its 503, and no provider is called meanwhile. Whatever is raised, nothing was charged and
the hold is released; where a commit is in doubt, it expires instead. What was sent is never cancelled (`dispatch.py`),
and doors do not cancel either: a client that has gone is served to the end, charged once, and finds its vectors in the
cache. Only a process that stops breaks off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from billing.ledger import UsageRecord
from billing.limit_terms import HoldAsk, LimitTerms, Refused
from billing.limits import Hold, LimitsPort
from billing.refusals import refusal
from catalog.deployments import Deployment
from core.clock import unix_ms
from core.errors import InternalError, InvalidRequest, LedgerUnavailable, QuiverError
from core.money import cost_nano
from embeddings import preferring, selection
from embeddings.cache_keys import KeyRing
from embeddings.caller import Call
from embeddings.computing import Computing
from embeddings.finding import NO_WISHES, Question, suggested
from embeddings.gathering import Gathered, place_of
from embeddings.inflight import InFlight
from embeddings.inputs import Inputs
from embeddings.ports import Board, Cache, Ledger, Observer
from embeddings.records import Attempt, Charge, usage_of
from embeddings.requests import EmbeddingRequest
from embeddings.selection import Candidate, Chain, Dropped, Plan
from embeddings.snapshot import PLATFORM
from embeddings.tokens import Size
from embeddings.work import Next, Work, with_attempts
from providers.base import Vectors
from providers.heavy import off_loop

_PLAN_KEPT_S = 300.0
_MOST_PLANS = 1000  # of one snapshot


class Answer(msgspec.Struct, frozen=True, gc=False):
    deployment: Deployment
    dimensions: int
    vectors: Vectors
    usage: UsageRecord
    attempts: Sequence[Attempt]
    hold: Hold | None
    failed: Mapping[int, QuiverError]  # items that failed alone
    reason: str = ""  # why this model


class Gateway:
    def __init__(
        self,
        *,
        computing: Computing,
        ledger: Ledger,
        limits: LimitsPort,
        cache: Cache,
        names: KeyRing,
        board: Board,
        observer: Observer,
        now: Callable[[], datetime],
        most_tokens: int,
    ) -> None:
        self._computing = computing
        self._ledger = ledger
        self._limits = limits
        self._cache = cache
        self._names = names
        self._board = board
        self._observer = observer
        self._now = now
        self._most_tokens = most_tokens
        self._inflight = InFlight()
        self._under_way = 0

    async def embed(self, request: EmbeddingRequest, call: Call) -> Answer:
        """Raises one of `core.errors`; whatever it raises, nothing was charged."""
        work = Work(request, Inputs(request), call)
        self._under_way += 1
        try:
            plan = self._planned(work)
            await self._ledger.ready(within_s=call.deadline - time.monotonic())
            return await self._serve(work, plan)
        except QuiverError as error:
            self._note_failure(work, error.code)
            raise
        except asyncio.CancelledError:
            self._note_failure(work, "cancelled")
            raise
        except Exception:
            self._note_failure(work, InternalError.code)
            raise
        finally:
            self._under_way -= 1
            work.let_go()
            if work.hold is not None:
                self._limits.release(work.hold)

    async def chain(self, request: EmbeddingRequest, call: Call) -> tuple[Work, Chain]:
        """Everybody who may answer, in order, and who may not; for who explains and calls nobody."""
        work = Work(request, Inputs(request), call)
        plan = self._planned(work)
        sizes: dict[str, Size | None] = {}
        for tokenizer in {entry.choice.deployment.tokenizer for entry in plan.entries}:
            sizes[tokenizer] = await self._size(work, tokenizer)
        found = selection.rank(
            plan,
            work.request,
            call.snapshot,
            sizes,
            latency_ms=self._latencies(plan, call),
            now=self._now(),
            preferences=call.preferences,
        )
        for candidate in found.candidates[:1]:
            self._check_size(candidate)
        return work, found

    def statistics(self) -> dict[str, int]:
        return {
            "requests": self._under_way,
            **{f"inflight_{name}": value for name, value in self._inflight.statistics().items()},
            **self._computing.statistics(),
        }

    def _planned(self, work: Work) -> Plan:
        """The plan of a request, which its agent may narrow."""
        call, preferences = work.call, work.call.preferences
        is_ordered = work.request.strategy != "priority"
        if preferences is not NO_WISHES:
            work.request = preferring.narrowed(work.request, preferences)
        agent_id = "" if preferences is NO_WISHES else call.agent_id
        asked = selection.question(work.request, call.key.models, agent_id=agent_id, is_ordered=is_ordered)
        return self._kept(asked, call)

    def _kept(self, asked: Question, call: Call) -> Plan:
        """The configured part of a chain, kept with the snapshot that it rests on."""
        plans, now = call.snapshot.plans, time.monotonic()
        kept = plans.get(asked)
        if kept is not None and kept[1] > now:
            found: Plan = kept[0]
            return found
        if len(plans) >= _MOST_PLANS:
            plans.clear()
        found = selection.plan(asked, call.snapshot, self._now(), call.preferences)
        plans[asked] = (found, now + _PLAN_KEPT_S)
        return found

    def _latencies(self, plan: Plan, call: Call) -> Mapping[UUID, float]:
        """Median milliseconds of each model's quickest route; only where somebody asks for it."""
        if plan.strategy != "latency" and call.preferences.max_latency_ms is None:
            return {}
        seen = self._board.latencies.p50(unix_ms() / 1000)
        return selection.quickest((entry.choice for entry in plan.entries), seen)

    # The candidates, in order

    async def _serve(self, work: Work, plan: Plan) -> Answer:
        self._computing.began()
        gathered: Gathered | None = None
        dropped: list[Dropped] = []
        last: QuiverError | None = None
        latencies = self._latencies(plan, work.call)
        for entry in plan.in_order(latencies):
            size = None if entry.fault else await self._size(work, entry.choice.deployment.tokenizer)
            fitted = selection.fit(entry, work.request, work.call.snapshot, size, self._now())
            if isinstance(fitted, Dropped):
                dropped.append(fitted)
                continue
            slow = preferring.too_slow(fitted.choice, work.call.preferences, latencies)
            if slow is not None:
                dropped.append(Dropped(fitted.choice, slow.message, slow))
                continue
            self._check_size(fitted)
            gathered = await self.look_up(work, fitted, gathered)
            work.begin()
            try:
                await self._complete(work, fitted, gathered)
            except Next as failed:
                last = failed.error
                continue
            return await self._charge(work, fitted, gathered)
        raise with_attempts(last or selection.refusal(dropped), work.trace)

    async def _size(self, work: Work, tokenizer: str) -> Size | None:
        inputs = work.inputs
        return await off_loop(inputs.size, tokenizer) if inputs.is_heavy else inputs.size(tokenizer)

    def _check_size(self, candidate: Candidate) -> None:
        least = sum(candidate.size.least)
        if least > self._most_tokens:
            raise InvalidRequest(
                f"`input` has {least} tokens in all; at most {self._most_tokens} go into one request.", param="input"
            )

    async def look_up(self, work: Work, candidate: Candidate, before: Gathered | None) -> Gathered:
        """What is there already in this candidate's place: of the cache, or of the candidate before it."""
        inputs, place, deployment = work.inputs, place_of(candidate), candidate.choice.deployment
        if inputs.is_heavy:
            items, counts = await off_loop(inputs.for_candidate, candidate)
        else:
            items, counts = inputs.for_candidate(candidate)
        if before is not None and before.place == place and before.items is items:
            before.counts = counts
            before.failed = {i: error for i, error in candidate.too_long.items() if before.rows[i] is None}
            return before
        config, input_type = work.call.snapshot.config, work.request.input_type
        tenant_id, (space, epoch, width) = config.tenant_id, place
        keys = self._names.keys(tenant_id, space=space, epoch=epoch, dimensions=width, input_type=input_type)
        names = keys.of(items)
        gathered = Gathered(place, items, counts, names, [None] * len(items), dict(candidate.too_long))
        if config.settings.cache_enabled and work.request.reads_cache:
            full, full_names = 0, list[bytes]()
            if deployment.is_matryoshka and width < deployment.dimensions:
                full = deployment.dimensions
                keys = self._names.keys(tenant_id, space=space, epoch=epoch, dimensions=full, input_type=input_type)
                full_names = keys.of(items)
            gathered.take(
                await self._cache.get(names, width, full_keys=full_names, full_dimensions=full, model=deployment.name)
            )
        return gathered

    async def _complete(self, work: Work, candidate: Candidate, gathered: Gathered) -> None:
        """Gets what is missing. Raises `Next` when this candidate cannot."""
        may_join = work.request.reads_cache
        while missing := gathered.missing:
            if candidate.too_dear is not None:
                raise Next(candidate.too_dear)
            names = [gathered.names[index] for index in missing]
            claim = self._inflight.claim(names if may_join else ())
            work.claim = work.claim or claim
            mine, joined = missing, list[int]()
            if claim.others:
                mine = [i for i, name in zip(missing, names, strict=True) if name not in claim.others]
                joined = [i for i, name in zip(missing, names, strict=True) if name in claim.others]
            if mine:
                self._computing.check(work, candidate)
                await self._hold(work, candidate, gathered, mine, joined)
                await self._computing.compute(work, candidate, gathered, mine)
            if claim.others:
                within_s = work.call.deadline - time.monotonic()
                gathered.fill(await self._inflight.joined(claim.others, within_s=within_s), is_shared=True)
            may_join = False  # whose leader failed is computed here

    async def _hold(
        self, work: Work, candidate: Candidate, gathered: Gathered, mine: Sequence[int], joined: Sequence[int]
    ) -> None:
        """Reserves what these texts may cost at most, in place of what was held before. Raises `Next` over a limit."""
        call, started = work.call, time.monotonic()
        work.held_tokens += gathered.tokens_of(mine)
        if call.free:  # it was charged already, and counts in no limit
            return
        tokens = work.held_tokens
        nano = cost_nano(tokens, candidate.nano_per_million) + hits_nano(call, gathered, joined)
        limits = call.snapshot.limits_for(candidate.choice, agent_id=call.agent_id, key=call.key)
        try:
            work.hold = await self._limits.hold(_ask(call, candidate, limits, tokens, nano), replacing=work.hold)
        except Refused as refused:
            work.trace.tried(candidate, "limit", started)
            others = suggested(call.snapshot, but=(candidate.choice.deployment.name,))
            raise Next(refusal(refused, suggested_models=others)) from None

    async def _hold_hits(self, work: Work, candidate: Candidate, gathered: Gathered) -> int:
        """What an answer from the cache alone costs: the tenant's price of hits; nothing where a budget is used up."""
        if work.hold is not None:  # of a candidate that failed: this one was not asked
            self._limits.release(work.hold)
            work.hold = None
        call, nano = work.call, hits_nano(work.call, gathered)
        limits = call.snapshot.limits_for(candidate.choice, agent_id=call.agent_id, key=call.key)
        budgets = tuple(each for each in limits if each.measure == "usd")
        if not nano or not budgets:
            return nano
        try:
            work.hold = await self._limits.hold(_ask(call, candidate, budgets, 0, nano), replacing=work.hold)
        except Refused:
            return 0
        return nano

    # The end

    async def _charge(self, work: Work, candidate: Candidate, gathered: Gathered) -> Answer:
        """Books what the request cost; returns when that is committed and the hold is settled."""
        call, has_computed = work.call, gathered.computed > 0
        if has_computed:
            tokens = 0 if call.free else min(work.tokens, work.held_tokens)
            nano = cost_nano(tokens, candidate.nano_per_million) + hits_nano(call, gathered)
            if work.hold is not None:
                nano = min(nano, work.hold.nano)  # texts that were joined after the hold cost nothing beyond it
        else:
            tokens, nano = 0, await self._hold_hits(work, candidate, gathered)
        hold = work.hold
        charge = Charge(
            candidate,
            tokens=tokens,
            nano=nano,
            held_tokens=work.held_tokens if has_computed else 0,  # by this the ledger tells what counts as a request
            provider_tokens=work.told_tokens if has_computed else None,
            is_estimated=has_computed and work.told_tokens is None,
            cached=gathered.cached,
            pool=hold.pool if hold is not None else None,
            paid_by=candidate.choice.paid_by if has_computed else PLATFORM,
        )
        usage = usage_of(work.request, call, work.trace, "ok", charge)
        calls = tuple(work.trace.calls)
        try:
            await self._ledger.commit(usage, calls, call.claim_id)
        except (LedgerUnavailable, asyncio.CancelledError):
            if hold is not None:  # it may be committed all the same, and then what it charges is not free
                self._limits.leave(hold)
            raise
        if hold is not None:
            work.hold = None
            is_counted = has_computed and not call.free  # a request that cost nobody anything counts in no limit
            self._limits.settle(hold, tokens=tokens, nano=nano, requests=int(is_counted))
        self._share(work)
        self._observer.finished(call.snapshot.config.slug, usage, calls, work.trace.attempts)
        return Answer(
            candidate.choice.deployment,
            candidate.dimensions,
            gathered.vectors(),
            usage,
            work.trace.attempts,
            hold,
            gathered.failed,
            candidate.reason,
        )

    def _share(self, work: Work) -> None:
        """Gives what was paid for to those who wait for it, and to the cache."""
        names, vectors = list(work.fresh), list(work.fresh.values())
        if work.claim is not None:
            work.claim.resolve(names, vectors)
        settings = work.call.snapshot.config.settings
        if names and settings.cache_enabled and work.request.fills_cache:
            self._cache.put(names, vectors, settings.cache_ttl_s)

    def _note_failure(self, work: Work, code: str) -> None:
        usage = usage_of(work.request, work.call, work.trace, code)
        if work.trace.calls:  # a request that no provider saw leaves a metric and a log line, not a row
            self._ledger.note(usage, tuple(work.trace.calls))
        self._observer.finished(work.call.snapshot.config.slug, usage, work.trace.calls, work.trace.attempts)


def hits_nano(call: Call, gathered: Gathered, joined: Sequence[int] = ()) -> int:
    """What the tenant pays for what others, or earlier requests, computed; `joined`: the first of each text that
    another request is computing now."""
    settings = call.snapshot.config.settings
    if call.free or not (gathered.cached or joined) or not settings.cache_hit_cost_per_million_tokens:
        return 0
    names = {gathered.names[index] for index in joined}
    tokens = gathered.cached_tokens + gathered.tokens_of([i for i, n in enumerate(gathered.names) if n in names])
    return cost_nano(tokens, settings.hit_nano_per_million)


def _ask(call: Call, candidate: Candidate, limits: tuple[LimitTerms, ...], tokens: int, nano: int) -> HoldAsk:
    return HoldAsk(
        tenant_id=call.snapshot.config.tenant_id,
        request_id=call.request_id,
        created_ms=call.created_ms,
        model_id=candidate.choice.deployment.model_id,
        limits=limits,
        tokens=tokens,
        nano=nano,
    )
