"""`/api/v1/tenants/{id}/export` and `/erase`: doors for the platform's operator. Rules are in `embeddings.erasing`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from uuid import UUID

from django.db import connection, transaction
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from catalog.rest import StrictFields
from embeddings import erasing, tasks
from tenants.selectors import find_tenant

_LINES = 500  # sent together


class ExportTenant(APIView):
    """All that is kept of a tenant."""

    read_scope = write_scope = "operator"

    @extend_schema(
        summary="Write out a tenant",
        description="A line of JSON for each row, `{table, row}`, as it was at one moment; secrets are left out.",
        responses={(200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    def get(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        tenant = find_tenant(pk)
        lines = erasing.begin_export(pk)
        response = StreamingHttpResponse(_streamed(lines), content_type="application/x-ndjson")
        response["Content-Disposition"] = f'attachment; filename="{tenant.slug}.jsonl"'
        response["Cache-Control"] = "no-store"
        return response


class Confirmation(StrictFields):
    slug = serializers.CharField(help_text="Of the tenant, as a confirmation.")


class EraseTenant(APIView):
    """Erases a tenant for good."""

    read_scope = write_scope = "operator"

    @extend_schema(
        summary="Erase a tenant",
        description="Of a tenant that has been suspended for a while. Its usage stays with amounts, times and models; "
        "everything else goes, and the people who belong nowhere else. A worker does it: the tenant is a 404 when it "
        "is done. It cannot be undone.",
        request=Confirmation,
        responses={202: None},
        examples=[OpenApiExample("Acme", {"slug": "acme"}, request_only=True)],
    )
    def post(self, request: Request, pk: UUID) -> Response:
        fields = Confirmation(data=request.data)
        fields.is_valid(raise_exception=True)
        erasing.ask_erasure(tenant_id=pk, slug=fields.validated_data["slug"])
        transaction.on_commit(lambda: tasks.erase_tenant.delay(str(pk)))
        return Response(status=202)


async def _streamed(lines: Iterator[str]) -> AsyncIterator[str]:
    """Read in one thread of its own, whose connection and transaction last as long as somebody listens."""
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, thread_name_prefix="export")
    try:
        while part := await loop.run_in_executor(thread, _part, lines):
            yield part
    finally:
        thread.submit(_end, lines)
        thread.shutdown(wait=False)


def _part(lines: Iterator[str]) -> str:
    return "".join(islice(lines, _LINES))


def _end(lines: Iterator[str]) -> None:
    lines.close()  # type: ignore[attr-defined]  # a generator: leaves its transaction
    connection.close()
