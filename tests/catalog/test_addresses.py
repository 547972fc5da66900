"""Which addresses an operator may give a provider."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from catalog.addresses import check_base_url
from core.errors import InvalidRequest


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "http://127.0.0.1:8000/v1",
        "http://10.1.2.3/v1",
        "http://[fd12::1]:9000",
        "http://vllm:8000/v1",
        "http://not-resolvable.invalid/v1",
    ],
)
def test_public_and_private_addresses_are_fine(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://169.254.170.2/v2",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://metadata.google.internal/",
        "http://METADATA.google.internal./",
        "http://x.metadata.google.internal/",
        "http://metadata/",
    ],
)
def test_metadata_services_are_not_under_any_notation(url: str) -> None:
    with pytest.raises(InvalidRequest, match="metadata") as refused:
        check_base_url(url)
    assert refused.value.param == "base_url"


def test_a_name_that_leads_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: Any, **options: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 443)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(InvalidRequest):
        check_base_url("https://innocent.example/v1")


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com",
        "file:///etc/passwd",
        "gopher://host/",
        "https://",
        "https://user@host/",
        "https://host/?a=b",
        "https://host/#f",
        "https://host:99999/",
        "https://[::1",
        "https://ho st/",
        "https://höst/",
        "https://host/\r\nX: y",
    ],
)
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_base_url(url)
