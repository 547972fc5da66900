"""Routes of the control plane. Data-plane paths never come here: `config/asgi.py` takes them first."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
