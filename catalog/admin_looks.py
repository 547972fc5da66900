"""How values look in the admin: money, moments, words in a row. Owns no rule and reads no row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil

from core.clock import utc_now

NOTHING = "–"
# State → colour of unfold's labels.
TONES: Mapping[str, str] = {
    "available": "success",
    "enabled": "success",
    "active": "success",
    "open": "success",
    "ok": "success",
    "testing": "info",
    "configured": "info",
    "quota exceeded": "danger",
    "accepted": "info",
    "rotating out": "warning",
    "deprecated": "warning",
    "unavailable": "danger",
    "suspended": "danger",
    "deactivated": "danger",
    "failed": "danger",
    "hard": "danger",
    "soft": "warning",
    "shadow": "info",
    "owner": "primary",
}


def money(amount: Decimal | None) -> str:
    """`$0.02`, never fewer than two places and never rounded."""
    if amount is None:
        return NOTHING
    exact = f"{amount.normalize():,f}"
    whole, _, part = exact.partition(".")
    return f"${whole}.{part.ljust(2, '0')}"


def per_million(amount: Decimal | None) -> str:
    """A price, in words."""
    if amount is None:
        return "unpriced"
    return "free" if amount == 0 else money(amount)


def when(moment: datetime | None) -> str | SafeString:
    """`3 minutes ago` or `in 2 days`, with the exact moment on hovering."""
    if moment is None:
        return NOTHING
    now = utc_now()
    if abs(moment - now) < timedelta(minutes=1):
        text = "just now" if moment <= now else "in a moment"
        return _time(moment, text)
    # The largest unit alone: a list is skimmed.
    text = f"{timesince(moment, now, depth=1)} ago" if moment <= now else f"in {timeuntil(moment, now, depth=1)}"
    return _time(moment, text)


def _time(moment: datetime, text: str) -> SafeString:
    return format_html(
        '<time class="whitespace-nowrap" datetime="{}" title="{} UTC">{}</time>',
        moment.isoformat(),
        moment.strftime("%Y-%m-%d %H:%M:%S"),
        text,
    )


def code(text: object) -> SafeString | str:
    """An id or a prefix, to be compared and copied."""
    return format_html('<code class="text-xs whitespace-nowrap">{}</code>', text) if text else NOTHING


def short(text: object) -> SafeString:
    """The end of a long id, which tells it from its neighbours in a list; the whole of it shows under the pointer."""
    return format_html('<code class="text-xs whitespace-nowrap" title="{}">…{}</code>', text, str(text)[-12:])


def words(found: Iterable[object]) -> SafeString | str:
    """Each on its own, wrapping where there is no room."""
    return format_html_join(" ", '<code class="text-xs inline-block mr-1">{}</code>', ((each,) for each in found)) or (
        NOTHING
    )


def table(heads: Iterable[str], rows: Iterable[Iterable[object]], *, empty: str) -> SafeString:
    """A small table inside a form; it scrolls by itself on a narrow screen."""
    cells = [
        format_html_join("", '<td class="px-3 py-2 whitespace-nowrap">{}</td>', ((each,) for each in row))
        for row in rows
    ]
    if not cells:
        return format_html('<p class="text-font-subtle-light dark:text-font-subtle-dark">{}</p>', empty)
    return format_html(
        '<div class="overflow-x-auto w-full" style="contain: inline-size"><table class="w-full text-sm">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        format_html_join("", '<th class="px-3 py-2 text-left font-semibold">{}</th>', ((each,) for each in heads)),
        format_html_join(
            "", '<tr class="border-t border-base-200 dark:border-base-800">{}</tr>', ((each,) for each in cells)
        ),
    )
