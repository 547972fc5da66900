"""`manage.py document`: writes the pages of `docs/` that are made from the code. `--check` only tells whether they
are in step."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.environment import Environment, variable
from core.errors import public_errors
from embeddings.methods import METHODS, Method

_MADE = "<!-- Made by `manage.py document`; do not edit. -->"


class Command(BaseCommand):
    help = "Writes docs/errors.md, docs/settings.md and docs/socket-methods.md."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="Write nothing; fail when a page is out of step.")

    def handle(self, *args: Any, **options: Any) -> None:
        docs = Path(settings.BASE_DIR) / "docs"
        for name, page in pages().items():
            path = docs / name
            if options["check"]:
                if not path.exists() or path.read_text() != page:
                    raise CommandError(f"docs/{name} is out of step; run manage.py document.")
            else:
                docs.mkdir(exist_ok=True)
                path.write_text(page)


def pages() -> dict[str, str]:
    """The generated pages by name."""
    return {"errors.md": _errors(), "settings.md": _settings(), "socket-methods.md": _methods()}


def _errors() -> str:
    rows = [
        f"| {error.status} | `{error.code}` | `{error.kind}` | {'yes' if error.retryable else 'no'} "
        f"| {' '.join(inspect.cleandoc(error.__doc__ or '').split())} |"
        for error in sorted(public_errors(), key=lambda each: (each.status, each.code))
    ]
    return "\n".join(
        [
            "# Errors",
            "",
            _MADE,
            "",
            '`/v1/*` answers `{"error": {message, type, code, param, request_id}}`, `/api/v1/*` answers',
            "`application/problem+json`. The `code` is stable; match on it, not on the message.",
            "",
            "| status | code | type | may be retried | means |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _settings() -> str:
    rows = [
        f"| `{variable(name)}` | {_default(field)} | {field.description or ''} |"
        for name, field in Environment.model_fields.items()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            _MADE,
            "",
            "Quiver reads its environment at start and refuses nonsense, all of it in one message. Every variable may",
            "come from a file instead: `NAME_FILE=/path`.",
            "",
            "| variable | default | means |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _methods() -> str:
    rows = [
        f"| `{each.name}`{' *' if each.is_long else ''} | {each.number or ''} | {_parameters(each)} | {each.does} "
        f"| `{each.answers}` | {' or '.join(f'`{scope}`' for scope in each.scopes) or 'none'} |"
        for each in METHODS.values()
    ]
    return "\n".join(
        [
            "# Methods of agents' sockets",
            "",
            _MADE,
            "",
            "What `/ws/v1/agents` answers; how it is asked is [sockets.md](sockets.md). A parameter with a `?` may be",
            "left out. A method with a number is there in binary frames too. Those with a * are answered as they get",
            "ready and count among the requests in flight, all others in the order in which they came.",
            "",
            "| method | number | parameters | does | answers | scope |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _parameters(method: Method) -> str:
    names = [f"`{f.name}`" if f.required else f"`{f.name}?`" for f in msgspec.structs.fields(method.params)]
    return ", ".join(names) or "none"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    shown = ",".join(field.default) if isinstance(field.default, list) else str(field.default)
    return f"`{shown}`" if shown else "empty"
