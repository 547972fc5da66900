"""The admin in a browser: every page signs in, loads, complains of nothing, and fits a telephone, light and dark."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Page

from tests.admin.world import addresses
from tests.browser import scene
from tests.browser.chromium import Complaints, chromium, name_of, picture, settled

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Signed out of, answered with a download, or asked by scripts.
_NO_PAGES = ("/admin/logout/", "/admin/jsi18n/", "/admin/search/", "/admin/autocomplete/", "/admin/login/")


def pages_of(email: str) -> list[str]:
    """The addresses that show this person a page: of each kind one, and of those that say no one as well."""
    from tenants.models import User

    client = Client()
    client.force_login(User.objects.get(email=email))
    tried = sorted(url for url in set(addresses(scene.rows())) if url not in _NO_PAGES)
    answers = {url: client.get(url) for url in tried}
    shown = {
        u for u, a in answers.items() if a.status_code == 200 and a.headers["Content-Type"].startswith("text/html")
    }
    refused = [url for url, answer in answers.items() if answer.status_code == 403]
    return sorted({*shown, *refused[:1]})


def sign_in(page: Page, address: str, email: str, password: str) -> None:
    settled(page, f"{address}/admin/login/")
    page.fill("input[name=username]", email)
    page.fill("input[name=password]", password)
    with page.expect_navigation():
        page.press("input[name=password]", "Enter")
    page.wait_for_load_state("networkidle")
    assert page.url == f"{address}/admin/", page.inner_text("body")


def show(page: Page, scheme: str) -> None:
    """In this colour scheme, as the switch of the frame does it: a page looks at the system's when it is loaded."""
    page.evaluate("isDark => document.documentElement.classList.toggle('dark', isDark)", scheme == "dark")


def told(troubles: list[tuple[str, object]]) -> str:
    return "\n".join(f"{url}: {trouble}" for url, trouble in troubles)


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide


@pytest.mark.parametrize("who", ["operator", "owner"])
def test_every_page_loads_and_fits_in_light_and_dark(live_server: Any, who: str) -> None:
    said = scene.furnish()
    accounts = {
        "operator": (said["admin_email"], said["admin_password"]),
        "owner": (said["owner_email"], said["owner_password"]),
    }
    urls = pages_of(accounts[who][0])
    troubles: list[tuple[str, object]] = []
    with chromium() as browser:
        page = browser.new_page(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
        complaints = Complaints(page)
        sign_in(page, live_server.url, *accounts[who])
        troubles += [("signing in", each) for each in complaints.take()]
        for url in urls:
            settled(page, live_server.url + url)
            for size in (WIDE, NARROW):
                page.set_viewport_size(size)
                for scheme in ("light", "dark"):
                    show(page, scheme)
                    picture(page, f"{who}-{name_of(url)}-{size['width']}-{scheme}")
                troubles += [(url, f"{each} px too wide at {size['width']}") for each in [overflow(page)] if each > 0]
            page.set_viewport_size(WIDE)
            troubles += [(url, each) for each in complaints.take()]
    assert len(urls) > 20
    assert not troubles, told(troubles)


def test_who_is_signed_out_sees_pages_that_fit(live_server: Any) -> None:
    troubles: list[tuple[str, object]] = []
    with chromium() as browser:
        page = browser.new_page(viewport=NARROW, color_scheme="light", reduced_motion="reduce")
        complaints = Complaints(page)
        for url in ("/admin/login/", "/admin/password_reset/", "/invitations/gone"):
            settled(page, live_server.url + url)
            for scheme in ("light", "dark"):
                show(page, scheme)
                picture(page, f"nobody-{name_of(url)}-390-{scheme}")
            troubles += [(url, each) for each in [*complaints.take(), *filter(None, [overflow(page)])]]
    assert not troubles, told(troubles)
