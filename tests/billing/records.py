"""Rows for the ledger, as the gateway would make them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from billing.ledger import CallRecord, UsageRecord
from core.clock import unix_ms
from core.ids import uuid7_text

TENANT = UUID(int=1)


def usage(**words: Any) -> UsageRecord:
    """One request of two tokens for 40 nano-dollars."""
    created_ms = unix_ms()
    facts: dict[str, Any] = {
        "id": uuid7_text(created_ms),
        "created_ms": created_ms,
        "tenant_id": TENANT,
        "key_id": UUID(int=2),
        "agent_id": "",
        "model_id": UUID(int=3),
        "model": "small",
        "provider": "openai",
        "space": "small",
        "dimensions": 4,
        "items": 1,
        "cached": 0,
        "tokens": 2,
        "held_tokens": 2,
        "provider_tokens": 2,
        "estimated": False,
        "cost_nano": 40,
        "source": "api",
        "status": "ok",
        "task_type": "",
        "latency_ms": 1.5,
        "provider_latency_ms": 1.25,
        "attempts": 1,
    }
    return UsageRecord(**{**facts, **words})


def provider_call(of: UsageRecord, **words: Any) -> CallRecord:
    """The call that this request made."""
    facts: dict[str, Any] = {
        "id": uuid7_text(of.created_ms),
        "created_ms": of.created_ms,
        "tenant_id": of.tenant_id,
        "request_id": of.id,
        "model_id": UUID(int=3),
        "model": of.model,
        "provider": of.provider,
        "credential_id": "c1",
        "items": 1,
        "tokens": 2,
        "outcome": "ok",
        "status": None,
        "detail": "",
        "upstream_id": "up-1",
        "latency_ms": 1.25,
    }
    return CallRecord(**{**facts, **words})
