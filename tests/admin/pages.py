"""Reads the admin's pages the way a browser does: links, forms, and what their fields hold."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.test import Client
from django.urls import reverse

_SEEN_BY_BROWSERS = re.compile(
    r"""\s(?:href|action|data-ajax--url|data-poll)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
)


def links_of(url: str, text: str) -> set[str]:
    """The addresses below /admin/ that a page names in its tags."""
    found = {html.unescape("".join(each)) for each in _SEEN_BY_BROWSERS.findall(text)}
    targets = [urlsplit(urljoin(url, each)) for each in found]
    return {each._replace(fragment="").geturl() for each in targets if each.path.startswith("/admin/")}


class Page(HTMLParser):
    """`links` are the addresses below /admin/ that the page names, `fields` what its last form would send."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__()
        self.url, self.text = url, text
        self.links = links_of(url, text)
        self.fields: dict[str, Any] = {}
        self._select = self._area = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        {"form": self._form, "input": self._input, "textarea": self._text, "select": self._choice}.get(
            tag, self._option if tag == "option" else lambda has: None
        )(has)

    def handle_endtag(self, tag: str) -> None:
        self._area = "" if tag == "textarea" else self._area

    def handle_data(self, data: str) -> None:
        self.fields |= {self._area: data.removeprefix("\n")} if self._area else {}

    def _form(self, has: dict[str, str]) -> None:
        self.fields = {}

    def _input(self, has: dict[str, str]) -> None:
        is_ticked = has.get("type") not in ("checkbox", "radio") or "checked" in has
        is_sent = is_ticked and has.get("type") != "submit" and "name" in has
        self.fields |= {has["name"]: has.get("value", "on" if has.get("type") == "checkbox" else "")} if is_sent else {}

    def _text(self, has: dict[str, str]) -> None:
        self._area = has.get("name", "")

    def _choice(self, has: dict[str, str]) -> None:
        self._select = has.get("name", "")

    def _option(self, has: dict[str, str]) -> None:
        self.fields |= {self._select: has["value"]} if "selected" in has else {}


def page(name: str, *keys: Any) -> str:
    """The address of one of the admin's pages."""
    return reverse(f"admin:{name}", args=keys)


def kept(client: Any) -> str:
    """All that outlives an answer in this browser and its session."""
    return repr(dict(client.session.items())) + repr(dict(client.cookies.items()))


def read(client: Client, url: str) -> Page:
    """A page that must open."""
    answer = client.get(url)
    assert answer.status_code == 200, (url, answer.status_code)
    return Page(url, answer.content.decode())


def fill(client: Client, url: str, **changes: Any) -> Any:
    """Opens a form, changes these fields and sends all of it; `None` leaves a field out."""
    sent = read(client, url).fields | changes
    return client.post(url, {name: value for name, value in sent.items() if value is not None})
