"""Sessions in the database, found by a digest of their key: whoever reads the table signs in as nobody.

The key is what a browser's cookie holds, 32 random letters; the first 160 bits of its SHA-256 find the row.
"""

from __future__ import annotations

import hashlib
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends import db
from django.utils import timezone


class SessionStore(db.SessionStore):
    """Django's, with another name for its rows."""

    def _get_session_from_db(self) -> Any:
        rows = self.model.objects.filter(session_key=_row_of(self.session_key), expire_date__gt=timezone.now())
        found = rows.first()
        if found is None:
            self._session_key = None
        return found

    def exists(self, session_key: str) -> bool:
        return super().exists(_row_of(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        row = super().create_model_instance(data)
        row.session_key = _row_of(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(_row_of(key))

    async def _aget_session_from_db(self) -> Any:
        return await sync_to_async(self._get_session_from_db)()

    async def aexists(self, session_key: str) -> bool:
        return await super().aexists(_row_of(session_key))

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        row = await super().acreate_model_instance(data)
        row.session_key = _row_of(row.session_key)
        return row

    async def adelete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            await super().adelete(_row_of(key))


def _row_of(key: str | None) -> str:
    return hashlib.sha256((key or "").encode()).hexdigest()[:40]
