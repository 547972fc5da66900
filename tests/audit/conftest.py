"""A catalogue with a vendor that answers, and only one price table."""

from __future__ import annotations

from tests.admin.conftest import mailbox
from tests.catalog.conftest import openai, table, vendor

__all__ = ["mailbox", "openai", "table", "vendor"]
