"""What an address is: public, or not; a metadata service's, or not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.egress import NOTHING, Allowed, EgressRefused, check_addresses, checked_target, is_metadata, is_public

PRIVATE = [ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10")]
CARRIERS = (0xFFFF << 32, 0, 0x64FF9B << 96, 0x2002 << 112)  # mapped, compatible, NAT64; 6to4 is further left


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/a?b=c", "https://8.8.8.8/", "https://[2606:4700::1111]:8443"]
)
def test_what_is_on_the_internet_is_fine(url: str) -> None:
    assert checked_target(url).scheme == "https"


def test_an_address_is_taken_apart() -> None:
    target = checked_target("https://Hooks.Example.com.:8443/a/b?c=d")

    assert (target.host, target.port, target.path) == ("hooks.example.com", 8443, "/a/b?c=d")


@given(st.sampled_from(PRIVATE), st.integers(0, 2**24 - 1))
def test_nothing_private_is_public_under_whatever_wrapping(network: object, offset: int) -> None:
    inner = network[offset % network.num_addresses]  # type: ignore[index, attr-defined]

    assert not is_public(inner)
    for carrier in CARRIERS[:3]:
        assert not is_public(IPv6Address(carrier + int(inner)))
    assert not is_public(IPv6Address(CARRIERS[3] + (int(inner) << 80) + 1))
    with pytest.raises(EgressRefused):
        check_addresses([inner], "a.example.com")


@given(st.integers(0, 2**16 - 1))
def test_a_metadata_service_is_one_under_whatever_wrapping(last: int) -> None:
    inner = IPv4Address((169 << 24) + (254 << 16) + last)

    assert is_metadata(inner)
    for carrier in CARRIERS[:3]:
        assert is_metadata(IPv6Address(carrier + int(inner)))
    assert is_metadata(IPv6Address(CARRIERS[3] + (int(inner) << 80)))


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_of_ipv6_only_global_unicast_is_public(address: IPv6Address) -> None:
    assert not is_public(address) or int(address) >> 125 == 1


@given(st.text(max_size=60))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}/"):
        try:
            target = checked_target(url)
        except EgressRefused:
            continue
        assert target.host.isascii()
        assert target.port in (443, 8443)


def test_the_allow_list_takes_ranges_and_names_and_nothing_else() -> None:
    allowed = Allowed.of(["10.0.0.0/8", "Hooks.Corp"])

    assert checked_target("http://hooks.corp:9000/", allowed).port == 9000
    assert checked_target("http://10.1.2.3/", allowed).host == "10.1.2.3"
    check_addresses([IPv4Address("10.1.2.3")], "a.example.com", allowed)
    for entry in ("10.0.0.0/99", "a b", "http://x", ""):
        with pytest.raises(ValueError, match="neither a range"):
            Allowed.of([entry])
    with pytest.raises(EgressRefused):
        check_addresses([IPv4Address("10.1.2.3")], "a.example.com", NOTHING)
