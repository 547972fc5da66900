"""`manage.py prices --check`: what sources of prices disagree about, and where the catalogue differs from them.
`--update` does what beat does daily."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from catalog import prices
from catalog.price_sources import read_all
from catalog.pricing import Outcome, disagreements


class Command(BaseCommand):
    help = "Compares the catalogue's prices with the sources."

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--check", action="store_true", help="Print what differs; change nothing.")
        what.add_argument("--update", action="store_true", help="Take small changes, propose large ones.")

    def handle(self, *args: Any, **options: Any) -> None:
        quotes, _ = read_all(prices.sources())
        found, wrong = prices.update() if options["update"] else prices.check()
        for line in wrong:
            self.stderr.write(line)
        priced = [
            (each.vendor, each.identifier, each.source, each.usd_per_million)
            for each in quotes
            if each.usd_per_million is not None
        ]
        self.stdout.write("Sources that disagree, or cannot be meant:")
        for vendor, identifier, told in disagreements(priced):
            self.stdout.write(
                f"  {vendor}/{identifier}: {', '.join(f'{name} ${usd.normalize():f}' for name, usd in told)}"
            )
        self.stdout.write("Rows of the catalogue that differ:")
        for each in found:
            finding = each.finding
            if finding.outcome is Outcome.SAME:
                continue
            was = "unpriced" if finding.was is None else f"${finding.was.normalize():f}"
            said = f"${finding.usd.normalize():f}" if finding.usd is not None else "different things"
            self.stdout.write(f"  {each.row}: {was}, sources say {said} ({finding.outcome})")
