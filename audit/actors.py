"""Who acts, and from where. Set by whoever lets somebody in, read where a change is recorded.

A door gives a function, not a value: at the time it wraps a request nobody may be signed in yet, and finding out costs
a query that a request which changes nothing need not make. What nobody let in is the command that runs. Knows no
Django, no tenants and no keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    PERSON = "person"
    KEY = "key"
    AGENT = "agent"
    TASK = "task"
    COMMAND = "command"
    ANONYMOUS = "anonymous"  # somebody at a page for people who are not signed in


@dataclass(frozen=True, slots=True)
class Actor:
    """`id` finds them again, `display` says who they were to people when they are long gone."""

    kind: Kind
    id: str
    display: str
    address: str = ""  # of the network
    request_id: str = ""


_acting: ContextVar[Callable[[], Actor] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(who: Callable[[], Actor]) -> Iterator[None]:
    """What is changed within is the doing of whoever `who` says by then."""
    token = _acting.set(who)
    try:
        yield
    finally:
        _acting.reset(token)


def current() -> Actor:
    """Whoever acts."""
    return let_in() or _command()


def let_in() -> Actor | None:
    """The same, but None where no door let anybody in."""
    who = _acting.get()
    return None if who is None else who()


def to_message(actor: Actor) -> dict[str, str]:
    """As it travels with a task: the work is the doing of whoever asked for it."""
    return asdict(actor)


def from_message(told: Mapping[str, str]) -> Actor:
    """The same back."""
    return Actor(Kind(told["kind"]), told["id"], told["display"], told["address"], told["request_id"])


def _command() -> Actor:
    """The program without its arguments, which may be secrets: `manage.py prices`, `config.up.prepare`."""
    name = Path(sys.argv[0] or "python").name
    if name == "manage.py" and len(sys.argv) > 1:
        name = f"{name} {sys.argv[1]}"
    return Actor(Kind.COMMAND, name, name)
