"""Asks a model the questions of its validation, through its provider.

Owns the calls: within the provider's caps, a few at a time, the first credential. What is asked and what follows from
it is decided elsewhere. Calls a provider, so it never runs inside a transaction; the calls may be billed, at the
platform's cost.
Failure: whatever a provider does wrong is a reading that says so, never an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from catalog.deployments import Deployment
from catalog.validation import Question, Reading
from providers import registry
from providers.base import EmbedCall, Endpoint, EndpointRefused, InputType, Provider
from providers.failures import ProviderFailure
from providers.splitting import split_by_caps

TIMEOUT_S = 30.0  # for one call
AT_A_TIME = 8  # a model that takes one text a call is asked dozens of times


def ask(deployment: Deployment, questions: Sequence[Question]) -> list[Reading]:
    """One reading for each question. Once the first has failed the others are not asked."""
    if not deployment.endpoints:
        return [_unread(each, f"no credential was added for {deployment.provider} yet") for each in questions]
    try:
        return asyncio.run(_ask(deployment, deployment.endpoints[0], questions))
    except EndpointRefused as error:
        return [_unread(each, str(error)) for each in questions]


async def _ask(deployment: Deployment, endpoint: Endpoint, questions: Sequence[Question]) -> list[Reading]:
    provider = registry.build(endpoint)
    timeout_s = min(endpoint.timeout_s, TIMEOUT_S)
    readings: list[Reading] = []
    try:
        for question in questions:
            if readings and readings[0].vectors is None:
                readings.append(_unread(question, readings[0].failure))
            else:
                readings.append(await _read(provider, deployment, question, timeout_s))
    finally:
        await provider.close()
    return readings


async def _read(provider: Provider, deployment: Deployment, question: Question, timeout_s: float) -> Reading:
    width = question.dimensions or deployment.dimensions
    texts = [each.text for each in question.probes]
    slices = split_by_caps(
        [each.likely_tokens for each in question.probes],
        max_items=deployment.max_items,
        max_tokens=deployment.max_tokens_per_call,
    )
    turns = asyncio.Semaphore(AT_A_TIME)

    async def call(part: slice) -> tuple[object, int | None]:
        # An input type is always said: some vendors take no side without one, others take the query's.
        wanted = EmbedCall(deployment.identifier, texts[part], width, question.dimensions, InputType.DOCUMENT)
        async with turns:
            answer = await provider.embed(wanted, timeout_s=timeout_s)
        return answer.vectors, answer.tokens

    answers = await asyncio.gather(*(call(each) for each in slices), return_exceptions=True)
    parts, counts = [], []
    for answer in answers:
        if isinstance(answer, ProviderFailure):
            return _unread(question, f"{answer.kind.value}: {answer.detail}")
        if isinstance(answer, BaseException):
            raise answer
        parts.append(np.asarray(answer[0], dtype=np.float32))
        counts.append(answer[1])
    if len({each.shape[1:] for each in parts}) != 1:
        return _unread(question, "vectors of different widths")
    tokens = None if any(each is None for each in counts) else sum(each or 0 for each in counts)
    return Reading(question, np.concatenate(parts), tokens)


def _unread(question: Question, why: str) -> Reading:
    return Reading(question, None, failure=why)
