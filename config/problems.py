"""What is answered where no view of ours is: unknown paths and defects. JSON below `/api/`, else Django's pages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.defaults import page_not_found, server_error

from catalog.rest import problem_page
from core.errors import InternalError, NotFound


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem_page(request, NotFound("There is no such path; /api/docs lists those that exist."))
    return page_not_found(request, exception)


def defect(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem_page(request, InternalError("This is a defect of Quiver's; the request id finds it in the log."))
    return server_error(request)
