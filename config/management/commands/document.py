"""`manage.py document`: writes the pages of `docs/` that are made from the code. `--check` only tells whether they
are in step."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.environment import Environment, variable
from core.errors import public_errors

_MADE = "<!-- Made by `manage.py document`; do not edit. -->"


class Command(BaseCommand):
    help = "Writes docs/errors.md and docs/settings.md."
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
    return {"errors.md": _errors(), "settings.md": _settings()}


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


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    shown = ",".join(field.default) if isinstance(field.default, list) else str(field.default)
    return f"`{shown}`" if shown else "empty"
