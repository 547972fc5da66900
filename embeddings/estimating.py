"""What a request would cost and who would answer it, without holding, sending or charging anything.

Owns the answer of `POST /v1/embeddings/estimate`. It rests on the same plan, cache, breakers and limits as the request
itself would, as they stand at this moment.

Failure: limits that cannot be read → 503 `limits_unavailable`; the cache away → nothing counts as cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from billing.holds import RATE_RESETS_S
from billing.limit_terms import HoldAsk, Refused, Standing
from billing.limits import LimitsPort
from billing.refusals import amount, refusal
from core.errors import QuiverError
from core.money import cost_nano, usd_text
from embeddings.answers import rfc3339
from embeddings.caller import Call
from embeddings.computing import Computing
from embeddings.explaining import described, shown_dropped
from embeddings.gateway import Gateway, hits_nano
from embeddings.requests import EmbeddingRequest
from embeddings.selection import Candidate, Dropped
from embeddings.work import Next, Work


class Estimates:
    def __init__(self, *, gateway: Gateway, computing: Computing, limits: LimitsPort) -> None:
        self._gateway = gateway
        self._computing = computing
        self._limits = limits

    async def estimate(self, request: EmbeddingRequest, call: Call) -> dict[str, Any]:
        """The first candidate with room in its limits speaks for tokens, cost and limits. Raises as selection does for
        a name that stands for nothing."""
        work, chain = await self._gateway.chain(request, call)
        dropped, candidates = list(chain.dropped), []
        for candidate in chain.candidates:
            try:
                self._computing.check(work, candidate)
                candidates.append(candidate)
            except Next as refused:
                dropped.append(Dropped(candidate.choice, refused.error.message, refused.error))
        shown: dict[str, Any] = {"tokens": None, "cost_usd": None, "cached": 0, "limits": []}
        for index, candidate in enumerate(tuple(candidates)):
            told, error = await self._stand(work, candidate)
            if index == 0 or error is None:  # the first speaks for all where nobody has room
                shown = told
            if error is None:
                break
            candidates.remove(candidate)
            dropped.append(Dropped(candidate.choice, error.message, error))
        return shown | {
            "candidates": [described(each) for each in candidates],
            "dropped": [shown_dropped(each) for each in dropped],
        }

    async def _stand(self, work: Work, candidate: Candidate) -> tuple[dict[str, Any], QuiverError | None]:
        """What this candidate would charge, how its limits stand, and what a hard one without room would say."""
        call = work.call
        gathered = await self._gateway.look_up(work, candidate, None)
        tokens = gathered.tokens_of(gathered.missing)
        nano = cost_nano(tokens, candidate.nano_per_million) + hits_nano(call, gathered)
        limits = call.snapshot.limits_for(candidate.choice, agent_id=call.agent_id, key=call.key)
        ask = HoldAsk(
            tenant_id=call.snapshot.config.tenant_id,
            request_id=call.request_id,
            created_ms=call.created_ms,
            model_id=candidate.choice.deployment.model_id,
            limits=limits,
            tokens=tokens,
            nano=nano,
        )
        stands = await self._limits.standing(ask) if limits else []
        needs = {"tokens": tokens, "usd": nano, "requests": 1}
        full = [each for each in stands if each.terms.is_hard and each.remaining < needs[each.terms.measure]]
        told = {"tokens": tokens, "cost_usd": usd_text(nano), "cached": gathered.cached}
        told["limits"] = [_shown(each) for each in stands]
        return told, _no_room(full[0], needs) if full and gathered.missing else None


def _no_room(standing: Standing, needs: Mapping[str, int]) -> QuiverError:
    terms, used = standing.terms, standing.used + standing.held
    wait_s = RATE_RESETS_S if terms.is_rate and needs[terms.measure] <= terms.amount else None
    return refusal(Refused(terms, used=used, resets_at=standing.resets_at, retry_after_s=wait_s))


def _shown(standing: Standing) -> dict[str, Any]:
    terms = standing.terms
    return {
        "scope": terms.scope,
        "kind": f"{terms.measure}_per_{terms.period}",
        "mode": terms.mode,
        "limit": amount(terms, terms.amount),
        "used": amount(terms, standing.used),
        "held": amount(terms, standing.held),
        "remaining": amount(terms, standing.remaining),
        "resets_at": rfc3339(standing.resets_at),
    }
