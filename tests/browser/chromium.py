"""The system's own Chromium, or the reason why there is none.

`QUIVER_TEST_CHROMIUM` names its program, `QUIVER_TEST_REQUIRE_BROWSER=1` makes a failure of what would be skipped, and
`QUIVER_TEST_SCREENSHOTS` names a folder for pictures of all pages.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def program() -> str:
    """Chromium's path; without one the test is skipped, or fails where it must not be."""
    named = os.environ.get("QUIVER_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        reason = f"no Chromium: none of {', '.join(_NAMES)} is on the path, nor is QUIVER_TEST_CHROMIUM set"
        (pytest.fail if os.environ.get("QUIVER_TEST_REQUIRE_BROWSER") == "1" else pytest.skip)(reason)
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A fresh one, with a folder of its own that goes with it."""
    path = program()
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # the sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """What a page says on its console, throws, or fails to load; that the page itself says no is none."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):  # told by the answer
            self.found.append(message.text)

    def _answered(self, answer: Response) -> None:
        if answer.status >= 400 and not answer.request.is_navigation_request():
            self.found.append(f"{answer.status} {answer.url}")

    def take(self) -> list[str]:
        """Those since the last look."""
        found, self.found = self.found, []
        return found


def picture(page: Page, name: str) -> None:
    """A picture of the whole page, where a folder is named for it."""
    folder = os.environ.get("QUIVER_TEST_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def name_of(url: str) -> str:
    """A page's address as a file's name: ids become `id`."""
    plain = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=/)\d+(?=/)", "id", url.strip("/"))
    return re.sub(r"[^\w]+", "-", plain)


def settled(page: Page, url: str) -> Any:
    """Opens a page and waits until it has nothing more to do."""
    return page.goto(url, wait_until="networkidle")
