"""How modules are allowed to know each other, and how large they get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("core", "providers", "audit", "catalog", "tenants", "alerts", "billing", "embeddings", "config")
MODULES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts and path.name != "__init__.py"
)
IDS = [str(path.relative_to(ROOT)) for path in MODULES]
VAGUE = {"utils", "helpers", "common", "misc", "manager", "managers", "base_utils"}
# Only these write rows of tenants and catalogue; doors call them.
DOORS = [path for path in MODULES if path.name in ("api.py", "admin.py", "tasks.py") or path.parent.name == "api"]
WRITES = {"save", "bulk_create", "bulk_update", "update_or_create", "get_or_create", "create", "update", "delete"}


def test_imports_point_downwards() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_stays_small_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    assert path.stem not in VAGUE
    is_small = text.count("\n") < 15 or path.name == "apps.py"
    assert is_small or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", DOORS, ids=[str(path.relative_to(ROOT)) for path in DOORS])
def test_a_door_writes_no_rows(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    written = [
        ast.unparse(each)
        for each in calls
        if isinstance(each, ast.Attribute) and each.attr in WRITES and "objects" in ast.unparse(each)
    ]
    assert written == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_nothing_hangs_on_post_save(path: Path) -> None:
    assert not re.search(r"\bpost_save\b", path.read_text())
