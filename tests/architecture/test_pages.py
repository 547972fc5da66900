"""The pages made from the code are in step with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from config.environment import Environment, variable
from config.management.commands.document import pages
from core.errors import public_errors


def test_docs_are_in_step() -> None:
    call_command("document", "--check")


def test_a_page_out_of_step_is_told(tmp_path: Path, settings: Any) -> None:
    settings.BASE_DIR = tmp_path
    with pytest.raises(CommandError, match="is out of step"):
        call_command("document", "--check")
    call_command("document")
    call_command("document", "--check")


def test_every_error_and_every_setting_is_explained() -> None:
    made = pages()
    for error in public_errors():
        assert f"`{error.code}`" in made["errors.md"]
        assert error.__doc__, f"{error.__name__} says nothing about itself"
    for name, field in Environment.model_fields.items():
        assert f"`{variable(name)}`" in made["settings.md"]
        assert field.description, f"{name} says nothing about itself"
