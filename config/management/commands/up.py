"""`manage.py up`, for whoever calls it through Django; `config.up` does it all.

`manage.py` itself goes there directly, before settings are read: `up` makes the environment that they are read from.
"""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from config.up.supervisor import main


class Command(BaseCommand):
    """Starts the whole platform on this machine."""

    help = "Starts the whole platform on this machine: PostgreSQL, Redis, web, worker, beat."
    requires_system_checks = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Leaves the arguments to `config.up`, which has its own."""
        sys.exit(main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs with the default arguments."""
        sys.exit(main([]))
