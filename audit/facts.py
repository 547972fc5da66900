"""What is written down of a row, before and after: never a secret, never more than has changed.

Decides by names what a secret is, whoever made up the name: a column, a setting, a key in an agent's metadata. A text
that is one of our own API keys is left out wherever it stands. Digests and sealed texts count as secrets as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from django.db import models

HIDDEN = "(hidden)"
MOST_LETTERS = 1000
_SECRET_WORDS = frozenset(
    {"secret", "secrets", "password", "passwd", "passphrase", "credentials", "authorization", "cookie", "cookies"}
    | {"digest", "sealed"}
)
_SECRET_ENDS = ("token", "key", "account")  # `session_token`, `api_key`, `service_account`; not `max_tokens`
# Named so, but only words: what a limit or an alert is about, and ids of rows.
_HARMLESS = frozenset({"subject_key", "scope", "key", "idempotency"})
_OWN_KEY = re.compile(r"qv_(?:live|test)_[A-Za-z0-9]+_[A-Za-z0-9]+(?:_[A-Za-z0-9]+)?")
# Change by themselves, or say nothing that `created_at` and the action do not.
_UNTOLD = frozenset({"created_at", "updated_at", "version", "last_login", "last_seen_at", "last_used_at"})

Facts = Mapping[str, Any]


def facts(row: models.Model) -> dict[str, Any]:
    """A row's columns, as they are now, without secrets."""
    fields = (each for each in row._meta.concrete_fields if not isinstance(each, models.BinaryField))
    names = [each.attname for each in fields if each.attname not in _UNTOLD and not is_secret(each.attname)]
    return {name: deepcopy(getattr(row, name)) for name in names}  # a list may be changed where it is


def difference(before: Facts | None, after: Facts | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What differs, for both sides as it may be stored; where there is one side, all of that."""
    if before is None or after is None:
        return _told(before), _told(after)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return (
        _told({name: before[name] for name in names if name in before}),
        _told({name: after[name] for name in names if name in after}),
    )


def is_secret(name: str) -> bool:
    """Whether what is called so must not be written down."""
    if name.lower() in _HARMLESS:
        return False
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return bool(_SECRET_WORDS.intersection(words)) or words[-1] in _SECRET_ENDS or "apikey" in words


def _told(side: Facts | None) -> dict[str, Any] | None:
    return None if side is None else {name: _shown(name, value) for name, value in side.items()}


def _shown(name: str, value: Any) -> Any:
    if is_secret(name) and value not in (None, "", [], {}):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(inner): _shown(str(inner), each) for inner, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        each_of = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_shown("", each) for each in each_of]
    if isinstance(value, str):
        return _OWN_KEY.sub(HIDDEN, value)[:MOST_LETTERS]
    return value
