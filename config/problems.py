"""What is answered where no view of ours is: unknown paths, refusals, defects. JSON below `/api/`, a page like the
admin's below `/admin/`, elsewhere Django's own.
"""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.defaults import page_not_found, permission_denied, server_error

from catalog.rest import problem_page
from core.errors import InternalError, NotFound


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem_page(request, NotFound("There is no such path; /api/docs lists those that exist."))
    if request.path.startswith("/admin/"):
        return _page(request, 404, "Not found", "There is no such page, or nothing on it that you may see.")
    return page_not_found(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/admin/"):
        return _page(
            request, 403, "Not allowed", "Your role does not permit this. The owner of your tenant can say why."
        )
    return permission_denied(request, exception)


def defect(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem_page(request, InternalError("This is a defect of Quiver's; the request id finds it in the log."))
    return server_error(request)


def _page(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    return render(
        request, "problem.html", admin.site.each_context(request) | {"title": title, "error": text}, status=status
    )
