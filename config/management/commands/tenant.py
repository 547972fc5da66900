"""`manage.py tenant export SLUG > acme.jsonl` writes out all that is kept of a tenant; `manage.py tenant erase SLUG
--confirm SLUG` erases it, once it has been suspended for a while. Rules are in `embeddings.erasing`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.errors import QuiverError
from embeddings import erasing
from tenants.selectors import find_tenant_by_slug


class Command(BaseCommand):
    help = "Writes out or erases a tenant."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=["export", "erase"])
        parser.add_argument("slug")
        parser.add_argument("--confirm", default="", help="The slug once more; needed to erase.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            tenant = find_tenant_by_slug(options["slug"])
            if options["what"] == "export":
                for line in erasing.begin_export(tenant.id):
                    self.stdout.write(line, ending="")
                return
            erasing.ask_erasure(tenant_id=tenant.id, slug=options["confirm"])
            erasing.erase(tenant.id)
        except QuiverError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{options['slug']} was erased; its usage is kept with its amounts.")
