"""The methods of agents' sockets, all of them: name, parameters, who may call it, its number in binary frames. Pure.

`docs/socket-methods.md` is made from this table. What a method does is `socket_agents.py`, `socket_embeddings.py` and
`socket_reading.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from core.errors import InvalidRequest, KeyNotPermitted
from embeddings import messages
from embeddings.messages import Params
from tenants.scopes import Scope, allows
from tenants.snapshots import KeyGrant


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    params: type[Params]
    does: str
    answers: str
    number: int | None = None  # None: in text frames only
    scopes: tuple[Scope, ...] = (Scope.EMBEDDINGS,)  # any of them
    is_long: bool = False  # answered out of order, and counted among those in flight
    needs_agent: bool = False  # registered on this socket


_TABLE = (
    Method(
        "session.authenticate",
        messages.Authenticate,
        "Says who is there, where neither a header nor a subprotocol did; within ten seconds.",
        "{tenant, key_id, scopes}",
        scopes=(),
    ),
    Method(
        "agent.register",
        messages.Register,
        "Introduces an agent, with what it prefers; an older socket of the same agent is closed with 4409.",
        "{agent_id, session_id, resumed, limits, event_id}",
        number=66,
    ),
    Method(
        "agent.heartbeat",
        messages.Heartbeat,
        "Says that the agent is there; any other frame does as well.",
        "{agent_id, status, at}",
        number=67,
        needs_agent=True,
    ),
    Method(
        "agent.update",
        messages.Update,
        "Changes preferences (all of them at once) or status.",
        "{agent_id, status, preferences}",
        needs_agent=True,
    ),
    Method(
        "agent.list",
        messages.ListAgents,
        "The tenant's agents by id, and which of them are connected.",
        "{agents: [{agent_id, agent_type, name, version, capabilities, status, connected, last_seen_at}], next}",
        is_long=True,
    ),
    Method(
        "embedding.generate",
        messages.Generate,
        "Embeds one text or several.",
        "{data or vectors, dimensions, count, model, usage, quiver}",
        number=64,
        is_long=True,
    ),
    Method(
        "embedding.batch",
        messages.Batch,
        "Embeds many, each with an id and wishes of its own; `embedding.progress` tells how far it is.",
        "{items: [{id, result} or {id, error}], completed, failed}",
        number=65,
        is_long=True,
    ),
    Method(
        "embedding.cancel",
        messages.Cancel,
        "Gives a request up by its id or sequence; what was sent to a provider is paid for, and cached.",
        "{id, cancelled}",
    ),
    Method(
        "embedding.estimate",
        messages.Generate,
        "What a request would cost and who would answer it; calls nobody.",
        "{tokens, cost_usd, cached, candidates, dropped, limits}",
        is_long=True,
    ),
    Method(
        "models.list",
        messages.Nothing,
        "The models that the key may use.",
        "{object, data}",
        scopes=(Scope.EMBEDDINGS, Scope.MODELS_READ),
    ),
    Method(
        "usage.get",
        messages.Usage,
        "What the agent used in the last hour, day, week or month; where there is none, what the key used.",
        "{agent_id, period, start_time, end_time, total_tokens, total_requests, total_cost, by_model}",
        is_long=True,
    ),
    Method(
        "quota.get",
        messages.Nothing,
        "How the limits stand that apply to this socket's requests.",
        "{limits: [{scope, scope_id, measure, period, mode, limit, used, held, remaining, resets_at}]}",
        is_long=True,
    ),
    Method("subscribe", messages.Topics, "Asks for news of these topics.", "{topics}"),
    Method("unsubscribe", messages.Topics, "Wants no more news of these topics.", "{topics}"),
    Method("ping", messages.Nothing, "Nothing.", "{pong}", number=8),
)
METHODS: Mapping[str, Method] = {each.name: each for each in _TABLE}
BY_NUMBER: Mapping[int, Method] = {each.number: each for each in _TABLE if each.number is not None}
_JSON = {each.name: msgspec.json.Decoder(each.params) for each in _TABLE}
_MSGPACK = {each.name: msgspec.msgpack.Decoder(each.params) for each in _TABLE}


def decode(method: Method, params: bytes | msgspec.Raw, *, is_binary: bool) -> Params:
    """Raises `InvalidRequest` and its kin, naming the parameter."""
    decoders = _MSGPACK if is_binary else _JSON
    try:
        found: Params = decoders[method.name].decode(params)
    except msgspec.ValidationError as error:
        raise messages.refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"`params` cannot be read: {error}", param="params") from None
    return found


def check_scope(method: Method, key: KeyGrant) -> None:
    """Raises `KeyNotPermitted`."""
    if method.scopes and not any(allows(key.scopes, each) for each in method.scopes):
        raise KeyNotPermitted(f"This key lacks the scope `{method.scopes[0]}`.")
