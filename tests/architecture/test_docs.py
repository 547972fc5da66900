"""What the docs name exists: paths, commands, settings, endpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.urls import Resolver404, resolve

from config.environment import Environment, variable

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FOLDERS = (
    "alerts|audit|bin|benchmarks|billing|catalog|config|core|docs|embeddings|examples|providers|tenants|tests"
    "|templates|deploy"
)
NOT_DJANGOS = ("/api/v1", "/api/v1/embeddings", "/api/v1/embeddings/estimate")
SEGMENT = re.compile(r"\{\w+\}")


def named(pattern: str) -> list[tuple[str, str]]:
    """Every match in the docs, with its page."""
    return sorted({(p.name, m) for p in PAGES for m in re.findall(pattern, p.read_text(encoding="utf-8"))})


def leads_somewhere(path: str) -> bool:
    """Whether Django has a route for it."""
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


@pytest.mark.parametrize(("page", "path"), named(rf"`((?:{FOLDERS})/[\w./-]*\w)`"))
def test_paths_exist(page: str, path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("page", "name"), named(r"\b(QUIVER_[A-Z_]+[A-Z])\b"))
def test_settings_exist(page: str, name: str) -> None:
    assert name.removesuffix("_FILE") in {variable(field) for field in Environment.model_fields}


@pytest.mark.parametrize(("page", "module"), named(r"python -m ([\w.]+)"))
def test_modules_exist(page: str, module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize(("page", "path"), named(r"[`0](/(?:api/v1|api|admin)/[\w{}/.-]*[\w}])"))
def test_endpoints_exist(page: str, path: str) -> None:
    concrete = SEGMENT.sub("00000000-0000-4000-8000-000000000000", path)
    assert concrete in NOT_DJANGOS or leads_somewhere(concrete) or leads_somewhere(f"{concrete}/")


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "docs" and "Boundaries" in p.read_text()])
def test_an_apps_page_ends_in_its_boundaries(page: Path) -> None:
    last = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)[-1]
    assert last == "Boundaries"
