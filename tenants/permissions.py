"""What a key may do in the control plane: each view names the scope for reading and the one for writing.

A view that names none cannot be called at all; a test walks all routes for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from core.errors import KeyNotPermitted
from tenants.authentication import caller
from tenants.scopes import Scope, allows

if TYPE_CHECKING:
    from rest_framework.views import APIView  # at run time a cycle: it imports the classes that the settings name


class HasScope(BasePermission):
    """Compares the key's scopes with the view's `read_scope` or `write_scope`."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        # Names, not members: the catalogue's views lie below this app.
        wanted = Scope(view.read_scope if request.method in SAFE_METHODS else view.write_scope)  # type: ignore[attr-defined]
        if not allows(caller(request).grant.scopes, wanted):
            raise KeyNotPermitted(f"This key lacks the scope {wanted.value}.")
        return True
