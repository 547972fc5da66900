"""Tells Django which admin site is ours; apart from `config.apps`, where it would be taken for this app's own."""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig


class QuiverAdminConfig(AdminConfig):
    default_site = "config.admin_site.QuiverAdminSite"
