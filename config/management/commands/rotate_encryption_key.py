"""`manage.py rotate_encryption_key`: seals every secret anew under the first of `QUIVER_ENCRYPTION_KEYS`.

`--new-key` prints a key to put there, `--check` only tells what is left. The way is in `docs/encryption.md`.
"""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from catalog.loading import sealer
from config.resealing import reseal, waiting


class Command(BaseCommand):
    help = "Seals every secret anew under the first of QUIVER_ENCRYPTION_KEYS, while the platform runs."

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--new-key", action="store_true", help="Print a new key, as id:base64; change nothing.")
        what.add_argument("--check", action="store_true", help="Fail while secrets are left that another key sealed.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["new_key"]:
            made = base64.b64encode(secrets.token_bytes(32)).decode()
            self.stdout.write(f"k{datetime.now(UTC):%Y%m%d%H%M%S}:{made}")
        elif options["check"]:
            self._check()
        else:
            self._rotate()

    def _check(self) -> None:
        left = {name: count for name, count in waiting(sealer()).items() if count}
        if left:
            told = ", ".join(f"{count} of {name}" for name, count in left.items())
            raise CommandError(f"Sealed by other keys than {sealer().writer}: {told}. Keep those keys.")
        self.stdout.write(f"Every secret is sealed by {sealer().writer}; other keys may be taken away.")

    def _rotate(self) -> None:
        found = reseal(sealer())
        self.stdout.write(f"{found.done} secrets were sealed anew by {sealer().writer}.")
        if found.broken:
            for line in found.broken:
                self.stderr.write(line)
            raise CommandError(f"{len(found.broken)} secrets do not open and were left. Keep all keys; see above.")
